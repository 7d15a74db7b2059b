"""Normal images with parts replaced, which a network learns to repair, and how they vary ([SSAE] Secs. 3.2, 4.1, 4.3).

A corrupted image shows some *content* through soft *patches*: ellipses with an uneven edge. All is drawn from torch's
global generator of the image's device, and every step is one operation on the whole batch.

Pixel (r, c) lies at row r and column c. Lengths are shares of an image's shorter side, so that a corruption looks the
same at every size.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from .arguments import check_choice, finite_number, whole_number

CORRUPTIONS = ("elastic", "occlusion", "rotation", "zeros")
AUGMENTATIONS = ("none", "flips", "dihedral")

# CHOICE [SSAE] Sec. 3.2: sizes and strengths are left open. These are so strong that a deformation often folds.
PATCH_SIZE = (0.03, 0.2)
"""Least and greatest half-axis of an ellipse; its logarithm is uniform."""
DISPLACEMENT = (0.02, 0.09)
"""Least and greatest root mean square of an elastic deformation, along each axis; uniform."""
SMOOTHNESS = (0.012, 0.047)
"""Least and greatest standard deviation of the Gaussian that smooths noise; its logarithm is uniform."""
NOISE_STEP = 4
"""Pixels from one drawn value of the noise to the next."""
EDGE_WIDTH = 0.3
"""Share of an ellipse's radius over which it fades out."""
EDGE_NOISE = 0.2
"""Standard deviation of the noise that makes the edge uneven, as a share of the radius."""
EDGE_SMOOTHNESS = 0.05
"""Standard deviation of the Gaussian that smooths this noise."""

# CHOICE [SSAE] Sec. 4.3: "several shapes" and random turns.
OCCLUSION_SHAPES = 3
COLOUR_NOISE = 0.2
TURN = (10.0, 180.0)
"""Least and greatest angle in degrees, either way; uniform."""
TURN_GAIN = 10.0
"""A pixel that a turn changes by a tenth of the range or more counts as replaced."""


def check_corruptions(
    corruptions: Sequence[str],
    num_patches: int,
    brightness: float,
    *,
    patch_size: Sequence[float] = PATCH_SIZE,
    displacement: Sequence[float] = DISPLACEMENT,
) -> None:
    """Refuse what :func:`corrupt` cannot work with; it has the same arguments.

    Raises:
        ValueError: If a value is outside its range.
    """
    if isinstance(corruptions, str) or any(name not in CORRUPTIONS for name in corruptions):
        msg = f"corruptions is {corruptions!r}: it must be a list of names out of {list(CORRUPTIONS)}"
        raise ValueError(msg)
    if len(set(corruptions)) < len(corruptions):
        msg = f"corruptions {list(corruptions)} names one twice: list every corruption once"
        raise ValueError(msg)
    if not set(corruptions) - {"rotation"}:
        msg = (
            f"corruptions is {list(corruptions)}: give at least one of 'elastic', 'occlusion' and 'zeros'; "
            "'rotation' turns what they have corrupted"
        )
        raise ValueError(msg)
    if whole_number("num_patches", num_patches) < 1:
        msg = f"num_patches is {num_patches}: it must be at least 1, or nothing would be corrupted"
        raise ValueError(msg)
    if not 0 <= finite_number("brightness", brightness) <= 1:
        msg = f"brightness is {brightness}: it must be in [0, 1], the range of the images"
        raise ValueError(msg)
    for name, limits in (("patch_size", patch_size), ("displacement", displacement)):
        if len(limits) != 2 or not 0 < finite_number(name, limits[0]) <= finite_number(name, limits[1]):  # noqa: PLR2004
            msg = f"{name} is {limits}: it must be two positive shares of the image's side, the smaller one first"
            raise ValueError(msg)


def check_augmentation(augmentation: str, image_size: tuple[int, int], corruptions: Sequence[str] = ()) -> None:
    """Refuse an augmentation that does not exist, or fits neither the images nor how they are corrupted.

    Raises:
        ValueError: If it does not fit.
    """
    check_choice("augmentation", augmentation, AUGMENTATIONS)
    height, width = image_size
    if augmentation == "dihedral" and height != width:
        msg = (
            f"augmentation 'dihedral' turns images by 90 degrees, but they are {height}x{width}: "
            "make them square, or choose 'flips'"
        )
        raise ValueError(msg)
    if augmentation == "dihedral" and "rotation" in corruptions:
        msg = (
            "augmentation 'dihedral' teaches that turned images are normal, corruption 'rotation' that they are not: "
            "drop one of them"
        )
        raise ValueError(msg)


