"""Pictures in their own size: padded to what a network takes and maps cut back, in operations that any graph has."""

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812


def padded(image: Tensor, multiple: int) -> Tensor:
    """Return images whose sides are multiples, more of them mirrored below and on the right.

    Rows are gathered by number: exporters hold paddings that depend on the image badly, and guess at what follows.

    Args:
        image: Batch of any size, ``(N, C, H, W)``.
        multiple: What the sides of the result are multiples of.
    """
    for dim in (-2, -1):
        side = image.shape[dim]
        place = torch.arange((side + multiple - 1) // multiple * multiple, device=image.device)
        mirrored = torch.minimum(place, 2 * side - 2 - place).clamp(min=0)  # a side of less than half has no more
        image = image.index_select(dim, mirrored)
    return image


def cut_back(values_map: Tensor, image: Tensor) -> Tensor:
    """Return maps of padded images in the size that these had."""
    for dim in (-2, -1):
        values_map = values_map.index_select(dim, torch.arange(image.shape[dim], device=image.device))
    return values_map


def shrunk(image: Tensor, factor: int) -> Tensor:
    """Return images with each square of ``factor`` pixels averaged to one."""
    return image if factor == 1 else F.avg_pool2d(image, factor)


def enlarged(values_map: Tensor, factor: int) -> Tensor:
    """Return maps of shrunk images in the size of these, bilinear."""
    if factor == 1:
        return values_map
    return F.interpolate(values_map, scale_factor=factor, mode="bilinear", align_corners=False)


def random_windows(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Cut a window out of each image, at a place of its own.

    Places are drawn by the CPU's generator, which a device need not wait for.

    Args:
        image: Batch at least as large, ``(N, C, H, W)``.
        size: Height and width of the windows.

    Returns:
        ``(N, C, h, w)``.

    Raises:
        ValueError: If images are smaller.
    """
    height, width = image.shape[-2:]
    if height < size[0] or width < size[1]:
        msg = f"images are {height}x{width}, smaller than crops of {size[0]}x{size[1]}: give a smaller crop_size"
        raise ValueError(msg)
    top = torch.randint(height - size[0] + 1, (len(image),)).tolist()
    left = torch.randint(width - size[1] + 1, (len(image),)).tolist()
    return torch.stack([each[:, y : y + size[0], x : x + size[1]] for each, y, x in zip(image, top, left, strict=True)])
