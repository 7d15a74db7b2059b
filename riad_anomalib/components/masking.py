"""Which pixels are removed, copies without them, and what was painted in their place.

Random partitions of an image's regions, masked copies and reassembly ([RIAD] Sec. 3.1, Alg. 1): a *partition* gives
every pixel the index of the disjoint set that its region belongs to. *removed* is the same as a bool tensor with one
plane per set: True where that set's pixels are taken from the network's input.

Checkerboards, brush strokes and blobs, and pasting ([I3AD] Secs. 2.2 to 2.4), for masks that need not cover an image.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from .arguments import whole_number


def check_regions(image_size: tuple[int, int], region_sizes: Sequence[int], num_sets: int, stride: int = 1) -> None:
    """Refuse an image size, region sizes and a number of sets that do not fit each other.

    Args:
        image_size: Height and width in pixels.
        region_sizes: Side lengths k of the square regions, in pixels.
        num_sets: Number of disjoint sets n.
        stride: The image must also be a multiple of this, because the network halves it that far.

    Raises:
        ValueError: If a value is outside its range or a size is not a multiple; the message names sizes that would do.
    """
    height, width = (whole_number("image_size", side) for side in image_size)
    for region_size in region_sizes:
        whole_number("region_sizes", region_size)
    whole_number("num_disjoint_sets", num_sets)
    if min(image_size) < 1:
        msg = f"image size {height}x{width} is not positive: give height and width in pixels, for example [256, 256]"
        raise ValueError(msg)
    if len(region_sizes) == 0:
        msg = "region_sizes is empty: give at least one region size in pixels, for example [2, 4, 8, 16]"
        raise ValueError(msg)
    if min(region_sizes) < 1:
        msg = f"region_sizes {list(region_sizes)} must all be positive: give whole numbers of pixels such as [2, 4, 8]"
        raise ValueError(msg)
    if len(set(region_sizes)) < len(region_sizes):
        msg = f"region_sizes {list(region_sizes)} names a size twice: list every size once"
        raise ValueError(msg)
    if max(region_sizes) > min(image_size):
        msg = (
            f"region size {max(region_sizes)} is larger than the image ({height}x{width}): "
            "drop that size or use a larger image_size"
        )
        raise ValueError(msg)
    unit = math.lcm(stride, *region_sizes)
    if height % unit or width % unit:
        misfits = [f"region size {k}" for k in region_sizes if height % k or width % k]
        if height % stride or width % stride:
            misfits.append(f"{stride}, the number of pixels that the network reduces to one")
        near = [[side // unit * unit for side in image_size], [-(-side // unit) * unit for side in image_size]]
        sizes = [f"{h}x{w}" for h, w in near if min(h, w) > 0]
        msg = (
            f"image size {height}x{width} is not a multiple of {' and of '.join(misfits)}: "
            f"set image_size to {' or '.join(sizes)}, or drop the region sizes that do not divide it"
        )
        raise ValueError(msg)
    num_regions = (height // max(region_sizes)) * (width // max(region_sizes))
    if num_sets < 2 or num_sets > num_regions:  # noqa: PLR2004
        msg = (
            f"num_disjoint_sets is {num_sets}: it must be at least 2, so that something stays visible, and at most "
            f"{num_regions}, the number of {max(region_sizes)}x{max(region_sizes)} regions of a {height}x{width} image"
        )
        raise ValueError(msg)


def _sets_of_pixels(order: Tensor, height: int, width: int, region_size: int, num_sets: int) -> Tensor:
    """Deal regions to sets in the given order ``(..., H/k * W/k)`` and spread them over pixels ``(..., H, W)``."""
    # CHOICE [RIAD] Alg. 1: N regions need not be a multiple of n; dealt in turn, the sets' sizes differ by one at most.
    sets: Tensor = (order % num_sets).unflatten(-1, (height // region_size, width // region_size))
    return sets.repeat_interleave(region_size, dim=-2).repeat_interleave(region_size, dim=-1)


def random_partition(
    height: int,
    width: int,
    region_size: int,
    num_sets: int,
    *,
    batch_size: int = 1,
    device: torch.device | None = None,
) -> Tensor:
    """Draw one random partition per image, for training ([RIAD] Sec. 3.1, Alg. 1).

    Convention: sizes of sets differ by at most one region, the lower sets being the larger ones; drawn from torch's
    global generator of ``device``.

    Args:
        height: Image height in pixels, a multiple of ``region_size``.
        width: Image width in pixels, a multiple of ``region_size``.
        region_size: Side length k of the square regions.
        num_sets: Number of disjoint sets n.
        batch_size: Number of independent partitions N.
        device: Where to draw.

    Returns:
        Index of the set that each pixel belongs to, int64 in [0, n), ``(N, H, W)``.
    """
    num_regions = (height // region_size) * (width // region_size)
    # Sorting noise permutes the regions of all images in one operation; torch.randperm does one image at a time.
    order = torch.rand(batch_size, num_regions, device=device).argsort(dim=1)
    return _sets_of_pixels(order, height, width, region_size, num_sets)


def fixed_partition(height: int, width: int, region_size: int, num_sets: int, seed: int) -> Tensor:
    """Draw the partition that inference uses: a function of its arguments alone.

    Convention: as :func:`random_partition`, but drawn by NumPy's legacy generator, whose stream is frozen for good
    (NEP 19). torch promises no such thing across its versions and devices.

    Args:
        height: Image height in pixels, a multiple of ``region_size``.
        width: Image width in pixels, a multiple of ``region_size``.
        region_size: Side length k of the square regions.
        num_sets: Number of disjoint sets n.
        seed: Seed in [0, 2**32).

    Returns:
        Index of the set that each pixel belongs to, int64 in [0, n), ``(H, W)``.

    Example:
        Six regions of 2x2 pixels, dealt to sets 0, 1 and 2:

        >>> fixed_partition(4, 6, region_size=2, num_sets=3, seed=0)
        tensor([[2, 2, 2, 2, 1, 1],
                [2, 2, 2, 2, 1, 1],
                [0, 0, 0, 0, 1, 1],
                [0, 0, 0, 0, 1, 1]])
    """
    num_regions = (height // region_size) * (width // region_size)
    order = np.random.RandomState(seed).permutation(num_regions).astype(np.int64)
    return _sets_of_pixels(torch.from_numpy(order), height, width, region_size, num_sets)


def removed_regions(partition: Tensor, num_sets: int) -> Tensor:
    """Return where each set removes pixels: the inverse masks of [RIAD] Eq. 1, which add up to one everywhere.

    Args:
        partition: Index of each pixel's set, ``(..., H, W)``.
        num_sets: Number of disjoint sets S.

    Returns:
        True where a set's regions lie, bool, ``(..., S, 1, H, W)``.
    """
    sets = torch.arange(num_sets, device=partition.device).reshape(num_sets, 1, 1, 1)
    return partition.unsqueeze(-3).unsqueeze(-4) == sets  # (..., S, 1, H, W)


def mask_out(image: Tensor, removed: Tensor) -> Tensor:
    """Return one copy of each image per disjoint set, with that set's regions set to zero ([RIAD] Sec. 3.1).

    Convention: the copies of one image stay adjacent in the batch; visible pixels are not rescaled.

    Args:
        image: Batch in [0, 1], ``(N, C, H, W)``.
        removed: True where a set's regions lie, ``(S, 1, H, W)`` or ``(N, S, 1, H, W)``.

    Returns:
        Masked copies, ``(N*S, C, H, W)``.

    Example:
        >>> image = torch.tensor([[[[0.1, 0.2], [0.3, 0.4]]]])
        >>> removed = removed_regions(torch.tensor([[0, 0], [1, 1]]), num_sets=2)
        >>> mask_out(image, removed).flatten(1)
        tensor([[0.0000, 0.0000, 0.3000, 0.4000],
                [0.1000, 0.2000, 0.0000, 0.0000]])
    """
    visible = image.unsqueeze(1).masked_fill(removed, 0.0)  # (N, S, C, H, W)
    return visible.flatten(0, 1)  # (N*S, C, H, W)


def reassemble(inpainted: Tensor, removed: Tensor) -> Tensor:
    """Take every pixel from the copy that it was removed from ([RIAD] Eq. 2).

    Args:
        inpainted: Network output for the copies that :func:`mask_out` made, ``(N*S, C, H, W)``.
        removed: The same as given to :func:`mask_out`.

    Returns:
        Reconstruction, ``(N, C, H, W)``.

    Example:
        A network that paints black where it misses set 0 and white where it misses set 1:

        >>> removed = removed_regions(torch.tensor([[0, 1], [1, 0]]), num_sets=2)
        >>> inpainted = torch.stack([torch.zeros(1, 2, 2), torch.ones(1, 2, 2)])
        >>> reassemble(inpainted, removed)
        tensor([[[[0., 1.],
                  [1., 0.]]]])
    """
    partial: Tensor = inpainted.unflatten(0, (-1, removed.shape[-4]))  # (N, S, C, H, W)
    # Not a product with the mask as in Eq. 2: 0 * inf is NaN. Exactly one term per pixel is not zero.
    return partial.masked_fill(~removed, 0.0).sum(dim=1)  # (N, C, H, W)


def paste(image: Tensor, painted: Tensor, removed: Tensor) -> Tensor:
    """Return an image with what was painted in the place of what was removed ([I3AD] Sec. 2.2).

    Args:
        image: Batch, ``(N, C, H, W)``.
        painted: The network's output, ``(N, C, H, W)``.
        removed: True where it replaces the image, ``(N, 1, H, W)``.

    Returns:
        The image where nothing was removed, bit by bit, and what was painted elsewhere, ``(N, C, H, W)``.
    """
    return torch.where(removed, painted, image)


def checkerboards(height: int, width: int, patch_size: int) -> Tensor:
    """Return four masks of squares that together remove every pixel once ([I3AD] Sec. 2.4, Fig. 6).

    Convention: squares lie from the top left corner on, the last ones are cut by the border; masks are in the order of
    their first square, row by row.

    Args:
        height: Image height in pixels.
        width: Image width in pixels.
        patch_size: Side length of the squares in pixels.

    Returns:
        True where each mask removes pixels, bool, ``(4, 1, H, W)``.

    Example:
        >>> checkerboards(4, 5, patch_size=1)[1, 0].int()
        tensor([[0, 1, 0, 1, 0],
                [0, 0, 0, 0, 0],
                [0, 1, 0, 1, 0],
                [0, 0, 0, 0, 0]], dtype=torch.int32)
    """
    # CHOICE [I3AD] Sec. 2.4: how the four boards look is left to a figure; every second square of every second row.
    row, column = (torch.arange(side) // patch_size % 2 for side in (height, width))
    return removed_regions(2 * row[:, None] + column, num_sets=4)


# CHOICE [I3AD] Sec. 3.1: strokes are "by the algorithm" of Yu et al. 2019, these are like them. Turns are less than a
# quarter, so that a stroke does not go back over itself; how broad it is follows from how much is to be removed.
MOST_STROKES = 4
VERTICES = (4, 12)
"""Least and greatest number of a stroke's vertices."""
STEP = (0.04, 0.16)
"""Least and greatest distance of a stroke's vertices, as a share of the image's shorter side."""
BREADTH = (0.5, 1.5)
"""Least and greatest breadth of a stroke, beside others of the same image."""
STROKES_SHARE = (0.1, 0.5)
"""Least and greatest share of the image that strokes remove."""
BLOBS_SHARE = (0.01, 0.3)
"""Least and greatest share of the image that blobs remove."""
BLOB_CELLS = 8
"""Values of the noise behind blobs, from one side of the image to the other."""


