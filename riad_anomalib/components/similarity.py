"""Similarity of an image and its reconstruction: gradients, GMS, MSGMS, SSIM ([RIAD] Sec. 3.2, [GMSD], [SSIM])."""

import torch
from kornia.metrics import ssim
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

# CHOICE [RIAD] Eq. 4: the paper gives no c; this is that of [GMSD], 170 for [0, 255], for images in [0, 1].
GMS_CONSTANT = 170 / 255**2
NUM_SCALES = 4
"""Scales of MSGMS: the image and its 1/2, 1/4 and 1/8 ([RIAD] Sec. 3.2)."""

# Keeps the derivative of the square root finite where an image is flat; 1e-6 is far below one grey level (4e-3).
_TINY = 1e-12


def ssim_per_channel(image: Tensor, reconstruction: Tensor) -> Tensor:
    """Return the SSIM map of [SSIM] per channel, kornia's: Gaussian window of 11, sigma 1.5, reflected border.

    Args:
        image: Batch in [0, 1], ``(N, C, H, W)``, H and W at least 6.
        reconstruction: Batch in [0, 1], ``(N, C, H, W)``.

    Returns:
        Similarity in [-1, 1], ``(N, C, H, W)``.
    """
    # kornia before 0.9, the last for Python 3.10, would convolve in the lower precision.
    with torch.autocast(image.device.type, enabled=False):
        similarity: Tensor = ssim(image, reconstruction, window_size=11, max_val=1.0, eps=0.0)
    return similarity


def gradient_magnitude(image: Tensor) -> Tensor:
    """Return the Prewitt gradient magnitude g(I) = sqrt((I * h_x)^2 + (I * h_y)^2) per channel ([RIAD] Eq. 3).

    Convention: filter entries are ±1/3 as in [GMSD]; the border is replicated, so a flat image has no edge at its
    border; the derivative is finite (zero) where the image is flat.

    Args:
        image: Batch, ``(N, C, H, W)``.

    Returns:
        Magnitudes in [0, sqrt(2)] for an image in [0, 1], ``(N, C, H, W)``.

    Example:
        An edge from black to white is seen from both of its sides:

        >>> edge = torch.tensor([0.0, 0.0, 0.0, 1.0, 1.0]).expand(1, 1, 3, 5)
        >>> gradient_magnitude(edge)[0, 0, 0].round(decimals=3)
        tensor([0., 0., 1., 1., 0.])
    """
    # CHOICE [RIAD] Eq. 3: colour and border are left open; every channel by itself, the outermost pixels repeated.
    padded = F.pad(image, (1, 1, 1, 1), mode="replicate")  # (N, C, H+2, W+2)
    # Sums and differences instead of a convolution: the same numbers, and autocast leaves them in float32.
    down = padded[..., :-2, :] + padded[..., 1:-1, :] + padded[..., 2:, :]  # (N, C, H, W+2)
    across = padded[..., :-2] + padded[..., 1:-1] + padded[..., 2:]  # (N, C, H+2, W)
    horizontal = (down[..., 2:] - down[..., :-2]) / 3
    vertical = (across[..., 2:, :] - across[..., :-2, :]) / 3
    return (horizontal.square() + vertical.square() + _TINY).sqrt()


def gms(image: Tensor, reconstruction: Tensor) -> Tensor:
    """Return the gradient magnitude similarity (2 g g_r + c) / (g^2 + g_r^2 + c) per pixel and channel ([RIAD] Eq. 4).

    Args:
        image: Batch in [0, 1], ``(N, C, H, W)``.
        reconstruction: Batch in [0, 1], ``(N, C, H, W)``.

    Returns:
        Similarity in (0, 1], 1 where the gradients agree, ``(N, C, H, W)``.

    Example:
        An edge that the reconstruction lacks, and one that is merely fainter in it:

        >>> edge = torch.tensor([0.0, 0.0, 0.0, 1.0, 1.0]).expand(1, 1, 3, 5)
        >>> gms(edge, torch.zeros_like(edge))[0, 0, 0].round(decimals=3)
        tensor([1.0000, 1.0000, 0.0030, 0.0030, 1.0000])
        >>> gms(edge, 0.8 * edge)[0, 0, 0].round(decimals=3)
        tensor([1.0000, 1.0000, 0.9760, 0.9760, 1.0000])
    """
    g, g_r = gradient_magnitude(image), gradient_magnitude(reconstruction)
    return (2 * g * g_r + GMS_CONSTANT) / (g.square() + g_r.square() + GMS_CONSTANT)


