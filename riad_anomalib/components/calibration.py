"""What normal images look like, and maps relative to it: docs/calibration.md, which no paper has, and [SSAE] Eq. 14."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from .arguments import check_choice, finite_number

logger = logging.getLogger(__name__)

CALIBRATIONS = ("none", "pixel")
"""What ``calibration`` takes unless a model says otherwise."""

ALIKE = 0.5
"""Least likeness of normal images' maps for ``"auto"`` to calibrate; docs/calibration.md has those measured."""
LIKENESS_CELLS = 16
"""Rows and columns of the grid that :func:`likeness` compares maps on."""

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
    typical_std = normal_std.mean(dim=(-2, -1), keepdim=True).clamp(min=_TINY)
    return (values_map - normal_mean).clamp(min=0) * (typical_std / (normal_std + typical_std))


def attenuate(smoothed_map: Tensor, average_map: Tensor, power: float) -> Tensor:
    """Weigh a map down where normal images' maps are bright (avgmap of [SSAE] Eqs. 13 and 14).

    map * (1 - a / (a + mean a))^t, with a the average map: a half, for t = 1, where a has its mean.

    Convention: never above the map; the map itself where normal images differ nowhere from their reconstructions.

    Args:
        smoothed_map: Anomaly map, ``(N, 1, H, W)``.
        average_map: Mean a of such maps over normal images, at least 0, ``(1, H, W)``.
        power: Power t, greater than 0.

    Returns:
        Attenuated map, ``(N, 1, H, W)``.
    """
    # DEVIATES [SSAE] Eq. 13: the paper holds normal images out for the average; here they are 40 that it trained on.
    # DEVIATES [SSAE] Eq. 14: the paper's weight is (1 - a)^t. Squared differences of normal images are a few hundredths
    # at most, so that weight is 1 everywhere; relative to their mean it does what the paper says it is for.
    typical = average_map.mean(dim=(-2, -1), keepdim=True).clamp(min=_TINY)
    return smoothed_map * (typical / (average_map + typical)) ** power


def likeness(values_map: Tensor, inside: Tensor | None = None) -> float:
    """Return how much images' maps resemble each other: whether products lie alike in every picture.

    The mean correlation of each map with the mean of the others, both averaged over the cells of a grid first, because
    single pixels are mostly noise.

    Convention: 0 of a single image, and of maps without any contrast.

    Args:
        values_map: Dissimilarity of at least one image, ``(N, M, H, W)``.
        inside: What counts, 1 or 0, ``(1, 1, H, W)``; everything without.

    Returns:
        Likeness in [-1, 1].
    """
    if len(values_map) == 1:
        return 0.0
    if inside is None:
        inside = torch.ones_like(values_map[:1, :1])
    inside = inside.to(values_map)
    counts = F.adaptive_avg_pool2d(inside, LIKENESS_CELLS)
    cells = F.adaptive_avg_pool2d(values_map * inside, LIKENESS_CELLS) / counts.clamp(min=_TINY)
    cells = cells[:, :, counts[0, 0] > 0].flatten(start_dim=1)
    others = (cells.sum(dim=0) - cells) / (len(cells) - 1)
    centred, others = (values - values.mean(dim=1, keepdim=True) for values in (cells, others))
    return F.cosine_similarity(centred, others).mean().item()


def filled(values: Tensor, inside: Tensor) -> Tensor:
    """Return statistics with their mean over what lies inside everywhere else, so that this is their mean as a whole.

    Args:
        values: ``(M, H, W)``.
        inside: 1 or 0, ``(1, 1, H, W)``.
    """
    inside = inside[0].to(values)
    mean = (values * inside).sum(dim=(-2, -1), keepdim=True) / inside.sum()
    return torch.lerp(mean.expand_as(values), values, inside.expand_as(values))


