"""Similarity of an image and its reconstruction: gradients, GMS, MSGMS, SSIM ([RIAD] Sec. 3.2, [GMSD], [SSIM])."""

from collections.abc import Callable

import torch
from kornia.filters import get_gaussian_kernel1d
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

# CHOICE [RIAD] Eq. 4: the paper gives no c; this is that of [GMSD], 170 for [0, 255], for images in [0, 1].
GMS_CONSTANT = 170 / 255**2
NUM_SCALES = 4
"""Scales of MSGMS: the image and its 1/2, 1/4 and 1/8 ([RIAD] Sec. 3.2)."""

# Keeps the derivative of the square root finite where an image is flat; 1e-6 is far below one grey level (4e-3).
_TINY = 1e-12

Moments = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From values ``(N, C, H, W)`` to their mean and variance over SSIM's window, of the same shape."""


# kornia's window and border: a Gaussian of 11 pixels, sigma 1.5 ([SSIM]), mirrored without the last pixel.
_SIDE = 5
_WINDOW = get_gaussian_kernel1d(2 * _SIDE + 1, 1.5, dtype=torch.float64)[0].tolist()
_C1, _C2 = 0.01**2, 0.03**2


def _mirrored(values: Tensor, dim: int) -> Tensor:
    """Return values with five more on each side; slices, because CUDA's reflection padding is not deterministic."""
    before, after = values.narrow(dim, 1, _SIDE), values.narrow(dim, -1 - _SIDE, _SIDE)
    return torch.cat([before.flip(dim), values, after.flip(dim)], dim)


def _convolved(values: Tensor) -> Tensor:
    """Return the mean over the window by two convolutions, ``(N, C, H, W)``."""
    window = values.new_tensor(_WINDOW)
    lines = values.flatten(0, 1).unsqueeze(1)  # (N*C, 1, H, W)
    lines = F.conv2d(_mirrored(lines, -1), window.view(1, 1, 1, -1))
    return F.conv2d(_mirrored(lines, -2), window.view(1, 1, -1, 1)).view_as(values)