def check_turns(corruptions: Sequence[str], degrees: float) -> None:
    """Refuse turns of normal images that ``"rotation"`` teaches to be anomalies.

    Raises:
        ValueError: If normal images are turned as far.
    """
    if "rotation" in corruptions and degrees >= TURN[0]:
        msg = (
            f"variation's degrees is {degrees}, so that images turned as far are normal, but corruption 'rotation' "
            f"teaches that turns from {TURN[0]:g} degrees on are not: give less, or drop one of them"
        )
        raise ValueError(msg)


def corrupt(
    image: Tensor,
    corruptions: Sequence[str],
    num_patches: int,
    brightness: float,
    *,
    patch_size: Sequence[float] = PATCH_SIZE,
    displacement: Sequence[float] = DISPLACEMENT,
) -> tuple[Tensor, Tensor]:
    """Replace parts of each image: M * T + (1 - M) * X, with content T and patches M ([SSAE] Fig. 5).

    Convention: every image gets one of ``elastic``, ``occlusion`` and ``zeros``, all that are given being equally
    likely; ``rotation`` then turns half of the images. Float32 or better inside, also under autocast. Small patches may
    miss every pixel, large ones cover everything.

    Args:
        image: Normal images X in [0, 1], ``(N, C, H, W)``.
        corruptions: Out of :data:`CORRUPTIONS`, at least one besides ``rotation``.
        num_patches: Most patches of an image, at least 1; how many is drawn. An occluded image has three.
        brightness: Greatest change of a deformed patch's brightness, in [0, 1].
        patch_size: Least and greatest half-axis of a patch, as shares of the shorter side.
        displacement: Least and greatest strength of an elastic deformation, as shares of the shorter side.

    Returns:
        Corrupted images in [0, 1], ``(N, C, H, W)``, and how much of each pixel is replaced, ``(N, 1, H, W)`` in
        [0, 1]: at 0 a pixel has exactly the image's own value.
    """
    kinds = [kind for kind in corruptions if kind != "rotation"]
    with torch.autocast(image.device.type, enabled=False):
        clean = image.to(torch.promote_types(image.dtype, torch.float32))
        kind = torch.randint(len(kinds), (len(image),), device=image.device)
        count = torch.randint(1, num_patches + 1, (len(image),), device=image.device)
        if "occlusion" in kinds:
            count = torch.where(kind == kinds.index("occlusion"), OCCLUSION_SHAPES, count)
            num_patches = max(num_patches, OCCLUSION_SHAPES)
        noise = _noise(clean)
        patches = _patches(clean, noise[:, 2:], num_patches, patch_size)
        patches = patches * (torch.arange(num_patches, device=image.device) < count[:, None])[..., None, None]
        replaced = patches.amax(dim=1, keepdim=True)
        content = {
            "elastic": lambda: _deformed(clean, noise[:, :2], displacement) + _brightness(patches, brightness),
            "occlusion": lambda: _foreign(clean, noise[:, :1]),
            "zeros": lambda: torch.zeros_like(clean),
        }
        contents = torch.stack([content[name]() for name in kinds])  # (K, N, C, H, W)
        chosen = contents[kind, torch.arange(len(image), device=image.device)].clamp(0, 1)
        # DEVIATES [SSAE] Sec. 3.2: the paper cuts a patch out, deforms it and pastes it; this deforms the whole image
        # and shows it through the patch, so that nothing is missing at the patch's border. lerp is exact at 0 and 1.
        corrupted = torch.lerp(clean, chosen, replaced)
        if "rotation" in corruptions:
            corrupted, replaced = _turn_some(clean, corrupted, replaced)
    return corrupted.to(image.dtype), replaced.to(image.dtype)


def _uniform(like: Tensor, limits: Sequence[float], *size: int) -> Tensor:
    """Draw numbers between limits, with the device and dtype of a tensor."""
    low, high = limits
    return torch.rand(size, device=like.device, dtype=like.dtype) * (high - low) + low


def _log_uniform(like: Tensor, limits: Sequence[float], *size: int) -> Tensor:
    """Draw positive numbers between limits whose logarithm is uniform."""
    low, high = limits
    return low * (high / low) ** torch.rand(size, device=like.device, dtype=like.dtype)


def _coin(like: Tensor, *size: int) -> Tensor:
    """Draw True or False, equally likely."""
    return torch.rand(size, device=like.device) < 0.5  # noqa: PLR2004


