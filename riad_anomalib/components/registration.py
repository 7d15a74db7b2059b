"""Pictures brought to the light and place of normal ones, inside the graph: nothing is learnt, training stays as it is.

A network that was trained on pictures that never move takes each picture that has for an anomaly. Before it looks, the
picture's motion against the mean of normal ones is estimated by least squares (Lucas and Kanade 1981, in the inverse
form of Baker and Matthews 2004, with the light among the unknowns, or a ramp of light would pass for a motion) and
undone; then its gains, offsets and slopes of light are made those of normal pictures.
"""

import logging
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from .arguments import check_choice
from .variation import moved

logger = logging.getLogger(__name__)

REGISTRATIONS = ("none", "light", "position", "auto")

BLUR = 1 / 32
"""Standard deviation, as a share of the shorter side, of the Gaussian that motion is estimated under."""
BORDER = 1 / 16
"""Share of each side whose pixels, which come and go with a motion, do not count."""
ITERATIONS = 4
MOST_SHIFT, MOST_ANGLE, MOST_SCALE = 0.06, 0.09, 0.06
"""Most that is undone: a share of each side, radians, a share of the size. What is further off stays an anomaly."""
MOST_SLOPE, MOST_GAIN = 0.4, 2.5
"""Most that is undone of light: the change from middle to border, and the factor (or one over it) of contrast."""
RECOVERED = 0.7
"""Least share of known motions of normal images that ``"auto"`` must find again to undo motions at all."""
_STATE = ("channel_mean", "channel_std", "moments", "reference", "solver")
_RIDGE = 1e-3
_TINY = 1e-6