def mean_and_std(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation over images, each of an image's values' shape."""
    std, mean = torch.std_mean(values, dim=0, correction=0)
    return mean, std


class Calibration(nn.Module):
    """Statistics of normal images' dissimilarity at each pixel, and the map relative to them.

    The statistics are part of the state, with the shape that they have there; empty until they are gathered.

    Args:
        kind: ``"none"``, which changes nothing and needs no statistics, ``"pixel"`` for :func:`calibrate`, ``"auto"``
            for the same where normal images are alike enough, or ``"avgmap"`` for :func:`attenuate`.
        kinds: Those that the model has.
        avgmap_power: Power t of ``"avgmap"``.

    Raises:
        ValueError: If the model has no such kind, or the power is not positive.
    """

    normal_mean: Tensor
    normal_std: Tensor

    def __init__(self, kind: str, kinds: Sequence[str] = CALIBRATIONS, avgmap_power: float = 1.0) -> None:
        super().__init__()
        check_choice("calibration", kind, kinds)
        if finite_number("avgmap_power", avgmap_power) <= 0:
            msg = f"avgmap_power is {avgmap_power}: it must be greater than 0; calibration 'none' switches it off"
            raise ValueError(msg)
        self.kind = kind
        self.avgmap_power = avgmap_power
        for name in ("normal_mean", "normal_std"):
            self.register_buffer(name, torch.empty(0))

    @property
    def needs_statistics(self) -> bool:
        """Whether normal images have anything to tell."""
        return self.kind != "none"

    def statistics(
        self, values_map: Tensor, inside: Callable[[Tensor], Tensor | None] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the statistics of normal images, for :meth:`set_statistics`.

        Convention: for ``"auto"`` both are 0, with which :func:`calibrate` changes nothing, where the images' maps are
        not alike; then it says so.

        Args:
            values_map: Dissimilarity of normal images, ``(N, M, H, W)``.
            inside: From maps to what of them counts, :meth:`Region.inside`.

        Returns:
            Mean and standard deviation at each pixel, ``(M, H, W)``.
        """
        mean, std = mean_and_std(values_map)
        counts = inside(values_map) if inside else None
        if counts is not None:
            mean, std = filled(mean, counts), filled(std, counts)
        if self.kind == "auto":
            alike = likeness(values_map, counts)
            if alike < ALIKE:
                logger.warning("Not calibrated: normal images' maps are %.2f alike, %.2f is needed.", alike, ALIKE)
                return torch.zeros_like(mean), torch.zeros_like(std)
            logger.info("Calibrated: normal images' maps are %.2f alike, %.2f is needed.", alike, ALIKE)
        return mean, std

    def set_statistics(self, normal_mean: Tensor, normal_std: Tensor) -> None:
        """Take over what normal images look like.

        Args:
            normal_mean: Mean of the dissimilarity over normal images, ``(1, H, W)``, or one for each map of an image.
            normal_std: Its standard deviation, of the same shape.
        """
        device = self.normal_mean.device
        self.normal_mean, self.normal_std = normal_mean.to(device), normal_std.to(device)

    def forget(self) -> None:
        """Drop the statistics: images have another size from now on."""
        self.set_statistics(torch.empty(0), torch.empty(0))

    def forward(self, values_map: Tensor) -> Tensor:
        """Return the map relative to normal images: what is done before smoothing.

        Args:
            values_map: Dissimilarity, ``(N, 1, H, W)``.

        Raises:
            ValueError: If statistics are needed and have not been gathered.
        """
        if self.kind not in {"pixel", "auto"}:
            return values_map
        self._check_gathered()
        return calibrate(values_map, self.normal_mean, self.normal_std)

    def after_smoothing(self, smoothed_map: Tensor, smooth: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the smoothed map relative to normal images: what is done after smoothing.

        Args:
            smoothed_map: Anomaly map, ``(N, 1, H, W)``.
            smooth: How maps are smoothed, normal images' too.

        Raises:
            ValueError: If statistics are needed and have not been gathered.
        """
        if self.kind != "avgmap":
            return smoothed_map
        self._check_gathered()
        return attenuate(smoothed_map, smooth(self.normal_mean.unsqueeze(0)).squeeze(0), self.avgmap_power)

    def _check_gathered(self) -> None:
        if self.normal_mean.numel() == 0:
            msg = (
                f"calibration is {self.kind!r}, but the statistics of normal images are missing: they are gathered "
                "before each validation of a training; train with validation, or load a checkpoint of such a training"
            )
            raise ValueError(msg)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:  # noqa: ANN401
        for name, buffer in list(self.named_buffers()):
            if prefix + name in state_dict:
                setattr(self, name, torch.empty_like(state_dict[prefix + name], device=buffer.device))
        super()._load_from_state_dict(state_dict, prefix, *args)
