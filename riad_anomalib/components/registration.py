"""Pictures brought to the light and place of normal ones, inside the graph: nothing is learnt, training stays as it is.

A network that was trained on pictures that never move takes each picture that has for an anomaly. Before it looks, the
picture's motion against the mean of normal ones is estimated by least squares (Lucas and Kanade 1981, in the inverse
form of Baker and Matthews 2004, with the light among the unknowns, or a ramp of light would pass for a motion) and
undone; then it is brought to their light (light.py), and both once more, since each is found better after the other.
"""

import logging
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from .arguments import check_choice
from .light import MOST_GAIN, axes, cut_off, moments, relit, whitening, without_slope
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
PASSES = 2
"""How often motion is found, each time in the light that was found after the time before."""
USUAL = 3.0
"""Standard deviations of normal images' turn and size up to which these are left alone: not worth resampling."""
RECOVERED = 0.7
"""Least share of known motions of normal images that ``"auto"`` must find again to register at all."""
_STATE = ("gathered", "channel_mean", "channel_std", "moments", "picture", "whitener", "usual", "reference", "solver")
_RIDGE = 1e-3
_TINY = 1e-6


class Registration(nn.Module):
    """Light and place of normal images, and images brought to them.

    Statistics are part of the state, with the shape that they have there; empty until they are gathered. ``"none"`` has
    no state: checkpoints are those of a model without.

    Args:
        kind: ``"none"`` changes nothing; ``"light"`` corrects gain, offset and a linear slope of light; ``"position"``
            also undoes shifts, turns and changes of size; ``"auto"`` does so where it finds known motions of normal
            images again, as it does of products that lie alike in every picture, and changes nothing elsewhere.

    Raises:
        ValueError: If there is no such kind.
    """

    gathered: Tensor
    channel_mean: Tensor
    channel_std: Tensor
    moments: Tensor
    picture: Tensor
    whitener: Tensor
    usual: Tensor
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
        self.gathered = image.new_ones(1)
        if self.kind == "auto" and not self._lie_alike(image):
            return
        if self.kind == "light":
            self.moments = moments(image).mean(dim=0)
            level = without_slope(image, self.moments)
            self.channel_mean = level.mean(dim=(0, 2, 3), keepdim=True)[0]
            self.channel_std = level.std(dim=(2, 3), keepdim=True).mean(dim=0)
            return
        self._gather_place(image)
        self.picture = _undone(image, self.motion(image)).mean(dim=0, keepdim=True)
        self.whitener = whitening(self.picture)
        motions = torch.cat([self._in_place(part)[1] for part in image.split(8)])
        self.usual = torch.stack([motions.mean(dim=0), motions.std(dim=0, correction=0)])

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
        if self.gathered.numel() == 0:
            msg = (
                f"registration is {self.kind!r}, but the statistics of normal images are missing: they are gathered "
                "before each validation of a training; train with validation, or load a checkpoint of such a training"
            )
            raise ValueError(msg)
        with torch.autocast(image.device.type, enabled=False):
            if self.picture.numel():
                return self._in_place(image.float())
            if self.channel_mean.numel():
                return self._in_light(image.float()), None
        return image, None

    def _in_light(self, image: Tensor) -> Tensor:
        """Return images with the light of normal ones, which show something else."""
        level = without_slope(image, self.moments.float())
        mean, std = level.mean(dim=(2, 3), keepdim=True), level.std(dim=(2, 3), keepdim=True)
        gain = (self.channel_std.float() / std.clamp(min=_TINY)).clamp(1 / MOST_GAIN, MOST_GAIN)
        return ((level - mean) * gain + self.channel_mean.float()).clamp(0, 1)

    def _in_place(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return images in the place and light of normal ones, and their motion."""
        ends, picture, whitener = cut_off(image), self.picture.float(), self.whitener.float()
        motion = self.motion(image)
        for _ in range(PASSES - 1):
            lit = relit(_undone(image, motion), _undone(ends, motion, mode="bilinear"), picture, whitener)
            motion = _at_most(_after(motion, self.motion(lit), image))
        if self.usual.numel():
            mean, std = self.usual.float()
            is_usual = (motion - mean).abs() <= std * std.new_tensor([USUAL, 0, 0, USUAL])
            motion = torch.where(is_usual, torch.zeros_like(motion), motion)
        return relit(_undone(image, motion), _undone(ends, motion, mode="bilinear"), picture, whitener), motion

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
        motion = torch.zeros_like(image[:, :1, 0, 0]) * reference.new_zeros(4)  # (N, 4)
        for _ in range(ITERATIONS):
            error = (_undone(coarse, motion) - reference).flatten(start_dim=1)
            most = 3 * error.abs().mean(dim=1, keepdim=True)  # a defect's is larger, and moves nothing by being so
            motion = _at_most(motion + torch.maximum(torch.minimum(error, most), -most) @ solver.mT)
        return motion

    def _lie_alike(self, image: Tensor) -> bool:
        """Find out whether motions of some normal images can be found from others, and say so."""
        if len(image) == 1:
            return False
        self._gather_place(image[::2])
        found = self._recovered(image[1::2])
        self.reference, self.solver = (torch.empty(0, device=image.device) for _ in range(2))
        if found < RECOVERED:
            logger.warning(
                "Not registered: %.2f of known motions of normal images were found, %.1f is needed; registration "
                "'light' corrects the lamp alone.",
                found,
                RECOVERED,
            )
            return False
        logger.info("Registered: %.2f of known motions of normal images were found, %.1f is needed.", found, RECOVERED)
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

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:  # noqa: ANN401
        for name in _STATE:
            if name not in self._names:  # the host has warned of other scores
                state_dict.pop(prefix + name, None)
            else:  # empty of a model without, which the first image will tell
                saved = state_dict.setdefault(prefix + name, torch.empty(0))
                setattr(self, name, torch.empty_like(saved, device=getattr(self, name).device))
        super()._load_from_state_dict(state_dict, prefix, *args)


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
    row, column = axes(reference)
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


def _at_most(motion: Tensor) -> Tensor:
    """Return motions no larger than what is undone."""
    most = motion.new_tensor([MOST_ANGLE, MOST_SHIFT, MOST_SHIFT, MOST_SCALE])
    return torch.maximum(torch.minimum(motion, most), -most)


def _after(first: Tensor, second: Tensor, image: Tensor) -> Tensor:
    """Return the motion against normal images of what the second is left of after the first is undone, ``(N, 4)``."""
    height, width = image.shape[-2:]
    (angle, right, down, larger), (more_angle, more_right, more_down, more) = (m.unbind(dim=1) for m in (first, second))
    cos, sin = (1 + larger) * angle.cos(), (1 + larger) * angle.sin()
    return torch.stack(
        [
            angle + more_angle,
            right + cos * more_right - sin * more_down * height / width,
            down + cos * more_down + sin * more_right * width / height,
            (1 + larger) * (1 + more) - 1,
        ],
        dim=1,
    )


def _undone(image: Tensor, motion: Tensor, mode: str = "bicubic") -> Tensor:
    """Return images moved back: the inverse of a turn and a change of size about the centre, and a shift after them."""
    height, width = image.shape[-2:]
    angle, right, down, larger = motion.unbind(dim=1)
    scale = 1 / (1 + larger)
    cos, sin = angle.cos(), angle.sin()
    shift = torch.stack(
        [-(cos * right - sin * down * height / width), -(cos * down + sin * right * width / height)], dim=1
    )
    return moved(image, -angle, scale[:, None] * shift, scale, mode=mode)
