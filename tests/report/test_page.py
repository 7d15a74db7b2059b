import math
from pathlib import Path

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


def test_a_page_of_an_earlier_run_does_not_stand_over_pictures_of_this_one(tmp_path: Path) -> None:
    Report(tmp_path, "first", "x").write()
    Report(tmp_path, "second", "x")
    assert not (tmp_path / "report.html").exists()


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