class Registration(nn.Module):
    """Light and place of normal images, and images brought to them.

    Statistics are part of the state, with the shape that they have there; empty until they are gathered. ``"none"`` has
    no state: checkpoints are those of a model without.

    Args:
        kind: ``"none"`` changes nothing; ``"light"`` corrects gain, offset and a linear slope of light; ``"position"``
            also undoes shifts, turns and changes of size; ``"auto"`` does so where it finds known motions of normal
            images again, as it does of products that lie alike in every picture.

    Raises:
        ValueError: If there is no such kind.
    """

    channel_mean: Tensor
    channel_std: Tensor
    moments: Tensor
    reference: Tensor
    solver: Tensor

    def __init__(self, kind: str) -> None:
        super().__init__()
        check_choice("registration", kind, REGISTRATIONS)
        self.kind = kind
        self._names = () if kind == "none" else _STATE
        for name in self._names:
            self.register_buffer(name, torch.empty(0))

    @property
    def needs_statistics(self) -> bool:
        """Whether normal images have anything to tell."""
        return self.kind != "none"

    def forget(self) -> None:
        """Drop the statistics: images have another size from now on."""
        for name in self._names:
            setattr(self, name, torch.empty(0, device=getattr(self, name).device))

    @torch.no_grad()
    def gather(self, image: Tensor) -> None:
        """Take over what normal images look like.

        Args:
            image: Normal images in [0, 1], ``(N, C, H, W)``.
        """
        self.forget()
        image = image.float()
        if self.kind == "position" or (self.kind == "auto" and self._lie_alike(image)):
            self._gather_place(image)
            image = _undone(image, self.motion(image))
        self.moments = _moments(image).mean(dim=0)
        level = self._without_slope(image)
        self.channel_mean = level.mean(dim=(0, 2, 3), keepdim=True)[0]
        self.channel_std = level.std(dim=(2, 3), keepdim=True).mean(dim=0)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """Bring images to the light and place of normal ones.

        Convention: float32, also under mixed precision; the image itself for ``"none"``.

        Args:
            image: Batch in [0, 1], ``(N, C, H, W)``.

        Returns:
            Images in [0, 1], and their motion for :meth:`back`: angle in radians, shift to the right and down as shares
            of width and height, share by which they are larger, ``(N, 4)``; None where position stays.

        Raises:
            ValueError: If statistics are needed and have not been gathered.
        """
        if self.kind == "none":
            return image, None
        if self.channel_mean.numel() == 0:
            msg = (
                f"registration is {self.kind!r}, but the statistics of normal images are missing: they are gathered "
                "before each validation of a training; train with validation, or load a checkpoint of such a training"
            )
            raise ValueError(msg)
        with torch.autocast(image.device.type, enabled=False):
            image, motion = image.float(), None
            if self.solver.numel():
                motion = self.motion(image)
                image = _undone(image, motion)
            level = self._without_slope(image)
            mean, std = level.mean(dim=(2, 3), keepdim=True), level.std(dim=(2, 3), keepdim=True)
            gain = (self.channel_std.float() / std.clamp(min=_TINY)).clamp(1 / MOST_GAIN, MOST_GAIN)
            return ((level - mean) * gain + self.channel_mean.float()).clamp(0, 1), motion

    def back(self, values_map: Tensor, motion: Tensor | None) -> Tensor:
        """Return maps of registered images at the places of the images as they came.

        What a registered image shows from beyond the border of the image, mirrored, has no place there.

        Args:
            values_map: ``(N, M, H, W)``.
            motion: From :meth:`forward`.
        """
        if motion is None:
            return values_map
        return moved(values_map, motion[:, 0], motion[:, 1:3], 1 + motion[:, 3], mode="bilinear")

    def motion(self, image: Tensor) -> Tensor:
        """Estimate how images lie against the mean normal image, ``(N, 4)``: angle, shift, share of size."""
        reference, solver = self.reference.float(), self.solver.float()
        coarse = _coarse(image)
        std, mean = torch.std_mean(coarse, dim=(2, 3), keepdim=True)
        coarse = (coarse - mean) / std.clamp(min=_TINY) * reference.std() + reference.mean()
        most = reference.new_tensor([MOST_ANGLE, MOST_SHIFT, MOST_SHIFT, MOST_SCALE])
        motion = torch.zeros_like(image[:, :1, 0, 0]) * most  # (N, 4)
        for _ in range(ITERATIONS):
            error = (_undone(coarse, motion) - reference).flatten(start_dim=1)
            motion = torch.maximum(torch.minimum(motion + error @ solver.mT, most), -most)
        return motion

    def _lie_alike(self, image: Tensor) -> bool:
        """Find out whether motions of some normal images can be found from others, and say so."""
        if len(image) == 1:
            return False
        self._gather_place(image[::2])
        found = self._recovered(image[1::2])
        self.reference, self.solver = (torch.empty(0, device=image.device) for _ in range(2))
        if found < RECOVERED:
            logger.warning("Position is not registered: %.2f of known motions were found, not %.1f.", found, RECOVERED)
            return False
        logger.info("Position is registered: %.2f of known motions were found, %.1f is needed.", found, RECOVERED)
        return True

    def _gather_place(self, image: Tensor) -> None:
        """Make the mean normal image and the least squares against it, of images that are themselves registered."""
        coarse = _coarse(image)
        for _ in range(3):
            self.reference = coarse.mean(dim=0, keepdim=True)
            self.solver = _solver(self.reference)
            coarse = _coarse(_undone(image, self.motion(image)))

    def _recovered(self, image: Tensor) -> float:
        """Return which share of known shifts of normal images is found again; turned rings show no turn."""
        draws = 2 * torch.rand(len(image), 2, generator=torch.Generator().manual_seed(0)).to(image) - 1
        shift = 0.5 * MOST_SHIFT * draws
        still = torch.zeros_like(shift[:, 0])
        found = self.motion(moved(image, still, shift, still + 1)) - self.motion(image)
        return 1 - ((found[:, 1:3] - shift).abs().mean() / shift.abs().mean()).item()

    def _without_slope(self, image: Tensor) -> Tensor:
        """Divide by a linear slope of light along each axis, found from first moments."""
        rows, columns = _axes(image)
        mean, by_row, by_column, _, _ = _moments(image).unbind(dim=1)
        normal, *firsts = self.moments.float()[:3]
        for axis, first, normal_first, second in zip(
            (rows, columns), (by_row, by_column), firsts, self.moments.float()[3:], strict=True
        ):
            # Of I (1 + r x) with moments m: M1 / M0 = (m1 + r m2) / (m0 + r m1).
            slope = (first * normal - normal_first * mean) / (second * mean - normal_first * first).clamp(min=_TINY)
            image = image / (1 + slope.clamp(-MOST_SLOPE, MOST_SLOPE)[:, None, None, None] * axis)
        return image

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:  # noqa: ANN401
        for name in _STATE:
            if name not in self._names:  # the host has warned of other scores
                state_dict.pop(prefix + name, None)
            else:  # empty of a model without, which the first image will tell
                saved = state_dict.setdefault(prefix + name, torch.empty(0))
                setattr(self, name, torch.empty_like(saved, device=getattr(self, name).device))
        super()._load_from_state_dict(state_dict, prefix, *args)