def _noise(image: Tensor) -> Tensor:
    """Draw smooth noise of variance 1: two planes of a smoothness drawn per image, one for edges, ``(N, 3, H, W)``."""
    batch_size, _, height, width = image.shape
    rows, columns = -(-height // NOISE_STEP), -(-width // NOISE_STEP)
    noise = torch.randn(batch_size, 3, rows, columns, device=image.device, dtype=image.dtype)
    smoothness = _log_uniform(image, SMOOTHNESS, batch_size, 1)
    smoothness = torch.cat([smoothness, smoothness, torch.full_like(smoothness, EDGE_SMOOTHNESS)], dim=1)
    return smooth(noise, (height, width), smoothness * min(height, width))


def smooth(noise: Tensor, image_size: tuple[int, int], sigma: Tensor) -> Tensor:
    """Spread white noise over pixels with a Gaussian, the values lying evenly on the image.

    Convention: where white noise has variance 1, so has every pixel, at the border too. Half the distance of two values
    is the least standard deviation that is used; below it, pixels between them would be of one value alone.

    Args:
        noise: Independent values, ``(N, C, h, w)``.
        image_size: Height and width of the result.
        sigma: Standard deviations of the Gaussian in pixels, ``(N, C)``.

    Returns:
        Smooth noise, ``(N, C, H, W)``.
    """

    def weights(side: int, number: int) -> Tensor:
        step = side / number
        pixel = torch.arange(side, device=noise.device, dtype=noise.dtype)
        place = (torch.arange(number, device=noise.device, dtype=noise.dtype) + 0.5) * step - 0.5
        distance = (pixel[:, None] - place) / sigma.clamp(min=step / 2)[..., None, None]  # (N, C, side, number)
        gaussian = torch.exp(-(distance**2) / 2)
        return F.normalize(gaussian, dim=-1)

    # A Gaussian is separable: two products of small matrices, where a filter would need a kernel for each image.
    return weights(image_size[0], noise.shape[-2]) @ noise @ weights(image_size[1], noise.shape[-1]).mT


def _patches(image: Tensor, edge: Tensor, num_patches: int, patch_size: Sequence[float]) -> Tensor:
    """Draw ellipses of any place, size and direction, ``(N, P, H, W)``."""
    height, width = image.shape[-2:]
    number = len(image), num_patches
    centre = _uniform(image, (0, 1), *number, 2) * torch.tensor([height, width], device=image.device) - 0.5
    half_axes = _log_uniform(image, patch_size, *number, 2) * min(height, width)
    return soft_ellipses(centre, half_axes, _uniform(image, (0, torch.pi), *number), edge)


def soft_ellipses(centre: Tensor, half_axes: Tensor, angle: Tensor, edge: Tensor) -> Tensor:
    """Return ellipses that fade out smoothly towards their edge, where they are 0.

    Convention: ``edge`` adds to the elliptic radius, which is 0 in the centre and 1 on the edge, and the smoothstep
    3t^2 - 2t^3 fades.

    Args:
        centre: Row and column, ``(N, P, 2)``.
        half_axes: Along ``angle`` and across, in pixels, ``(N, P, 2)``.
        angle: From the direction of the rows to that of the columns, in radians, ``(N, P)``.
        edge: Noise of variance 1, ``(N, 1, H, W)``.

    Returns:
        Patches in [0, 1], ``(N, P, H, W)``.
    """
    height, width = edge.shape[-2:]
    row = torch.arange(height, device=edge.device, dtype=edge.dtype)[:, None] - centre[..., 0, None, None]
    column = torch.arange(width, device=edge.device, dtype=edge.dtype) - centre[..., 1, None, None]
    cos, sin = angle.cos()[..., None, None], angle.sin()[..., None, None]
    along = (row * cos + column * sin) / half_axes[..., 0, None, None]  # (N, P, H, W)
    across = (column * cos - row * sin) / half_axes[..., 1, None, None]
    radius = torch.hypot(along, across) + EDGE_NOISE * edge
    inside = ((1 - radius) / EDGE_WIDTH).clamp(0, 1)
    return inside**2 * (3 - 2 * inside)


def _deformed(image: Tensor, noise: Tensor, displacement: Sequence[float]) -> Tensor:
    """Return images under an elastic deformation, each of a strength of its own."""
    strength = _uniform(image, displacement, len(image), 1, 1, 1) * min(image.shape[-2:])
    return displace(image, strength * noise)


def displace(image: Tensor, displacement: Tensor) -> Tensor:
    """Return images whose pixel p shows what lay at p + displacement(p).

    Convention: bilinear; beyond its border the image is mirrored, border pixels included.

    Args:
        image: Batch, ``(N, C, H, W)``.
        displacement: Along rows and columns, in pixels, ``(N, 2, H, W)``.
    """
    height, width = image.shape[-2:]
    row = torch.arange(height, device=image.device, dtype=image.dtype)[:, None] + displacement[:, 0]
    column = torch.arange(width, device=image.device, dtype=image.dtype) + displacement[:, 1]
    place = torch.stack([(2 * column + 1) / width - 1, (2 * row + 1) / height - 1], dim=-1)  # (N, H, W, 2)
    return F.grid_sample(image, place, padding_mode="reflection", align_corners=False)


def _brightness(patches: Tensor, brightness: float) -> Tensor:
    """Draw a change of brightness for half of the patches; where two meet it passes smoothly, ``(N, 1, H, W)``."""
    change = _uniform(patches, (-brightness, brightness), *patches.shape[:2], 1, 1)
    change = change * _coin(change, *change.shape)
    total = patches.sum(dim=1, keepdim=True).clamp(min=torch.finfo(patches.dtype).tiny)
    return (patches * change).sum(dim=1, keepdim=True) / total


def _foreign(image: Tensor, noise: Tensor) -> Tensor:
    """Return what does not belong there: a noisy colour, or the batch's next image, turned and shifted at random."""
    # DEVIATES [SSAE] Sec. 4.3: the paper's occlusions show images of another data set, these need none. A batch of one
    # image takes them from another place of the same.
    batch_size, channels, height, width = image.shape
    sides = torch.tensor([height, width], device=image.device)[:, None, None]
    shift = _uniform(image, (-0.5, 0.5), batch_size, 2, 1, 1) * sides
    turn = turning(_uniform(image, (-torch.pi, torch.pi), batch_size), (height, width))
    elsewhere = displace(image.roll(-1, dims=0), turn + shift)
    colour = _uniform(image, (0, 1), batch_size, channels, 1, 1) + COLOUR_NOISE * noise
    return torch.where(_coin(image, batch_size, 1, 1, 1), colour, elsewhere)


def turning(angle: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Return the displacement that turns images about their centre.

    Args:
        angle: In radians, ``(N,)``; a positive angle turns the image so that its top goes to the left.
        image_size: Height and width.

    Returns:
        Displacement along rows and columns, in pixels, ``(N, 2, H, W)``.
    """
    row, column = (torch.arange(side, device=angle.device, dtype=angle.dtype) - (side - 1) / 2 for side in image_size)
    row, column = row[:, None], column[None, :]
    cos, sin = angle.cos()[:, None, None] - 1, angle.sin()[:, None, None]
    return torch.stack([row * cos + column * sin, column * cos - row * sin], dim=1)


def _turn_some(clean: Tensor, corrupted: Tensor, replaced: Tensor) -> tuple[Tensor, Tensor]:
    """Turn half of the corrupted images about their centre, by any angle but small ones."""
    angle = torch.deg2rad(_uniform(clean, TURN, len(clean)))
    angle = torch.where(_coin(clean, len(clean)), angle, -angle)
    turned = displace(corrupted, turning(angle, (clean.shape[-2], clean.shape[-1]))).clamp(0, 1)
    # CHOICE [SSAE] Sec. 4.3: what counts as replaced in a turned image is left open; here what the turn has changed.
    changed = (TURN_GAIN * (turned - clean).abs().mean(dim=1, keepdim=True)).clamp(max=1)
    is_turned = _coin(clean, len(clean), 1, 1, 1)
    return torch.where(is_turned, turned, corrupted), torch.where(is_turned, changed, replaced)


def augment(image: Tensor, augmentation: str) -> Tensor:
    """Return each image mirrored, and for ``dihedral`` turned by 90 degrees too, at random.

    Convention: all 4 (``flips``) or 8 (``dihedral``) arrangements are equally likely.

    Args:
        image: Batch, ``(N, C, H, W)``; square for ``dihedral``.
        augmentation: One of :data:`AUGMENTATIONS`.

    Raises:
        ValueError: If there is no such augmentation, or the images are not square.
    """
    height, width = image.shape[-2:]
    check_augmentation(augmentation, (height, width))
    moves: dict[str, list[Callable[[Tensor], Tensor]]] = {
        "none": [],
        "flips": [lambda x: x.flip(-1), lambda x: x.flip(-2)],
        "dihedral": [lambda x: x.flip(-1), lambda x: x.flip(-2), lambda x: x.mT],
    }
    for move in moves[augmentation]:
        image = torch.where(_coin(image, len(image), 1, 1, 1), move(image), image)
    return image


def random_crop(image: Tensor, scale: float, multiple: int) -> Tensor:
    """Cut the same random window out of all images of a batch ([SSAE] Sec. 3.2).

    Convention: sides are rounded to a multiple, at least one and at most what the image holds. The window's place is
    drawn by the CPU's generator, which a device need not wait for.

    Args:
        image: Batch, ``(N, C, H, W)``, not smaller than ``multiple``.
        scale: Share of each side, in (0, 1].
        multiple: What the sides of the window must be multiples of.

    Returns:
        The window, a view of the batch.
    """
    for dim in (-2, -1):
        side = image.shape[dim]
        length = min(max(round(scale * side / multiple), 1), side // multiple) * multiple
        start = int(torch.randint(side - length + 1, ()))
        image = image.narrow(dim, start, length)
    return image
