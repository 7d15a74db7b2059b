"""How pictures of one and the same product differ on a line: variation of light and position.

Names and strengths are torchvision's where it has them (``ColorJitter``, ``RandomAffine``), else kornia's. Everything
is one operation on the whole batch, on its device, and each image has draws of its own. kornia's augmentations do the
same, but draw from the global generator alone, where statistics of normal images need a seed of their own, and resample
once for every kind of motion.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn import functional as F  # noqa: N812

from .arguments import finite_number
from .light import axes

_TINY = 1e-6


@dataclass(frozen=True, kw_only=True)
class Variation:
    """Strengths of variation: 0 switches one off, and each image draws uniformly up to it, in both directions.

    Args:
        brightness: Factor of the values within [1 - b, 1 + b], as ``ColorJitter``; in [0, 1]: lamp, exposure.
        contrast: Factor within [1 - c, 1 + c] of what lies above or below the image's mean; in [0, 1]: haze, offset.
        gamma: Exponent of the values within [1 - g, 1 + g]; in [0, 1).
        white_balance: Factor of each channel within [1 - w, 1 + w]; in [0, 1].
        illumination: Slope of light along each axis: at the borders a factor within [1 - i, 1 + i], 1 in the middle;
            in [0, 1], kornia's ``RandomLinearIllumination``.
        noise: Standard deviation up to which Gaussian noise is added; in [0, 1]. A network's target has the same noise.
        degrees: Angle within [-d, d] about the centre, as ``RandomAffine``; in [0, 180].
        translate: Shift along each axis within this share of its side, as ``RandomAffine``; in [0, 1].
        scale: Factor of size within [1 - s, 1 + s]; in [0, 1).
        still: Share of images that stay exactly as they are; in [0, 1).

    Raises:
        ValueError: If a strength is out of range, or there is none besides ``still``.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    gamma: float = 0.0
    white_balance: float = 0.0
    illumination: float = 0.0
    noise: float = 0.0
    degrees: float = 0.0
    translate: float = 0.0
    scale: float = 0.0
    still: float = 0.3

    def __post_init__(self) -> None:
        """Refuse strengths out of range."""
        for name, value in asdict(self).items():
            most = 180 if name == "degrees" else 1
            end = ")" if name in {"gamma", "scale", "still"} else "]"  # 1 would leave nothing, or vary nothing
            if not 0 <= finite_number(f"variation's {name}", value) <= most or (end == ")" and value == most):
                msg = f"variation's {name} is {value}: it must be in [0, {most}{end}; 0 switches it off"
                raise ValueError(msg)
        if not any(value for name, value in asdict(self).items() if name != "still"):
            msg = "variation has strengths of 0 alone: give one, such as brightness: 0.1, or no variation at all"
            raise ValueError(msg)

    @property
    def moves(self) -> bool:
        """Whether position varies."""
        return bool(self.degrees or self.translate or self.scale)


STRENGTHS = tuple(field.name for field in fields(Variation))


def plain_strengths(variation: Any) -> dict[str, float] | None:  # noqa: ANN401
    """Return the strengths that a user gave as a dictionary that checkpoints can hold; None for no variation.

    Args:
        variation: A mapping, OmegaConf's too, from names of :class:`Variation` to strengths, or None.

    Raises:
        ValueError: If it is anything else, a name is unknown or a strength out of range.
    """
    if variation is None or (isinstance(variation, Mapping) and not variation):
        return None
    if not isinstance(variation, Mapping):
        msg = f"variation is {variation!r}: give strengths by name, for example {{brightness: 0.1, degrees: 2}}"
        raise ValueError(msg)
    strengths = {str(name): strength for name, strength in variation.items()}
    if unknown := [name for name in strengths if name not in STRENGTHS]:
        msg = f"variation has no strength {', '.join(unknown)}: choose out of {', '.join(STRENGTHS)}"
        raise ValueError(msg)
    Variation(**strengths)
    return strengths


