"""Resizing with antialiasing in operations that every exporter and runtime has."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


def _triangle(lacking: Tensor, reach: Tensor) -> Tensor:
    """Return 1 - x, with x the distance in units of the reach and ``lacking`` what it lacks of one."""
    return lacking.clamp(min=0) / reach


def _cubic(lacking: Tensor, reach: Tensor) -> Tensor:
    """Return the cubic convolution of Keys with a = -1/2, which antialiased bicubic resizing has.

    1 - 5/2 x^2 + 3/2 x^3 below 1 and 2 - 4 x + 5/2 x^2 - 1/2 x^3 below 2, in factors: their zeros are exact.
    """
    x, to_one, to_two = (reach - lacking) / reach, lacking / reach, (lacking + reach).clamp(min=0) / reach
    return to_one * torch.where(lacking > 0, 1 + x - 1.5 * x.square(), to_two.square() / 2)


KERNELS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"bilinear": _triangle, "bicubic": _cubic}
"""Shapes of a pixel's weights by the name that torchvision gives the interpolation."""


def _weights(source: int, target: int, kernel: str, like: Tensor) -> Tensor:
    """Return what each source pixel contributes to each target pixel of a line, ``(target, source)``."""
    # Positions in units of 1 / (2 * target) source pixels are whole numbers, which a runtime of half precision leaves
    # as they are. bfloat16 has no half pixels beyond 128.
    centre = (2 * torch.arange(target, device=like.device) + 1) * source
    pixel = (2 * torch.arange(source, device=like.device) + 1) * target
    reach: Any = 2 * torch.sym_max(source, target)  # export cannot tell which is greater
    lacking = reach - (pixel - centre[:, None]).abs()
    weights = KERNELS[kernel](lacking, like.new_ones(()) * reach)
    return weights / weights.sum(dim=1, keepdim=True)


def _missing(weights: Tensor) -> Tensor:
    """Return what the weights of each target pixel lack of 1, ``(target, 1)``: rounding errors.

    In half precision they would be stripes on even surfaces. The 1 is part of the sum: a sum near 1 would be rounded.
    """
    return -F.pad(weights, (0, 1), value=-1.0).sum(dim=1, keepdim=True)


class AntialiasedResize(nn.Module):
    """Resizing that averages where it shrinks: torchvision's ``Resize(size, interpolation, antialias=True)``.

    As two matrix products, because OpenVINO drops the antialiasing of ONNX's Resize. Where it chooses bfloat16 it runs
    them in bfloat16, and loses marks against that while it compiles: so they are made such that rounding costs little.

    Convention: computed in float32 at least, also under mixed precision; returned in the type that came.

    Args:
        size: Height and width to resize to.
        kernel: A key of :data:`KERNELS`.

    Example:
        >>> AntialiasedResize((1, 2))(torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(1, 1, 1, 4))
        tensor([[[[0.1429, 0.8571]]]])
    """

    def __init__(self, size: tuple[int, int], kernel: str = "bilinear") -> None:
        super().__init__()
        self.size = size
        self.kernel = kernel

    def forward(self, image: Tensor) -> Tensor:
        """Resize a batch.

        Args:
            image: Floating-point batch of any size, ``(N, C, H, W)``.

        Returns:
            Batch of the size asked for.
        """
        height, width = image.shape[-2:]
        with torch.autocast(image.device.type, enabled=False):
            resized = image.to(torch.promote_types(image.dtype, torch.float32))
            rows = _weights(height, self.size[0], self.kernel, resized)
            columns = _weights(width, self.size[1], self.kernel, resized)
            resized = rows @ resized
            resized = resized + _missing(rows) * resized
            resized = resized @ columns.T
            resized = resized + resized * _missing(columns).T
        return resized.to(image.dtype)
