from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from inspections import picture, rows, run, write_video
from numpy.typing import NDArray

from riad_anomalib import deploy

CAMERA_FRAMES = 5


def test_16_bits_are_scaled_to_8(tmp_path: Path) -> None:
    deep = picture(3).astype(np.uint16) * 257
    cv2.imwrite(str(tmp_path / "deep.png"), deep)
    ((_, image),) = deploy.open_source(str(tmp_path))
    np.testing.assert_array_equal(image, picture(3))


class Camera:
    """Gives a few pictures, then none."""

    def __init__(self, number: int) -> None:
        assert number == 7
        self.settings: dict[int, float] = {}
        self.left = CAMERA_FRAMES

    def isOpened(self) -> bool:  # noqa: N802
        return True

    def set(self, key: int, value: float) -> None:
        self.settings[key] = value

    def read(self) -> tuple[bool, NDArray[Any] | None]:
        assert self.settings == {cv2.CAP_PROP_BUFFERSIZE: 1}
        self.left -= 1
        return (True, picture(self.left)) if self.left >= 0 else (False, None)

    def release(self) -> None:
        pass


def test_a_camera_that_stops_is_reported(
    exported: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    assert run(exported, "7") == 1
    out, err = capsys.readouterr()
    assert [line.split()[0] for line in out.splitlines()[:-2]] == [f"{i:06}" for i in range(CAMERA_FRAMES)]
    assert err.startswith("skipped: 000005 cannot be read")
    assert err.count("\n") == 1


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
    names = [row["name"] for row in rows(tmp_path / "output")]
    assert names == [f"{i:06}" for i in range(len(names))]
    assert 5 < len(names) < 15
    assert capsys.readouterr().err.startswith(f"skipped: {len(names):06} cannot be read")
    assert run(exported, video) == 0
