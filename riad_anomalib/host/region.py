"""A region of interest as a user draws it: a picture in which white is inspected."""

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from .loaders import parts

WHITE = 128
"""Least grey value, of 255, of what is inspected: edges may be soft."""
ASPECT_TOLERANCE = 0.05
"""Share by which the region's width over height may differ from a picture's."""


def read_region(path: str | Path | None) -> Tensor | None:
    """Read the picture of a region.

    Returns:
        True where it is white, ``(h, w)``; None without a path.

    Raises:
        ValueError: If there is no such picture, or nothing in it is white.
    """
    if path is None:
        return None
    try:
        with Image.open(path) as picture:
            grey = picture.convert("RGBA" if "A" in picture.getbands() else "L").convert("L")
            mask = torch.frombuffer(bytearray(grey.tobytes()), dtype=torch.uint8).view(grey.height, grey.width) >= WHITE
    except (OSError, ValueError) as error:
        msg = f"region {path} cannot be read ({error}): give a picture, white where products are inspected"
        raise ValueError(msg) from error
    if not mask.any():
        msg = f"region {path} covers nothing: draw what is to be inspected in white, all else in black"
        raise ValueError(msg)
    return mask


def check_aspect(datamodule: Any, mask: Tensor) -> None:  # noqa: ANN401
    """Refuse a region of another shape than the first of a data module's pictures, whatever these are resized to.

    Raises:
        ValueError: If it has another.
    """
    for name in ("train_data", "val_data", "test_data"):
        for part in parts(getattr(datamodule, name, None)):
            paths = part.samples["image_path"].tolist() if "image_path" in getattr(part, "samples", ()) else []
            if not paths or not Path(paths[0]).is_file():  # frames of a video
                continue
            with Image.open(paths[0]) as picture:
                width, height = picture.size
            if not abs(mask.shape[1] / mask.shape[0] * height / width - 1) <= ASPECT_TOLERANCE:
                msg = (
                    f"the region is {mask.shape[0]}x{mask.shape[1]} pixels, {Path(paths[0]).name} {height}x{width}, "
                    "which has another shape: draw the region over a picture as it comes from the camera"
                )
                raise ValueError(msg)
