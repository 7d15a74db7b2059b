"""What normal images look like, and maps relative to it. Not in [RIAD]; docs/calibration.md says what it gains."""

from typing import Any

import torch
from torch import Tensor, nn

CALIBRATIONS = ("none", "pixel")
"""What ``calibration`` takes."""

_TINY = 1e-12


def calibrate(values_map: Tensor, normal_mean: Tensor, normal_std: Tensor) -> Tensor:
    """Weigh what exceeds the mean of normal images by how little normal images vary there.

    max(0, d - mu) * s / (sigma + s), with mu and sigma the mean and standard deviation of d over normal images at that
    pixel and s the mean of sigma over all pixels: a z-score whose denominator is kept from 0, in the units of d.

    Convention: never above d; 0 where d does not exceed the normal mean; d - mu where normal images do not vary at all.

    Args:
        values_map: Dissimilarity d, ``(N, 1, H, W)``.
        normal_mean: Mean of d over normal images, ``(1, H, W)``.
        normal_std: Standard deviation of d over normal images, ``(1, H, W)``.

    Returns:
        Calibrated dissimilarity, ``(N, 1, H, W)``.
    """
    # Where no normal image varies at all, s is 0: the guard makes that weight 1 and changes no other.
    typical_std = normal_std.mean().clamp(min=_TINY)
    return (values_map - normal_mean).clamp(min=0) * (typical_std / (normal_std + typical_std))


class Calibration(nn.Module):
    """Statistics of normal images' dissimilarity at each pixel, and the map relative to them.

    The statistics are part of the state, with the shape that they have there; empty until they are gathered.

    Args:
        kind: ``"none"``, which changes nothing and needs no statistics, or ``"pixel"`` for :func:`calibrate`.

    Raises:
        ValueError: If there is no such kind.
    """

    normal_mean: Tensor
    normal_std: Tensor

    def __init__(self, kind: str) -> None:
        super().__init__()
        if kind not in CALIBRATIONS:
            msg = f"calibration is {kind!r}: choose one of {list(CALIBRATIONS)}"
            raise ValueError(msg)
        self.kind = kind
        for name in ("normal_mean", "normal_std"):
            self.register_buffer(name, torch.empty(0))

    @property
    def needs_statistics(self) -> bool:
        """Whether normal images have anything to tell."""
        return self.kind != "none"

    def set_statistics(self, normal_mean: Tensor, normal_std: Tensor) -> None:
        """Take over what normal images look like.

        Args:
            normal_mean: Mean of the dissimilarity over normal images, ``(1, H, W)``.
            normal_std: Its standard deviation, ``(1, H, W)``.
        """
        device = self.normal_mean.device
        self.normal_mean, self.normal_std = normal_mean.to(device), normal_std.to(device)

    def forget(self) -> None:
        """Drop the statistics: images have another size from now on."""
        self.set_statistics(torch.empty(0), torch.empty(0))

    def forward(self, values_map: Tensor) -> Tensor:
        """Return the map relative to normal images.

        Args:
            values_map: Dissimilarity, ``(N, 1, H, W)``.

        Raises:
            ValueError: If statistics are needed and have not been gathered.
        """
        if not self.needs_statistics:
            return values_map
        if self.normal_mean.numel() == 0:
            msg = (
                f"calibration is {self.kind!r}, but the statistics of normal images are missing: they are gathered "
                "before each validation of a training; train with validation, or load a checkpoint of such a training"
            )
            raise ValueError(msg)
        return calibrate(values_map, self.normal_mean, self.normal_std)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:  # noqa: ANN401
        for name, buffer in list(self.named_buffers()):
            if prefix + name in state_dict:
                setattr(self, name, torch.empty_like(state_dict[prefix + name], device=buffer.device))
        super()._load_from_state_dict(state_dict, prefix, *args)