def gms_pyramid(image: Tensor, reconstruction: Tensor) -> list[Tensor]:
    """Return the GMS at each scale of a 2x2 average pooling pyramid ([RIAD] Sec. 3.2).

    Args:
        image: Batch in [0, 1], ``(N, C, H, W)``, H and W multiples of 8.
        reconstruction: Batch in [0, 1], ``(N, C, H, W)``.

    Returns:
        Similarities in (0, 1] on each scale's own grid, ``(N, C, H/2^l, W/2^l)`` for l = 0 to 3.

    Example:
        >>> image = torch.rand(1, 3, 16, 24)
        >>> [tuple(similarity.shape) for similarity in gms_pyramid(image, image)]
        [(1, 3, 16, 24), (1, 3, 8, 12), (1, 3, 4, 6), (1, 3, 2, 3)]
    """
    similarities = [gms(image, reconstruction)]
    for _ in range(NUM_SCALES - 1):
        image, reconstruction = F.avg_pool2d(image, 2), F.avg_pool2d(reconstruction, 2)
        similarities.append(gms(image, reconstruction))
    return similarities


def msgms_map(image: Tensor, reconstruction: Tensor) -> Tensor:
    """Return the multi-scale GMS map: the scales' GMS brought to full size and averaged ([RIAD] Sec. 3.4).

    Convention: mean over channels; bilinear upsampling.

    Args:
        image: Batch in [0, 1], ``(N, C, H, W)``, H and W multiples of 8.
        reconstruction: Batch in [0, 1], ``(N, C, H, W)``.

    Returns:
        Similarity in (0, 1], ``(N, 1, H, W)``.
    """
    # CHOICE [RIAD] Sec. 3.4: how to upsample is left open; bilinear, and the mean over channels.
    per_scale = [
        F.interpolate(similarity.mean(dim=1, keepdim=True), size=image.shape[-2:], mode="bilinear")  # (N, 1, H, W)
        for similarity in gms_pyramid(image, reconstruction)
    ]
    return torch.stack(per_scale).mean(dim=0)


def msgms_grey_map(image: Tensor, reconstruction: Tensor) -> Tensor:
    """Return the multi-scale GMS map of grey images: what colour alone tells apart does not count.

    Convention: grey is the mean over channels; otherwise as :func:`msgms_map`.

    Args:
        image: Batch in [0, 1], ``(N, C, H, W)``, H and W multiples of 8.
        reconstruction: Batch in [0, 1], ``(N, C, H, W)``.

    Returns:
        Similarity in (0, 1], ``(N, 1, H, W)``.
    """
    return msgms_map(image.mean(dim=1, keepdim=True), reconstruction.mean(dim=1, keepdim=True))


def ssim_map(image: Tensor, reconstruction: Tensor) -> Tensor:
    """Return the SSIM map of [SSIM], for RIAD_SSIM ([RIAD] Table 6).

    Convention: mean over channels.

    Args:
        image: Batch in [0, 1], ``(N, C, H, W)``, H and W at least 6.
        reconstruction: Batch in [0, 1], ``(N, C, H, W)``.

    Returns:
        Similarity in [-1, 1], ``(N, 1, H, W)``.
    """
    return ssim_per_channel(image, reconstruction).mean(dim=1, keepdim=True)


def absolute_map(image: Tensor, reconstruction: Tensor) -> Tensor:
    """Return 1 minus the absolute difference, mean over channels; not of the papers (docs/video.md).

    Args:
        image: Batch in [0, 1], ``(N, C, H, W)``.
        reconstruction: Batch in [0, 1], ``(N, C, H, W)``.

    Returns:
        Similarity in [0, 1], ``(N, 1, H, W)``.
    """
    return 1 - (image - reconstruction).abs().mean(dim=1, keepdim=True)


def ssim_difference(image: Tensor, reconstruction: Tensor) -> Tensor:
    """Return (1 - SSIM) / 2, mean over channels ([I3AD] Sec. 2.3, [SSAE] Sec. 4.1).

    Args:
        image: Batch in [0, 1], ``(N, C, H, W)``, H and W at least 6.
        reconstruction: Batch in [0, 1], ``(N, C, H, W)``.

    Returns:
        Difference in [0, 1], 0 where window and window agree, ``(N, 1, H, W)``.
    """
    # DEVIATES [I3AD] Sec. 2.3: the paper calls SSIM itself an anomaly score and removes where it exceeds a threshold;
    # what grows with damage must be meant.
    return (1 - ssim_map(image, reconstruction)) / 2


def squared_difference(image: Tensor, reconstruction: Tensor) -> Tensor:
    """Return the squared difference, mean over channels ([I3AD] Sec. 3, [SSAE] Eq. 2).

    Args:
        image: Batch in [0, 1], ``(N, C, H, W)``.
        reconstruction: Batch in [0, 1], ``(N, C, H, W)``.

    Returns:
        Difference in [0, 1], ``(N, 1, H, W)``.
    """
    return (image - reconstruction).square().mean(dim=1, keepdim=True)
