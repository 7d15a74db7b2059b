"""Where pictures come from: a folder, an image, a video, a stream or a camera."""

import io
import os
import re
import stat
import warnings
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import cv2
import numpy as np
import PIL.ExifTags
import PIL.Image

from riad_anomalib.report import Image, in_order
from riad_anomalib.report.names import name_of

IMAGE_SUFFIXES = {".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
"""The files that anomalib reads as images."""

OTHER_PICTURE = re.compile(
    r"\.(apng|arw|avifs?|cr[23]|cur|dcm|dcx|dds|dib|dng|emf|eps|exr|fits?|gif|hdr|hei[cf]|hif|icns|ico|j2[ck]|jfif|jp2|"
    r"jpc|jpe|jp[fsx]|jxl|jxr|mpo|nef|orf|p[bfn]m|pcx|pic|psd|qoi|raf|ras|raw|rw2|sgi|svgz?|tga|wmf|x[bp]m)"
)
VIDEO = re.compile(r"\.(3gp|avi|flv|m4v|mkv|mov|mp4|mpe?g|mts|ogv|webm|wmv)")
"""What else somebody may take for a picture, by the suffix; anomalib's training sets are without it."""

NO_MEMORY = "needs more memory than there is: cut it into parts"

MAPPED = {"L", "P", "RGBX", "RGBA", "CMYK", "I;16", "I;16L", "I;16B"}
"""Modes of files that Pillow maps into memory as they are."""
TURNED = 4
"""Notes on orientation beyond this one exchange height and width."""

Frame = tuple[str, Image | str]
"""A picture of the source by its name; or why it cannot be used, which follows the name in a message."""


def open_source(source: str) -> Iterator[Frame]:
    """Find out what the source is and return its frames, named by their path in the folder or by their number.

    Args:
        source: A camera's number or device, a stream's URL, or the path of an image, a video or a folder of images,
            sub-folders included.

    Raises:
        ValueError: If there is no such source, or nothing in it.
    """
    if source.isdecimal() or source.startswith("/dev/video") or "://" in source:
        return _live(source)
    path = Path(source)
    try:
        mode = path.stat().st_mode
    except OSError as error:
        is_gone = isinstance(error, FileNotFoundError | NotADirectoryError)
        what = "does not exist" if is_gone else f"cannot be read ({error.strerror})"
        msg = f"source {source} {what}: give a folder, an image, a video, a stream or a camera's number"
        raise ValueError(msg) from error
    if stat.S_ISDIR(mode):
        return (_frame(file, path, problem) for file, problem in image_files(path).items())
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return iter([_frame(path, path.parent)])
    if OTHER_PICTURE.fullmatch(suffix):  # of which OpenCV would make a video of one frame, and read it in its own way
        msg = f"source {source} {other_kind(suffix)}"
        raise ValueError(msg)
    if not stat.S_ISREG(mode):  # another device, a pipe
        return _live(source)
    return _stream(source, f"source {source} is neither an image nor a video that OpenCV can open: convert it")


def image_files(folder: Path) -> dict[Path, str]:
    """Return the images of a folder and its sub-folders in their order, each with what is wrong with it or nothing.

    Links are followed. What would otherwise be missed without a word stands there too, with its reason: a folder that
    cannot be read or leads back to itself, a link to nothing, a picture of a kind that anomalib does not look for.

    Raises:
        ValueError: If there are none.
    """
    files = dict(_walk(folder))
    if folder in files:
        msg = f"source {folder} {files[folder]}"
        raise ValueError(msg)
    if not files:
        raise ValueError(no_images(str(folder)))
    return {file: files[file] for file in sorted(files, key=lambda file: in_order(file.relative_to(folder)))}


def _walk(folder: Path) -> Iterator[tuple[Path, str]]:
    folders: list[tuple[Path, frozenset[tuple[int, int]]]] = [(folder, frozenset())]
    while folders:
        place, above = folders.pop()
        try:
            status = place.stat()
            entries = list(os.scandir(place))
        except OSError as error:
            yield place, f"cannot be read: {error.strerror}"
            continue
        identity = status.st_dev, status.st_ino
        if identity in above:
            yield place, "is a link to a folder that it lies in: its pictures stand there"
            continue
        for entry in entries:
            file = place / entry.name
            if _is(entry.is_dir):
                folders.append((file, above | {identity}))
            elif (problem := _problem(entry, file.suffix.lower())) is not None:
                yield file, problem


def _is(kind: Callable[[], bool]) -> bool:
    try:
        return kind()
    except OSError:  # a link that leads to itself, or where nobody may look
        return False


def _problem(entry: os.DirEntry[str], suffix: str) -> str | None:
    """Return what is wrong with a picture of a folder, nothing or something; None where it is no picture."""
    is_broken_link = entry.is_symlink() and not _is(entry.is_file)
    if suffix in IMAGE_SUFFIXES:
        return "is a link to nothing" if is_broken_link else "" if _is(entry.is_file) else "is no file"
    if is_broken_link and not suffix:  # perhaps to a folder
        return "is a link to nothing"
    return other_kind(suffix) or None


def other_kind(suffix: str) -> str:
    """Return what is wrong with a picture or video among others by its suffix; nothing where that is neither."""
    if VIDEO.fullmatch(suffix):
        return "is a video among pictures: inspect it by itself"
    return f"ends in {suffix}, which anomalib does not read: convert it to .png" * bool(OTHER_PICTURE.fullmatch(suffix))


def no_images(source: str) -> str:
    """Return what is wrong with a source without images."""
    return f"no images in {source}: it needs files that end in {', '.join(sorted(IMAGE_SUFFIXES))}"


def _is_garbled(image: PIL.Image.Image) -> bool:
    """Tell whether Pillow maps a file into memory by the sides that its picture has once it is turned (Pillow 13)."""
    is_on_its_side = image.format == "TIFF" and image.getexif().get(PIL.ExifTags.Base.Orientation, 1) > TURNED
    tiles: list[tuple[object, ...]] = [*getattr(image, "tile", ())]
    return is_on_its_side and image.mode in MAPPED and len(tiles) == 1 and tiles[0][0] == "raw"


def decode(data: bytes) -> Image:
    """Return the image of a file's bytes, as anomalib reads it and to the bit.

    Raises:
        ValueError: If there is none, or more of it than memory; the message is what follows the picture's name.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large pictures, odd notes: anomalib trains on them
            image: PIL.Image.Image = PIL.Image.open(io.BytesIO(data))
            if not _is_garbled(image):
                image.load()
                if image.mode != "RGB":  # or it would be copied
                    image = image.convert("RGB")
                # What OpenCV draws on is blue first.
                return np.frombuffer(image.tobytes("raw", "BGR"), np.uint8).reshape(image.height, image.width, 3)
            msg = "is an uncompressed TIFF on its side, which Pillow garbles, in training too: save it upright"
    except PIL.UnidentifiedImageError:
        msg = "cannot be read: it is damaged, no image or of a kind that anomalib cannot read: save it as 8-bit PNG"
    except PIL.Image.DecompressionBombError:
        most = 2e-6 * (PIL.Image.MAX_IMAGE_PIXELS or 0)
        msg = f"has more than the {most:.0f} megapixels that Pillow reads, in training too: cut it into parts"
    except MemoryError:
        msg = NO_MEMORY
    except Exception as error:  # noqa: BLE001  # whatever the decoders of damaged files raise: SyntaxError, struct.error
        msg = f"cannot be read: {error or repr(error)}: is it whole?"
    raise ValueError(msg)


def decoded(data: bytes) -> Image | str:
    """Return the image of a file's bytes, or why there is none."""
    try:
        return decode(data)
    except ValueError as error:
        return str(error)


def _frame(path: Path, folder: Path, problem: str = "") -> Frame:
    name = name_of(path.relative_to(folder).as_posix())
    try:
        return name, problem or decoded(path.read_bytes())
    except OSError as error:
        return name, f"cannot be read: {error.strerror}"
    except MemoryError:
        return name, NO_MEMORY


def _live(source: str) -> Iterator[Frame]:
    if "://" in source:
        advice = "is the address right, and does it send? (folders: with --cluster)"
        return _stream(source, f"stream {source} cannot be opened: {advice}")
    problem = f"camera {source} cannot be opened: is it connected, permitted and not in use?"
    return _stream(int(source) if source.isdecimal() else source, problem)


def _stream(source: str | int, problem: str) -> Iterator[Frame]:
    capture = cv2.VideoCapture(source)
    if not capture.isOpened():
        raise ValueError(problem)
    is_file = isinstance(source, str) and Path(source).is_file()
    length = 0 if isinstance(source, int) else capture.get(cv2.CAP_PROP_FRAME_COUNT)
    is_live = not is_file and length <= 0
    if is_live:
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # or a model slower than the camera gets pictures of some frames ago

    # Of some formats the number of frames is an estimate, by length and rate.
    expected = max(1, 0.99 * length - 1)

    def frames() -> Iterator[Frame]:
        for number in count():
            is_read, image = capture.read()
            if is_read:
                yield f"{number:06}", image
                continue
            capture.release()
            if is_live:
                msg = f"{source} gave no picture after {number}: is the camera still connected, the stream sending?"
                raise OSError(msg)
            if number < expected:
                yield f"{number:06}", "cannot be read: the video breaks off here"
            return

    return frames()
