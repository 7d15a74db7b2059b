import errno
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from inspections import HOSTILE, hostile, page

from riad_anomalib.report import Report


def test_no_name_ends_the_script_that_carries_it(tmp_path: Path) -> None:
    hostile(tmp_path)
    told = page(tmp_path)
    assert [row["name"] for row in told["rows"]] == HOSTILE
    assert (told["heading"], told["notes"]) == (HOSTILE[0], [HOSTILE[2]])
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert text.count("<script") == 2
    assert "owned = 1</script>" not in text


@pytest.mark.parametrize(
    ("scores", "verdicts"),
    [
        ([0.1, 0.5, 0.7], [False, False, True]),
        ([3.0, 7.0, 5.0], [False, True, False]),
        ([0.1, 0.2], [True, True]),
        ([0.8, 0.9], [False, False]),
        ([math.nan, 0.1], [False, True]),
        ([], []),
    ],
)
def test_the_threshold_gives_the_verdicts_of_the_run(scores: list[float], verdicts: list[bool], tmp_path: Path) -> None:
    report = Report(tmp_path, "x", "x")
    for score, verdict in zip(scores, verdicts, strict=True):
        report.add("x", score, verdict)
    report.write()
    told = page(tmp_path)
    for row in told["rows"]:
        assert row["score"] is None or (row["score"] > told["threshold"]) == row["is_anomalous"]


def inspected(folder: Path, grey: int, *names: str) -> Report:
    """A report of grey pictures, and an overlay of each."""
    report = Report(folder, str(grey), "x")
    for name in names:
        report.add(name, 0.5, False)
        report.show(np.full((30, 40, 3), grey, np.uint8), np.zeros((6, 8), np.float32), np.zeros((6, 8), np.bool_))
        report.run.overlay(f"{name}.jpg", bytes([grey]))
    return report


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_earlier_page_stays_whole_until_the_next_one_is_and_then_all_of_it_goes(tmp_path: Path) -> None:
    inspected(tmp_path / "only", 9, "a", "A/c").write()
    inspected(tmp_path, 7, "a", "b", "line/c", "mine/d").write()
    users = ("mine/note.jpg", "report_files/note.jpg", "own.jpg")
    for name in users:
        (tmp_path / name).write_bytes(b"mine")
    first = contents(tmp_path)
    inspected(tmp_path, 8, "a", "e")  # and is killed
    now = contents(tmp_path)
    assert {name: now[name] for name in first if name != "a.jpg"} == {
        name: data for name, data in first.items() if name != "a.jpg"
    }
    assert set(now) - set(first) == {"e.jpg", *(name for name in now if name.startswith("report_files.part/"))}
    inspected(tmp_path, 9, "a", "A/c").write()
    now = contents(tmp_path)
    only = {name: data for name, data in now.items() if name not in users and not name.startswith("only/")}
    assert set(only) == set(contents(tmp_path / "only"))
    assert {name: data for name, data in only.items() if name != "report.html"} == {
        name: data for name, data in contents(tmp_path / "only").items() if name != "report.html"
    }
    assert {now[name] for name in users} == {b"mine"}
    assert page(tmp_path)["heading"] == "9"
    assert not (tmp_path / "line").exists()


@pytest.mark.parametrize("stage", ["write_bytes", "open", "replace"])
def test_a_page_that_cannot_be_written_leaves_the_last_whole_one(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inspected(tmp_path, 7, "a").write()
    first = contents(tmp_path)
    second = inspected(tmp_path, 8, "b")
    real = getattr(Path, stage)

    def full(path: Path, *arguments: Any, **options: Any) -> Any:
        if path.name.startswith("report.html"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, stage, full)
        with pytest.raises(OSError, match="No space left"):
            second.write()
    assert contents(tmp_path) == first | {"b.jpg": bytes([8])}


def test_a_list_of_overlays_that_somebody_changed_removes_nothing_elsewhere(tmp_path: Path) -> None:
    output = tmp_path / "output"
    inspected(output, 7, "a").write()
    (tmp_path / "own.jpg").touch()
    (output / "own.png").touch()
    (output / "linked").symlink_to(tmp_path)
    lines = ["../own.jpg", str(tmp_path / "own.jpg"), "own.png", "linked/own.jpg", "gone.jpg"]
    (output / "report_files/overlays.txt").write_text("\n".join(lines))
    inspected(output, 8).write()
    assert (tmp_path / "own.jpg").exists()
    assert (output / "own.png").exists()


def test_pictures_are_small_and_the_truth_is_outlined(tmp_path: Path) -> None:
    report = Report(tmp_path, "x", "x")
    gt_mask = np.zeros((60, 80), np.bool_)
    gt_mask[20:40, 20:60] = True
    report.add("a", 0.7, True, True)
    report.show(
        np.full((2400, 3200, 3), 90, np.uint8), np.zeros((6, 8), np.float32), np.zeros((6, 8), np.bool_), gt_mask
    )
    seen = [cv2.imread(str(tmp_path / f"report_files/0.{kind}.jpg")) for kind in ("0", "1", "2", "thumbnail")]
    assert [image.shape for image in seen if image is not None] == [(1200, 1600, 3)] * 3 + [(144, 192, 3)]
    _, picture, truth, _ = (image.astype(int) for image in seen if image is not None)
    rows, columns = np.nonzero(truth[..., 1] - picture[..., 1] > 80)
    assert np.abs(np.array([rows.min(), rows.max(), columns.min(), columns.max()]) - [400, 800, 400, 1200]).max() <= 5
    assert np.abs(truth - picture)[450:750, 450:1150].max() < 10  # an outline, not an area