def vary(image: Tensor, variation: Variation, generator: Generator | None = None) -> Tensor:
    """Return each image moved and under other light.

    Position first, in one affine map with bicubic resampling, which unlike bilinear leaves edges sharp; then x^gamma,
    contrast, brightness, white balance, illumination and noise.

    Convention: beyond its border an image is mirrored, border pixels included; values are clipped to [0, 1]; float32 or
    better inside, also under autocast.

    Args:
        image: Batch in [0, 1], ``(N, C, H, W)``.
        variation: How much.
        generator: Where draws come from, on its own device; the global one of the image's device without.

    Returns:
        Batch in [0, 1] of the same type.
    """

    def draw(strength: float, channels: int = 1) -> Tensor:
        """Draw within [-strength, strength] for each image, ``(N, channels, 1, 1)``."""
        device = image.device if generator is None else generator.device
        uniform = torch.rand(len(image), channels, 1, 1, device=device, generator=generator).to(image.device)
        return strength * (2 * uniform - 1)

    with torch.autocast(image.device.type, enabled=False):
        clean = image.to(torch.promote_types(image.dtype, torch.float32))
        varied = clean
        if variation.moves:
            angle, scale = torch.deg2rad(draw(variation.degrees)), 1 + draw(variation.scale)
            varied = moved(varied, angle.flatten(), draw(variation.translate, 2).flatten(1), scale.flatten())
        if variation.gamma:
            varied = varied.clamp(min=_TINY) ** (1 + draw(variation.gamma))
        if variation.contrast:
            varied = torch.lerp(varied.mean(dim=(1, 2, 3), keepdim=True), varied, 1 + draw(variation.contrast))
        factor = (1 + draw(variation.brightness)) * (1 + draw(variation.white_balance, image.shape[1]))
        if variation.illumination:
            factor = factor * _ramp(clean, draw(variation.illumination, 2))
        varied = varied * factor
        if variation.noise:
            device = clean.device if generator is None else generator.device
            noise = torch.randn(clean.shape, device=device, generator=generator).to(clean)
            varied = varied + draw(variation.noise) * noise
        stays = draw(1) < 2 * variation.still - 1
        varied = torch.where(stays, clean, varied.clamp(0, 1))
    return varied.to(image.dtype)


def moved(image: Tensor, angle: Tensor, shift: Tensor, scale: Tensor, mode: str = "bicubic") -> Tensor:
    """Return images turned and scaled about their centre, then shifted.

    Convention: bicubic, clipped to [0, 1]; mirrored beyond the border, border pixels included. A positive angle turns
    the image so that its top goes to the left, as :func:`~riad_anomalib.components.corruption.turning` does.

    Args:
        image: Batch in [0, 1], ``(N, C, H, W)``.
        angle: In radians, ``(N,)``.
        shift: To the right and down, as shares of width and height, ``(N, 2)``.
        scale: Factor of size, greater than 0, ``(N,)``.
        mode: How it resamples, ``"bicubic"`` or ``"bilinear"``.
    """
    height, width = image.shape[-2:]
    cos, sin = angle.cos() / scale, angle.sin() / scale
    # What affine_grid takes: where a pixel of the result lies in the image, both in [-1, 1]; sides may differ.
    linear = torch.stack([cos, -sin * height / width, sin * width / height, cos], dim=1).view(-1, 2, 2)
    offset = linear @ (-2 * shift).unsqueeze(2)
    place = F.affine_grid(torch.cat([linear, offset], dim=2), list(image.shape), align_corners=False)
    resampled = F.grid_sample(image, place, mode=mode, padding_mode="reflection", align_corners=False)
    return resampled.clamp(0, 1)


def _ramp(image: Tensor, slope: Tensor) -> Tensor:
    """Return factors of light that change by so much from the middle to the borders, ``(N, 1, H, W)``."""
    row, column = axes(image)
    return 1 + slope[:, :1] * row + slope[:, 1:] * column
