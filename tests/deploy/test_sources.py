import io
import os
import re
import struct
import warnings
from itertools import product
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from anomalib.data.utils import read_image
from inspections import page, picture, rows, run, write_video
from numpy.typing import NDArray
from PIL import Image

from riad_anomalib import deploy
from riad_anomalib.deploy.sources import IMAGE_SUFFIXES, decode

CAMERA_FRAMES = 5


def expected(path: Path) -> NDArray[np.float32] | None:
    """Return what anomalib's inferencers take, None where they fail."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return np.asarray(read_image(path), np.float32).transpose(2, 0, 1)[None]
        except OSError:
            return None


def assert_read_alike(path: Path) -> None:
    """One rule for training and deployment: the same to the bit, or neither."""
    wanted = expected(path)
    ((_, image),) = deploy.open_source(str(path))
    if str(image) == "is an uncompressed TIFF on its side, which Pillow garbles, in training too: save it upright":
        assert (path.suffix[:4], path.stem) == (".tif", "1")
        assert wanted is not None
        assert wanted.shape[2:] == (24, 31)  # and not upright, as it is of others
    elif wanted is None:
        assert str(image).startswith("cannot be read: it is damaged, no image or of a kind that anomalib cannot read: ")
    else:
        assert not isinstance(image, str), (path, image)
        np.testing.assert_array_equal(deploy.as_input(image), wanted, str(path))


MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB")
DEEP = ("I;16", "I;16B", "I", "F")


@pytest.mark.parametrize("mode", [*MODES, *DEEP])
def test_every_picture_that_pillow_writes_is_read_as_anomalib_reads_it(mode: str, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (24, 31, 4), np.uint8)
    if mode in DEEP:
        spread = np.linspace(-300, 900, values[..., 0].size).reshape(values[..., 0].shape)
        image = Image.fromarray(spread.astype(np.float32)).convert("I" if mode != "F" else "F").convert(mode)
    else:
        channels = Image.new(mode, (1, 1)).getbands()
        image = Image.frombytes(mode, (31, 24), values[..., : len(channels)].tobytes())
        if mode in {"P", "PA"}:
            image.putpalette(values[:4].tobytes()[:768].ljust(768, b"x"))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    options: list[dict[str, Any]] = [{}, {"exif": exif}, {"transparency": 3}, {"compression": "tiff_lzw"}]
    options += [{"save_all": True, "append_images": [image.transpose(Image.Transpose.ROTATE_180)]}, {"lossless": True}]
    written = 0
    for suffix, (number, more) in product(IMAGE_SUFFIXES, enumerate(options)):
        path = tmp_path / f"{number}{suffix}"
        try:
            image.save(path, **more)
        except (OSError, ValueError, SystemError, TypeError, AttributeError, KeyError, struct.error):
            continue  # there is no such file
        assert_read_alike(path)
        written += 1
    assert written or mode in {"La", "RGBa", "PA", "HSV"}


@pytest.mark.parametrize(
    ("shape", "kind", "options"),
    [
        ((24, 31), "uint16", {"photometric": "miniswhite"}),
        ((24, 31), "int16", {}),
        ((24, 31), "uint32", {}),
        ((24, 31), "float64", {}),
        ((24, 31, 3), "uint16", {"photometric": "rgb"}),
        ((24, 31, 3), "float32", {"photometric": "rgb"}),
        ((3, 24, 31), "uint8", {"photometric": "rgb", "planarconfig": "separate"}),
        ((24, 31, 4), "uint8", {"photometric": "rgb", "extrasamples": ["ASSOCALPHA"]}),
        ((24, 31, 4), "uint8", {"photometric": "rgb", "extrasamples": ["UNASSALPHA"]}),
        ((24, 31, 4), "uint8", {"photometric": "rgb", "extrasamples": ["UNSPECIFIED"]}),
        ((24, 31, 4), "uint8", {"photometric": "separated"}),
        ((24, 31, 5), "uint8", {"photometric": "minisblack", "planarconfig": "contig"}),
        ((2, 24, 31, 3), "uint8", {"photometric": "rgb"}),
        ((24, 31, 3), "uint8", {"photometric": "rgb", "compression": "jpeg", "tile": (16, 16)}),
    ],
)
def test_every_tiff_of_cameras_and_microscopes_is_read_as_anomalib_reads_it(
    shape: tuple[int, ...], kind: str, options: dict[str, Any], tmp_path: Path
) -> None:
    pixels = np.random.default_rng(0).integers(0, 60000 if kind == "uint16" else 100, shape).astype(kind)
    tifffile.imwrite(tmp_path / "a.tif", pixels, **options)
    assert_read_alike(tmp_path / "a.tif")


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".bmp", ".webp", ".ppm"])
def test_a_file_that_breaks_off_is_no_picture(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)).save(path)
    whole = path.read_bytes()
    for share in (0.0, 0.01, 0.2, 0.6, 0.97):
        with pytest.raises(ValueError, match=r"^cannot be read: .*(is it whole\?|save it as 8-bit PNG)$"):
            decode(whole[: int(share * len(whole))])


def test_a_picture_of_many_megapixels_is_read_as_far_as_pillow_does_and_then_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(picture(3)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", picture(3).size // 3 - 1)  # as it warns, at 89 megapixels
    assert_read_alike(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", picture(3).size // 3 // 2 - 1)
    ((_, problem),) = deploy.open_source(str(tmp_path))
    reason = r"has more than the \d+ megapixels that Pillow reads, in training too: cut it into parts"
    assert re.fullmatch(reason, str(problem))


def test_every_picture_of_a_folder_is_in_the_table_with_a_score_or_a_reason(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, elsewhere, output = tmp_path / "source", tmp_path / "elsewhere", tmp_path / "output"
    for folder in (source / "locked", source / "Café.png", elsewhere / "b"):
        folder.mkdir(parents=True)
    for path in (source / "a.png", source / "Café.png/x.PNG", elsewhere / "b/c.png", source / "huge.png"):
        Image.fromarray(picture(3)).save(path)
    for name in ("x.gif", "y.JFIF", "z.jp2", "belt.mp4", "notes.txt", "Thumbs.db"):
        (source / name).touch()
    (source / "linked").symlink_to(elsewhere)
    (elsewhere / "b/up").symlink_to(source / "linked")
    (source / "gone.png").symlink_to(tmp_path / "nothing")
    (source / "gone").symlink_to(tmp_path / "nothing")
    (source / "self.png").symlink_to(source / "self.png")
    os.mkfifo(source / "pipe.png")
    scandir, locked, huge = os.scandir, source / "locked", b"huge"

    def refuse(path: Path) -> Any:
        if path == locked:
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    (source / "huge.png").write_bytes(huge)
    open_image = Image.open

    def run_out(file: io.BytesIO) -> Any:
        if file.getvalue() == huge:
            raise MemoryError
        return open_image(file)

    monkeypatch.setattr(os, "scandir", refuse)
    monkeypatch.setattr(Image, "open", run_out)
    assert run(exported, source, "--output", output) == 1
    out, err = capsys.readouterr()
    anomalib = "which anomalib does not read: convert it to .png"
    problems = {
        "belt.mp4": "is a video among pictures: inspect it by itself",
        "gone": "is a link to nothing",
        "gone.png": "is a link to nothing",
        "huge.png": "needs more memory than there is: cut it into parts",
        "linked/b/up": "is a link to a folder that it lies in: its pictures stand there",
        "locked": "cannot be read: Permission denied",
        "pipe.png": "is no file",
        "self.png": "is a link to nothing",
        "x.gif": f"ends in .gif, {anomalib}",
        "y.JFIF": f"ends in .jfif, {anomalib}",
        "z.jp2": f"ends in .jp2, {anomalib}",
    }
    table = {row["name"]: row for row in rows(output)}
    assert len(table) == len(rows(output))
    scored = {name for name, row in table.items() if row["verdict"]}
    assert scored == {"a.png", "Café.png/x.PNG", "linked/b/c.png"}
    for name, row in table.items():
        assert (row["score"] == "") == (row["verdict"] == "") == (row["reason"] != "") == (name not in scored)
    assert {name: row["reason"] for name, row in table.items() if name not in scored} == problems
    assert "3 frames" in out
    assert " 11 skipped" in out
    assert {line for line in err.splitlines() if line} == {f"skipped: {name} {what}" for name, what in problems.items()}
    assert {*page(output)["notes"]} == {f"Skipped: {name} {what}" for name, what in problems.items()}


def test_a_picture_of_a_kind_that_anomalib_does_not_read_is_no_video_either(tmp_path: Path) -> None:
    Image.fromarray(picture(3)).save(tmp_path / "a.gif")
    with pytest.raises(ValueError, match=r"a\.gif ends in \.gif, which anomalib does not read: convert it to \.png"):
        deploy.open_source(str(tmp_path / "a.gif"))


class Camera:
    """Gives a few pictures, then none."""

    def __init__(self, source: int | str) -> None:
        assert source in {7, "/dev/video7", "rtsp://7"}
        self.settings: dict[int, float] = {}
        self.left = CAMERA_FRAMES

    def isOpened(self) -> bool:  # noqa: N802
        return True

    def get(self, key: int) -> float:
        assert key == cv2.CAP_PROP_FRAME_COUNT
        return -1.0

    def set(self, key: int, value: float) -> None:
        self.settings[key] = value

    def read(self) -> tuple[bool, NDArray[Any] | None]:
        assert self.settings == {cv2.CAP_PROP_BUFFERSIZE: 1}
        self.left -= 1
        return (True, picture(self.left)) if self.left >= 0 else (False, None)

    def release(self) -> None:
        pass


@pytest.mark.parametrize(
    ("source", "mode"), [("7", "latency"), ("7", "throughput"), ("/dev/video7", "latency"), ("rtsp://7", "latency")]
)
def test_a_camera_or_stream_that_stops_ends_the_run_with_all_that_came(
    source: str,
    mode: str,
    exported: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    assert run(exported, source, "--mode", mode, "--output", tmp_path) == 2
    out, err = capsys.readouterr()
    assert [line.split()[0] for line in out.splitlines()[:-2]] == [f"{i:06}" for i in range(CAMERA_FRAMES)]
    problem = f"{source} gave no picture after 5: is the camera still connected, the stream sending?"
    assert err == f"error: stopped after 5 frames: {problem}\n"
    assert page(tmp_path)["notes"] == [f"The run ended early, after 5 pictures: {problem}."]


def test_a_camera_that_fails_ends_the_run(
    exported: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    class FailingCamera(Camera):
        def read(self) -> tuple[bool, NDArray[Any] | None]:
            if self.left == 1:
                msg = "no such format"
                raise cv2.error(msg)
            return super().read()

    monkeypatch.setattr(cv2, "VideoCapture", FailingCamera)
    assert run(exported, "7") == 2
    out, err = capsys.readouterr()
    assert err == f"error: stopped after {CAMERA_FRAMES - 1} frames: no such format\n"
    assert out.splitlines()[-2].startswith(f"{CAMERA_FRAMES - 1} frames")


def test_a_video_that_breaks_off_is_reported_and_its_frames_are_kept(
    exported: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    video = write_video(tmp_path / "whole.avi", 20)
    broken = tmp_path / "broken.avi"
    broken.write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    assert run(exported, broken, "--output", tmp_path / "output") == 1
    *whole, end = rows(tmp_path / "output")
    assert [row["name"] for row in [*whole, end]] == [f"{i:06}" for i in range(len(whole) + 1)]
    assert 5 < len(whole) < 15
    assert (end["verdict"], end["reason"]) == ("", "cannot be read: the video breaks off here")
    assert capsys.readouterr().err == f"skipped: {end['name']} {end['reason']}\n"
    assert run(exported, video) == 0