def _means_and_variances(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and variance over the window, for training."""
    mean, mean_square = _convolved(torch.cat([values, values.square()])).chunk(2)
    return mean, mean_square - mean.square()


def _line(values: Tensor, dim: int, variance: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return mean and variance over a line of the window: of what its pixels differ from the one in the middle.

    With that pixel's weight of 0.27 in it, the difference of the two moments loses two bits at most.

    Args:
        values: Values, ``(N, C, H, W)``.
        dim: In which the line lies.
        variance: Where values are means, the variance of what each is the mean of.
    """
    size, padded = values.shape[dim], _mirrored(values, dim)
    own = None if variance is None else _mirrored(variance, dim)
    mean = square = values.new_zeros(())
    for tap, weight in enumerate(_WINDOW[:_SIDE]):  # the window is symmetric: a weight is of two neighbours
        first, second = tap, 2 * _SIDE - tap
        before, after = padded.narrow(dim, first, size) - values, padded.narrow(dim, second, size) - values
        squares = before.square() + after.square()
        if own is not None:
            squares = squares + (own.narrow(dim, first, size) + own.narrow(dim, second, size))
        mean, square = mean + weight * (before + after), square + weight * squares
    if variance is not None:
        square = square + _WINDOW[_SIDE] * variance
    return values + mean, square - mean.square()


def _exact_means_and_variances(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and variance over the window, in arithmetic that half precision leaves nearly as it is.

    The variance is the mean of the rows' variances plus the variance of the rows' means. E[x^2] - E[x]^2 would cancel:
    in bfloat16 its error on a bright surface is above the formula's constant. Slices and sums instead of convolutions,
    whose weights compression would round, and whose input OpenVINO rounds to bfloat16; it keeps in float32 what comes
    after the last of them.
    """
    row_mean, row_variance = _line(values, -1)
    return _line(row_mean, -2, row_variance)


def _one_minus_ssim_per_channel(image: Tensor, reconstruction: Tensor, moments: Moments) -> Tensor:
    """Return 1 - SSIM per channel, ``(N, C, H, W)``.

    SSIM is a product of (2 m n + c1) / (m^2 + n^2 + c1), with m and n the means, and (2 cov + c2) / (v + w + c2), with
    v and w the variances. With means and variances of sum and difference, each factor is 1 minus something that is 0
    where window and window agree, in every precision; and there are four moments instead of five.
    """
    # The sum is shifted to around 0 and then to where it was: float32 has twice the steps there. Both go through the
    # window as one: an export has half as many nodes, and each round of I3AD's has all of them.
    means, variances = moments(torch.cat([image + reconstruction - 1, image - reconstruction], dim=1))
    mean_sum, mean_difference = means.chunk(2, dim=1)
    sum_variance, difference_variance = variances.chunk(2, dim=1)
    squared_means = ((mean_sum + 1).square() + mean_difference.square()) / 2  # m^2 + n^2
    both_variances = (sum_variance + difference_variance) / 2  # v + w
    brightness = mean_difference.square() / (squared_means + _C1)
    structure = difference_variance / (both_variances + _C2)
    return brightness + structure - brightness * structure


def ssim_per_channel(image: Tensor, reconstruction: Tensor) -> Tensor:
    """Return the SSIM map of [SSIM] per channel, kornia's, for training: fast, and exact in float32 alone.

    Convention: Gaussian window of 11, sigma 1.5, mirrored border.

    Args:
        image: Batch in [0, 1], ``(N, C, H, W)``, H and W at least 6.
        reconstruction: Batch in [0, 1], ``(N, C, H, W)``.

    Returns:
        Similarity in [-1, 1], ``(N, C, H, W)``.
    """
    with torch.autocast(image.device.type, enabled=False):
        return 1 - _one_minus_ssim_per_channel(image, reconstruction, _means_and_variances)


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
    # Sums and differences instead of a convolution: the same numbers, and autocast leaves them in float32. Differences
    # first: half precision has no small ones between sums.
    right = padded[..., 2:] - padded[..., :-2]  # (N, C, H+2, W)
    below = padded[..., 2:, :] - padded[..., :-2, :]  # (N, C, H, W+2)
    horizontal = (right[..., :-2, :] + right[..., 1:-1, :] + right[..., 2:, :]) / 3
    vertical = (below[..., :-2] + below[..., 1:-1] + below[..., 2:]) / 3
    return (horizontal.square() + vertical.square() + _TINY).sqrt()


def gms_difference(image: Tensor, reconstruction: Tensor) -> Tensor:
    """Return 1 - GMS, (g - g_r)^2 / (g^2 + g_r^2 + c), per pixel and channel ([RIAD] Eq. 4).

    Convention: written so that half precision, which has few steps below 1, keeps small differences.

    Args:
        image: Batch in [0, 1], ``(N, C, H, W)``.
        reconstruction: Batch in [0, 1], ``(N, C, H, W)``.

    Returns:
        Difference in [0, 1), 0 where the gradients agree, ``(N, C, H, W)``.
    """
    g, g_r = gradient_magnitude(image), gradient_magnitude(reconstruction)
    return (g - g_r).square() / (g.square() + g_r.square() + GMS_CONSTANT)


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
    return 1 - gms_difference(image, reconstruction)


def gms_difference_pyramid(image: Tensor, reconstruction: Tensor) -> list[Tensor]:
    """Return 1 - GMS at each scale of a 2x2 average pooling pyramid ([RIAD] Sec. 3.2).

    Args:
        image: Batch in [0, 1], ``(N, C, H, W)``, H and W multiples of 8.
        reconstruction: Batch in [0, 1], ``(N, C, H, W)``.

    Returns:
        Differences in [0, 1) on each scale's own grid, ``(N, C, H/2^l, W/2^l)`` for l = 0 to 3.

    Example:
        >>> image = torch.rand(1, 3, 16, 24)
        >>> [tuple(difference.shape) for difference in gms_difference_pyramid(image, image)]
        [(1, 3, 16, 24), (1, 3, 8, 12), (1, 3, 4, 6), (1, 3, 2, 3)]
    """
    differences = [gms_difference(image, reconstruction)]
    for _ in range(NUM_SCALES - 1):
        image, reconstruction = F.avg_pool2d(image, 2), F.avg_pool2d(reconstruction, 2)
        differences.append(gms_difference(image, reconstruction))
    return differences


def msgms_difference(image: Tensor, reconstruction: Tensor) -> Tensor:
    """Return 1 - MSGMS: the scales' 1 - GMS brought to full size and averaged ([RIAD] Sec. 3.4).

    Convention: mean over channels; bilinear upsampling.

    Args:
        image: Batch in [0, 1], ``(N, C, H, W)``, H and W multiples of 8.
        reconstruction: Batch in [0, 1], ``(N, C, H, W)``.

    Returns:
        Difference in [0, 1), ``(N, 1, H, W)``.
    """
    # CHOICE [RIAD] Sec. 3.4: how to upsample is left open; bilinear, and the mean over channels.
    per_scale = [
        F.interpolate(difference.mean(dim=1, keepdim=True), size=image.shape[-2:], mode="bilinear")  # (N, 1, H, W)
        for difference in gms_difference_pyramid(image, reconstruction)
    ]
    return torch.stack(per_scale).mean(dim=0)


def msgms_grey_difference(image: Tensor, reconstruction: Tensor) -> Tensor:
    """Return 1 - MSGMS of grey images: what colour alone tells apart does not count.

    Convention: grey is the mean over channels; otherwise as :func:`msgms_difference`.

    Args:
        image: Batch in [0, 1], ``(N, C, H, W)``, H and W multiples of 8.
        reconstruction: Batch in [0, 1], ``(N, C, H, W)``.

    Returns:
        Difference in [0, 1), ``(N, 1, H, W)``.
    """
    return msgms_difference(image.mean(dim=1, keepdim=True), reconstruction.mean(dim=1, keepdim=True))


def one_minus_ssim(image: Tensor, reconstruction: Tensor) -> Tensor:
    """Return 1 - SSIM of [SSIM], for RIAD_SSIM ([RIAD] Table 6).

    Convention: window and border as :func:`ssim_per_channel`; mean over channels; half precision costs little.

    Args:
        image: Batch in [0, 1], ``(N, C, H, W)``, H and W at least 6.
        reconstruction: Batch in [0, 1], ``(N, C, H, W)``.

    Returns:
        Difference in [0, 2], 0 where window and window agree, ``(N, 1, H, W)``.
    """
    per_channel = _one_minus_ssim_per_channel(image, reconstruction, _exact_means_and_variances)
    return per_channel.mean(dim=1, keepdim=True)


def absolute_difference(image: Tensor, reconstruction: Tensor) -> Tensor:
    """Return the absolute difference, mean over channels; not of the papers (docs/video.md).

    Args:
        image: Batch in [0, 1], ``(N, C, H, W)``.
        reconstruction: Batch in [0, 1], ``(N, C, H, W)``.

    Returns:
        Difference in [0, 1], ``(N, 1, H, W)``.
    """
    return (image - reconstruction).abs().mean(dim=1, keepdim=True)


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
    return one_minus_ssim(image, reconstruction) / 2


def squared_difference(image: Tensor, reconstruction: Tensor) -> Tensor:
    """Return the squared difference, mean over channels ([I3AD] Sec. 3, [SSAE] Eq. 2).

    Args:
        image: Batch in [0, 1], ``(N, C, H, W)``.
        reconstruction: Batch in [0, 1], ``(N, C, H, W)``.

    Returns:
        Difference in [0, 1], ``(N, 1, H, W)``.
    """
    return (image - reconstruction).square().mean(dim=1, keepdim=True)
