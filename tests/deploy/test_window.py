import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inspections import rows, run
from numpy.typing import NDArray
from PIL import Image

from riad_anomalib import deploy


@pytest.fixture
def ending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Say how the window ends, see fake_tkinter.py, and get the folder of the pictures that it showed."""
    (tmp_path / "fake").mkdir()
    shutil.copy(Path(__file__).with_name("fake_tkinter.py"), tmp_path / "fake" / "tkinter.py")
    monkeypatch.syspath_prepend(tmp_path / "fake")  # the window's process begins with the path of this one

    def end(how: str, picture: int = 0, later: int = 0) -> Path:
        shown = tmp_path / "shown"
        shown.mkdir()
        for name, value in (("SHOWN", shown), ("ENDING", how), ("PICTURE", picture), ("LATER", later)):
            monkeypatch.setenv(f"FAKE_{name}", str(value))
        return shown

    return end


def opened(folder: Path) -> list[NDArray[Any]]:
    return [np.array(Image.open(path)) for path in sorted(folder.glob("*.ppm"))]


@pytest.mark.parametrize(
    ("how", "mode"),
    [("<q>", "latency"), ("<Escape>", "latency"), ("WM_DELETE_WINDOW", "latency"), ("WM_DELETE_WINDOW", "throughput")],
)
def test_closing_the_window_ends_the_run(
    how: str,
    mode: str,
    exported: Path,
    video: Path,
    tmp_path: Path,
    ending: Callable[..., Path],
) -> None:
    shown, output = ending(how, picture=2), tmp_path / "output"
    assert run(exported, video, "--show", "--mode", mode, "--output", output) == 0
    assert len(opened(shown)) == 2
    in_flight = len(deploy.infer_requests(deploy.load_model(exported, "CPU", mode, "f32"), mode)) - 1
    table = rows(output)
    assert len(table) == min(2 + in_flight, 6)  # what was started is finished
    for row, pixels in zip(table, opened(shown), strict=False):
        with Image.open(output / f"{row['name']}.jpg") as saved:
            difference = np.array(saved).astype(int) - pixels
        assert np.abs(difference).mean() < 10  # JPEG


@pytest.mark.parametrize("how", ["exit", "TclError"])
def test_losing_the_window_ends_the_run_with_its_summary(
    how: str,
    exported: Path,
    video: Path,
    tmp_path: Path,
    ending: Callable[..., Path],
    capfd: pytest.CaptureFixture[str],
) -> None:
    ending(how, picture=2)
    assert run(exported, video, "--show", "--output", tmp_path / "output") == 2
    out, err = capfd.readouterr()
    assert re.fullmatch(r"error: stopped after 2 frames: the window is gone, .*\n", err)
    assert out.splitlines()[2].startswith("2 frames")
    assert len(rows(tmp_path / "output")) == 2


@pytest.mark.parametrize("how", ["<q>", "exit"])
def test_the_last_picture_stays_until_the_window_ends(
    how: str,
    exported: Path,
    pictures: Path,
    ending: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    shown = ending(how, picture=6, later=9)
    assert run(exported, pictures, "--show") == 0
    assert (shown / "ended").exists()
    assert "6 frames" in capsys.readouterr().out


def test_what_is_shown_fits_the_screen_and_is_never_nothing(
    exported: Path,
    tmp_path: Path,
    ending: Callable[..., Path],
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name, size in (("1.png", (56, 40)), ("2.png", (400, 300)), ("3.png", (1, 5000))):
        Image.new("RGB", size).save(source / name)
    shown = ending("<q>", picture=3)
    assert run(exported, source, "--show") == 0
    assert [pixels.shape for pixels in opened(shown)] == [(40, 56, 3), (90, 120, 3), (90, 1, 3)]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("no display", r"--show needs a display \(no display name .*\): use --output instead"),
        ("no tkinter", r"--show needs tkinter: install it .*"),
    ],
)
def test_without_a_window_nothing_is_begun(
    how: str,
    message: str,
    exported: Path,
    pictures: Path,
    tmp_path: Path,
    ending: Callable[..., Path],
    capfd: pytest.CaptureFixture[str],
) -> None:
    ending(how)
    assert run(exported, pictures, "--show", "--output", tmp_path / "output") == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert re.fullmatch(rf"error: {message}\n", err)
    assert not (tmp_path / "output").exists()