def brush_strokes(batch_size: int, height: int, width: int, device: torch.device | None = None) -> Tensor:
    """Draw brush strokes for each image, as broad as it takes to remove a share that is drawn ([I3AD] Sec. 3.1).

    Convention: one to four strokes; beyond the border they come back; drawn from torch's global generator of
    ``device``, with the same number of operations whatever is drawn.

    Args:
        batch_size: Number of images N.
        height: Image height in pixels.
        width: Image width in pixels.
        device: Where to draw.

    Returns:
        True where the strokes are, bool, ``(N, 1, H, W)``.
    """

    def uniform(limits: tuple[float, float], *size: int) -> Tensor:
        return limits[0] + (limits[1] - limits[0]) * torch.rand(batch_size, *size, device=device)

    fewest, most = VERTICES
    strokes = (batch_size, MOST_STROKES)
    angle = (torch.pi * uniform((-0.5, 0.5), MOST_STROKES, most)).cumsum(dim=-1) + uniform((0, 2 * torch.pi), 1, 1)
    step = min(height, width) * uniform(STEP, MOST_STROKES, most)
    down, across = (step * angle.sin()).cumsum(dim=-1), (step * angle.cos()).cumsum(dim=-1)
    row = _mirrored(down + uniform((0, height), MOST_STROKES, 1), height)  # (N, strokes, vertices)
    column = _mirrored(across + uniform((0, width), MOST_STROKES, 1), width)
    breadth = uniform(BREADTH, MOST_STROKES)
    ends = torch.randint(fewest, most + 1, strokes, device=device)
    # The first stroke is always there, each further one is not with a chance of a half.
    ends[:, 1:] *= torch.rand(batch_size, MOST_STROKES - 1, device=device) < 0.5  # noqa: PLR2004
    rows = torch.arange(height, device=device)[:, None].float()
    columns = torch.arange(width, device=device).float()
    distance = torch.full((*strokes, height, width), torch.inf, device=device)
    for i in range(most - 1):  # one after the other: all at once would take eleven times the memory
        piece = _distance(rows, columns, row[..., i : i + 2], column[..., i : i + 2]) / breadth[..., None, None]
        distance = torch.minimum(distance, piece.masked_fill((i + 1 >= ends)[..., None, None], torch.inf))
    nearest = distance.amin(dim=1, keepdim=True)  # (N, 1, H, W)
    return _lowest(nearest, uniform(STROKES_SHARE))


