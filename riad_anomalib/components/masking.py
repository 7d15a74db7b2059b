"""Random partitions of an image's regions, masked copies and reassembly ([RIAD] Sec. 3.1, Alg. 1).

A *partition* gives every pixel the index of the disjoint set that its region belongs to. *removed* is the same as a
bool tensor with one plane per set: True where that set's pixels are taken from the network's input.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

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
