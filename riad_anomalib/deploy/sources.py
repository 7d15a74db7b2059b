"""Where pictures come from: a folder, an image, a video or a camera."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import cv2
import numpy as np

from riad_anomalib.report import Image
from riad_anomalib.report.names import name_of

IMAGE_SUFFIXES = {".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
"""The files that anomalib reads as images."""

Frame = tuple[str, Image | None]
"""A picture of the source by its name; None where it cannot be read."""


def open_source(source: str) -> Iterator[Frame]:
    """Find out what the source is and return its frames, named by their path in the folder or by their number.

    Args:
        source: A camera's number, or the path of an image, a video or a folder of images, sub-folders included.

    Raises:
        ValueError: If there is no such source, or nothing in it.
    """
    path = Path(source)
    if source.isdecimal():
        return _stream(int(source), f"camera {source} cannot be opened: is it connected, permitted and not in use?")
    if path.is_dir():
        return (_read(file, path) for file in image_files(path))
    if not path.is_file():
        msg = f"source {source} does not exist: give a folder, an image, a video or a camera's number"
        raise ValueError(msg)
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return iter([_read(path, path.parent)])
    return _stream(source, f"source {source} is neither an image nor a video that OpenCV can open: convert it")


def image_files(folder: Path) -> list[Path]:
    """Return the images of a folder and its sub-folders in their order.

    Raises:
        ValueError: If there are none.
    """
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file())
    if not files:
        raise ValueError(no_images(str(folder)))
    return files


def no_images(source: str) -> str:
    """Return what is wrong with a source without images."""
    return f"no images in {source}: it needs files that end in {', '.join(sorted(IMAGE_SUFFIXES))}"


def decode(data: bytes) -> Image | None:
    """Return the image of a file's bytes, None where they are none."""
    # Unlike imread, imdecode refuses a JPEG that breaks off, and Windows' paths may have any letter. The camera's note
    # on orientation is ignored, as anomalib does. 16 bits become 8, where anomalib makes white of them.
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:  # nothing in it
        return None


def _read(path: Path, folder: Path) -> Frame:
    name = name_of(path.relative_to(folder).as_posix())
    try:
        return name, decode(path.read_bytes())
    except OSError:
        return name, None


def _stream(source: str | int, problem: str) -> Iterator[Frame]:
    capture = cv2.VideoCapture(source)
    if not capture.isOpened():
        raise ValueError(problem)
    is_camera = isinstance(source, int)
    if is_camera:
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # or a model slower than the camera gets pictures of some frames ago

    # Of some formats the number of frames is an estimate, by length and rate.
    expected = 0 if is_camera else max(1, 0.99 * capture.get(cv2.CAP_PROP_FRAME_COUNT) - 1)

    def frames() -> Iterator[Frame]:
        for number in count():
            is_read, image = capture.read()
            # A video ends after its last frame; a camera that stops, or a video that breaks off, is broken.
            if is_read or is_camera or number < expected:
                yield f"{number:06}", image if is_read else None
            if not is_read:
                capture.release()
                return

    return frames()