def blobs(batch_size: int, height: int, width: int, device: torch.device | None = None) -> Tensor:
    """Draw blobs for each image, like the regions of anomalies that inference removes.

    Convention: where smooth noise is lowest; drawn from torch's global generator of ``device``.

    Args:
        batch_size: Number of images N.
        height: Image height in pixels.
        width: Image width in pixels.
        device: Where to draw.

    Returns:
        True where the blobs are, bool, ``(N, 1, H, W)``.
    """
    noise = torch.randn(batch_size, 1, BLOB_CELLS, BLOB_CELLS, device=device)
    share = BLOBS_SHARE[0] + (BLOBS_SHARE[1] - BLOBS_SHARE[0]) * torch.rand(batch_size, device=device)
    return _lowest(F.interpolate(noise, (height, width), mode="bicubic"), share)


def _mirrored(place: Tensor, side: int) -> Tensor:
    """Bring places beyond a border back, as a mirror there would."""
    return side - (place.remainder(2 * side) - side).abs()


def _distance(rows: Tensor, columns: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Return each pixel's distance from line segments, ``(..., H, W)``; rows and columns of their ends ``(..., 2)``."""
    (top, bottom), (left, right) = (ends[..., None, None].unbind(dim=-3) for ends in (row, column))
    down, across = bottom - top, right - left
    length = (down.square() + across.square()).clamp(min=1e-6)
    along = (((rows - top) * down + (columns - left) * across) / length).clamp(0, 1)
    return torch.hypot(rows - top - along * down, columns - left - along * across)


def _lowest(values_map: Tensor, share: Tensor) -> Tensor:
    """Return where an image's values are lowest, for a share of its pixels, at least one; ``(N, 1, H, W)``."""
    ordered = values_map.flatten(1).sort(dim=1).values  # (N, H*W)
    last = (share * ordered.shape[1]).long().clamp(max=ordered.shape[1] - 1)
    return values_map <= ordered.gather(1, last[:, None])[..., None, None]