def _axes(image: Tensor) -> tuple[Tensor, Tensor]:
    """Return places from -1 to 1 along rows and columns, ``(H, 1)`` and ``(W,)``."""
    row, column = (torch.linspace(-1, 1, side, device=image.device, dtype=image.dtype) for side in image.shape[-2:])
    return row[:, None], column


def _moments(image: Tensor) -> Tensor:
    """Return the means of a grey image times 1, row, column, and the squares of these, ``(N, 5)``."""
    row, column = _axes(image)
    grey = image.mean(dim=1)
    return torch.stack([(grey * factor).mean(dim=(1, 2)) for factor in (1, row, column, row**2, column**2)], dim=1)


def _coarse(image: Tensor) -> Tensor:
    """Return grey images under a Gaussian, with every pixel that it leaves something to tell, ``(N, 1, h, w)``."""
    sigma = BLUR * min(image.shape[-2:])

    def weights(side: int) -> Tensor:
        step = max(1, round(sigma / 2))
        place = torch.arange(step // 2, side, step, device=image.device, dtype=image.dtype)
        pixel = torch.arange(side, device=image.device, dtype=image.dtype)
        return F.normalize(torch.exp(-(((place[:, None] - pixel) / sigma) ** 2) / 2), p=1, dim=1)

    # Two matrix products, as in resize.py: a convolution would be quantized to 8 bits with the network's.
    height, width = image.shape[-2:]
    return weights(height) @ image.mean(dim=1, keepdim=True) @ weights(width).mT


def _solver(reference: Tensor) -> Tensor:
    """Return the least squares from an image minus the reference to its motion, ``(4, h * w)``."""
    height, width = reference.shape[-2:]
    row, column = _axes(reference)
    step = 0.01
    motions = step * torch.eye(4, device=reference.device)[:, None]  # one at a time, (4, 1, 4)
    changes = [
        (moved(reference, m[:, 0], m[:, 1:3], 1 + m[:, 3]) - moved(reference, -m[:, 0], -m[:, 1:3], 1 - m[:, 3]))
        / (2 * step)
        for m in motions
    ]
    light = [torch.ones_like(reference), reference, reference * row, reference * column]
    counts = torch.zeros_like(reference)
    top, left = max(1, round(BORDER * height)), max(1, round(BORDER * width))
    counts[..., top:-top, left:-left] = 1
    unknowns = torch.cat([(counts * change).flatten(start_dim=1) for change in (*changes, *light)]).double()  # (8, h*w)
    unknowns_norm = unknowns.norm(dim=1, keepdim=True).clamp(min=_TINY)
    unknowns = unknowns / unknowns_norm
    normal = unknowns @ unknowns.mT + _RIDGE * torch.eye(len(unknowns), device=reference.device)
    solver: Tensor = torch.linalg.solve(normal, unknowns) / unknowns_norm
    return solver[:4].float()


def _undone(image: Tensor, motion: Tensor) -> Tensor:
    """Return images moved back: the inverse of a turn and a change of size about the centre, and a shift after them."""
    height, width = image.shape[-2:]
    angle, right, down, larger = motion.unbind(dim=1)
    scale = 1 / (1 + larger)
    cos, sin = angle.cos(), angle.sin()
    shift = torch.stack(
        [-(cos * right - sin * down * height / width), -(cos * down + sin * right * width / height)], dim=1
    )
    return moved(image, -angle, scale[:, None] * shift, scale)
