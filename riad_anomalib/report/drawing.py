"""What is drawn over a picture."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[Any]
"""As OpenCV has it: uint8, ``(H, W, 3)``, blue first."""

QUALITY = 90
"""Of a JPEG: two thirds of the bytes that OpenCV's own 95 takes, and no difference to be seen."""


def heat_over(image: Image, anomaly_map: NDArray[np.float32], pred_mask: NDArray[np.bool_]) -> Image:
    """Return the image under the map's colours (blue 0, red 1) with the mask's outline.

    Args:
        image: Picture, ``(H, W, 3)``.
        anomaly_map: Map in [0, 1], of any size.
        pred_mask: Mask, of any size.
    """
    height, width = image.shape[:2]
    heat = (anomaly_map.clip(0, 1) * 255).astype(np.uint8)  # before it is as large as the picture: twice as fast
    colours = cv2.applyColorMap(cv2.resize(heat, (width, height)), cv2.COLORMAP_JET)
    overlay: Image = cv2.addWeighted(image, 0.6, colours, 0.4, 0)
    return outline(overlay, pred_mask, (255, 255, 255))


def outline(image: Image, mask: NDArray[np.bool_], colour: tuple[int, int, int]) -> Image:
    """Draw a mask's outline, of any size, into the image and return it."""
    height, width = image.shape[:2]
    resized = cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
    outlines, _ = cv2.findContours(resized, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(image, outlines, -1, colour, 1 + width // 500)
    return image


def shrunk(image: Image, most: int) -> Image:
    """Return a picture of at most so many pixels a side."""
    height, width = image.shape[:2]
    scale = min(1, most / max(height, width))
    # OpenCV's mean over areas is ten times as slow where they are no whole number of pixels.
    whole = int(1 / scale)
    if whole > 1 and min(height, width) >= whole:
        rows, columns = height // whole, width // whole
        image = cv2.resize(image[: rows * whole, : columns * whole], (columns, rows), interpolation=cv2.INTER_AREA)
    size = max(1, round(scale * width)), max(1, round(scale * height))  # a narrow strip stays visible
    return cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)


def jpeg(image: Image) -> bytes:
    """Encode a picture.

    Raises:
        cv2.error: If it is too large for a JPEG.
    """
    is_encoded, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    if not is_encoded:
        height, width = image.shape[:2]
        msg = f"is {height}x{width}, of which OpenCV makes no JPEG: it has at most 65500 pixels a side"
        raise cv2.error(msg)
    return data.tobytes()
