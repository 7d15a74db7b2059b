"""Resizing with antialiasing in operations that every exporter and runtime has."""

from typing import Any

import torch
from torch import Tensor, nn


def _weights(source: int, target: int, like: Tensor) -> Tensor:
    """Return what each source pixel contributes to each target pixel of a line, ``(target, source)``."""
    scale = source / target
    centre = (torch.arange(target, device=like.device, dtype=like.dtype) + 0.5) * scale
    pixel = torch.arange(source, device=like.device, dtype=like.dtype) + 0.5
    reach: Any = torch.sym_max(scale, 1.0)  # export cannot tell which is greater
    weights: Tensor = (1 - (pixel - centre[:, None]).abs() / reach).clamp(min=0)
    return weights / weights.sum(dim=1, keepdim=True)


class AntialiasedResize(nn.Module):
    """Bilinear resizing that averages where it shrinks: torchvision's ``Resize(size, antialias=True)``.

    As two matrix products, because OpenVINO drops the antialiasing of ONNX's Resize.

    Args:
        size: Height and width to resize to.

    Example:
        >>> AntialiasedResize((1, 2))(torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(1, 1, 1, 4))
        tensor([[[[0.1429, 0.8571]]]])
    """

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, image: Tensor) -> Tensor:
        """Resize a batch.

        Args:
            image: Floating-point batch of any size, ``(N, C, H, W)``.

        Returns:
            Batch of the size asked for.
        """
        height, width = image.shape[-2:]
        return _weights(height, self.size[0], image) @ image @ _weights(width, self.size[1], image).T
