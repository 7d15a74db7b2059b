"""A region of interest: where a picture is inspected, and maps and scores that know nothing of the rest."""

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

logger = logging.getLogger(__name__)

_TINY = 1e-6


class Region(nn.Module):
    """Where pictures are inspected, part of the state; everywhere unless a mask is given.

    A mask has any size: a pixel of a map looks at the mask at the same share of height and width. One that is given
    stays when a state is loaded; a model without takes over that of the state.

    Args:
        mask: True where pictures are inspected, ``(h, w)``; None for everywhere.

    Raises:
        ValueError: If the mask covers nothing.
    """

    mask: Tensor

    def __init__(self, mask: Tensor | None = None) -> None:
        super().__init__()
        if mask is not None and not mask.any():
            msg = "the region covers nothing: draw what is to be inspected in white, all else in black"
            raise ValueError(msg)
        self.register_buffer("mask", torch.empty(0, dtype=torch.uint8) if mask is None else mask.to(torch.uint8))

    @property
    def is_everywhere(self) -> bool:
        """Whether there is no mask."""
        return self.mask.numel() == 0

    def inside(self, image: Tensor) -> Tensor | None:
        """Return where images, or maps, of this height and width are inspected: 1 or 0, ``(1, 1, H, W)``, float32.

        None is everywhere.
        """
        if self.is_everywhere:
            return None
        rows, columns = (_nearest(image, dim, self.mask.shape[dim]) for dim in (-2, -1))
        # As deploy finds it in a graph: the one matrix of uint8, and two gatherings.
        return self.mask.index_select(0, rows).index_select(1, columns).float()[None, None]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:  # noqa: ANN401
        saved = state_dict.setdefault(f"{prefix}mask", torch.empty(0, dtype=torch.uint8))  # of an older version
        if self.is_everywhere:
            self.mask = torch.empty_like(saved, device=self.mask.device)
        elif not torch.equal(saved.cpu(), self.mask.cpu()):
            logger.warning("The checkpoint's thresholds are for another region than this one, which stays.")
            state_dict[f"{prefix}mask"] = self.mask
        super()._load_from_state_dict(state_dict, prefix, *args)


def _nearest(image: Tensor, dim: int, source: int) -> Tensor:
    """Return the index of the mask's row (or column) under the centre of each of the image's."""
    side = image.shape[dim]
    return (2 * torch.arange(side, device=image.device) + 1) * source // (2 * side)  # whole numbers, in exports too


def smooth_inside(values_map: Tensor, inside: Tensor | None, smooth: Callable[[Tensor], Tensor]) -> Tensor:
    """Smooth maps with what lies inside alone.

    Convention: a uniform map stays uniform inside, up to the region's border; outside all is 0.

    Args:
        values_map: ``(N, M, H, W)``, at least 0.
        inside: How much each pixel counts, in [0, 1], ``(1, 1, H, W)``; None smooths everything.
        smooth: A linear filter.
    """
    if inside is None:
        return smooth(values_map)
    return inside * smooth(inside * values_map) / smooth(inside).clamp(min=_TINY)
