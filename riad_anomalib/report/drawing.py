"""What is drawn over a picture."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[Any]
"""As OpenCV has it: uint8, ``(H, W, 3)``, blue first."""


def heat_over(image: Image, anomaly_map: NDArray[np.float32], pred_mask: NDArray[np.bool_]) -> Image:
    """Return the image under the map's colours (blue 0, red 1) with the mask's outline.

    Args:
        image: Picture, ``(H, W, 3)``.
        anomaly_map: Map in [0, 1], of any size.
        pred_mask: Mask, of any size.
    """
    height, width = image.shape[:2]
    heat = (cv2.resize(anomaly_map, (width, height)).clip(0, 1) * 255).astype(np.uint8)
    overlay: Image = cv2.addWeighted(image, 0.6, cv2.applyColorMap(heat, cv2.COLORMAP_JET), 0.4, 0)
    return outline(overlay, pred_mask, (255, 255, 255))


def outline(image: Image, mask: NDArray[np.bool_], colour: tuple[int, int, int]) -> Image:
    """Draw a mask's outline, of any size, into the image and return it."""
    height, width = image.shape[:2]
    resized = cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
    outlines, _ = cv2.findContours(resized, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(image, outlines, -1, colour, 1 + width // 500)
    return image


def jpeg(image: Image) -> bytes:
    """Encode a picture.

    Raises:
        cv2.error: If it is too large for a JPEG.
    """
    is_encoded, data = cv2.imencode(".jpg", image)
    if not is_encoded:
        height, width = image.shape[:2]
        msg = f"is {height}x{width}, of which OpenCV makes no JPEG: it has at most 65500 pixels a side"
        raise cv2.error(msg)
    return data.tobytes()
