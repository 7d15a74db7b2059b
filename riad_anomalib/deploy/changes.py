"""What a line does to pictures: 13 changes of lamp, position, optics and camera, each at three strengths.

Pictures are changed as they are read, before anything resizes them. Lengths are in 1/256 of the shorter side, so that a
change is the same for a product whatever the camera's resolution.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from riad_anomalib.report import Image

_Values = NDArray[np.float32]


@dataclass(frozen=True)
class Change:
    """A change by its name: what it does at a strength, and the strengths from mild to strong."""

    name: str
    unit: str
    """What a strength is, to follow the number."""
    strengths: tuple[float, float, float]
    values: Callable[[_Values, float], _Values]
    """From values in [0, 1], ``(H, W, 3)``, blue first, and a strength to values that may leave it."""

    def apply(self, image: Image, strength: float) -> Image:
        """Return a changed picture, uint8, ``(H, W, 3)``."""
        changed = self.values(image.astype(np.float32) / np.float32(255), strength)
        return (changed.clip(0, 1) * 255).round().astype(np.uint8)


def _length(values: _Values, strength: float) -> float:
    """Return a length in pixels."""
    return float(strength / 256 * min(values.shape[:2]))


def _ramp(values: _Values, strength: float) -> _Values:
    return values * np.linspace(1 - strength, 1 + strength, values.shape[1], dtype=np.float32)[:, None]


def _contrast(values: _Values, strength: float) -> _Values:
    mean: _Values = values.mean(axis=(0, 1), keepdims=True)
    return mean + (values - mean) * np.float32(strength)


def _white_balance(values: _Values, strength: float) -> _Values:
    return values * np.array([1 - strength, 1, 1 + strength], np.float32)  # redder: blue comes first


def _warp(values: _Values, matrix: Any) -> _Values:  # noqa: ANN401  # OpenCV's
    height, width = values.shape[:2]
    return cv2.warpAffine(values, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[return-value]


def _shift(values: _Values, strength: float) -> _Values:
    pixels = _length(values, strength)
    return _warp(values, np.array([[1, 0, pixels], [0, 1, pixels]], np.float64))


def _about_the_centre(values: _Values, degrees: float, scale: float) -> _Values:
    height, width = values.shape[:2]
    return _warp(values, cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, scale))


def _blur(values: _Values, strength: float) -> _Values:
    return cv2.GaussianBlur(values, (0, 0), _length(values, strength), borderType=cv2.BORDER_REFLECT)  # type: ignore[return-value]


def _noise(values: _Values, strength: float) -> _Values:
    noise = np.random.default_rng(0).standard_normal(values.shape, np.float32)  # the same for the same picture
    return values + np.float32(strength) * noise


def _jpeg(values: _Values, strength: float) -> _Values:
    picture = (values * 255).round().astype(np.uint8)
    _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, int(strength)])
    decoded: Any = cv2.imdecode(data, cv2.IMREAD_COLOR)
    return decoded.astype(np.float32) / np.float32(255)  # type: ignore[no-any-return]  # OpenCV's


CHANGES = (
    Change("darker", "of the light", (0.95, 0.9, 0.75), lambda values, gain: values * np.float32(gain)),
    Change("brighter", "of the light", (1.05, 1.1, 1.25), lambda values, gain: values * np.float32(gain)),
    Change("offset", "of the range", (0.02, 0.05, 0.1), lambda values, offset: values + np.float32(offset)),
    Change("gamma", "exponent", (1.1, 1.2, 1.4), lambda values, gamma: values ** np.float32(gamma)),
    Change("ramp", "at left and right", (0.07, 0.15, 0.3), _ramp),
    Change("contrast", "of the contrast", (0.9, 0.8, 0.6), _contrast),
    Change("white balance", "of red and blue", (0.03, 0.06, 0.12), _white_balance),
    Change("shift", "of 256 pixels", (2, 4, 8), _shift),
    Change("turn", "degrees", (1, 2, 4), lambda values, degrees: _about_the_centre(values, degrees, 1)),
    Change("closer", "of the size", (1.01, 1.02, 1.04), lambda values, scale: _about_the_centre(values, 0, scale)),
    Change("blur", "of 256 pixels", (0.5, 1, 2), _blur),
    Change("noise", "of the range", (0.01, 0.02, 0.04), _noise),
    Change("JPEG", "quality", (75, 50, 25), _jpeg),
)
"""All of them."""
