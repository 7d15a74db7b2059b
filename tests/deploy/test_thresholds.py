"""Thresholds of an exported model from good pictures of the running line."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
from inspections import page, picture, rows, run
from PIL import Image

from riad_anomalib import deploy
from riad_anomalib.deploy import thresholds


@pytest.fixture
def model(exported: Path, tmp_path: Path) -> Path:
    """An exported model of its own folder."""
    folder = tmp_path / "model"
    folder.mkdir()
    for suffix in (".xml", ".bin"):
        shutil.copy(exported.with_suffix(suffix), folder)
    return folder / exported.name


@pytest.fixture
def today(tmp_path: Path) -> Path:
    """Nine pictures of products that are good."""
    folder = tmp_path / "today"
    folder.mkdir()
    for number in range(9):
        Image.fromarray(picture(number)).save(folder / f"{number}.png")
    return folder


def test_good_pictures_find_a_threshold_that_the_next_run_takes_until_it_is_deleted(
    model: Path, today: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(model, today, "--output", tmp_path / "own") == 0
    scores = sorted(float(row["score"]) for row in rows(tmp_path / "own"))
    capsys.readouterr()
    assert run("thresholds", model, "--good", today, "--false-alarms", "0.2") == 0
    out, err = capsys.readouterr()
    assert err == ""
    told = json.loads(model.with_suffix(".thresholds.json").read_text())
    assert told["score"] == pytest.approx((scores[7] + scores[8]) / 2, abs=1e-5)  # one of nine may lie above
    assert "the model's own is 0.5" in out
    assert "9 good pictures: at most 20 % false alarms on average, at most 37 % with 90 % confidence" in out

    assert run(model, today, "--output", tmp_path / "new") == 0
    said = capsys.readouterr().out
    assert sum(row["verdict"] == "anomalous" for row in rows(tmp_path / "new")) == 1
    assert re.search(r"threshold \S+ in the place of the model's own, from 9 good .* delete \S*thresholds.json", said)
    shown = page(tmp_path / "new")
    assert shown["threshold"] == told["score"]
    assert any("in the place of the model's own, from 9 good pictures" in note for note in shown["notes"])
    found = thresholds.read(model)
    assert found is not None
    # The rate is also that of pictures with any pixel above.
    assert {row["name"] for row in rows(tmp_path / "new")} == {f"{number}.png" for number in range(9)}
    assert 0 < found.pixel < 2

    assert run(model, today, "--output", tmp_path / "given", "--threshold", "-1") == 0  # the user's own goes first
    assert "in the place of" not in capsys.readouterr().out
    assert {row["verdict"] for row in rows(tmp_path / "given")} == {"anomalous"}
    model.with_suffix(".thresholds.json").unlink()
    assert run(model, today, "--output", tmp_path / "back") == 0
    assert rows(tmp_path / "back") == rows(tmp_path / "own")


def test_masks_show_a_pixel_in_as_many_good_pictures_as_may_be_alarms(model: Path, today: Path) -> None:
    assert run("thresholds", model, "--good", today, "--false-alarms", "0.2") == 0
    found = thresholds.read(model)
    assert found is not None
    compiled = deploy.load_model(model, "CPU", "latency", "f32")
    images = [(file.name, np.asarray(Image.open(file))[..., ::-1]) for file in sorted(today.iterdir())]
    results = list(deploy.infer(deploy.infer_requests(compiled, "latency"), images))
    assert sum((result.anomaly_map > found.pixel).any() for result in results) == 1


def test_thresholds_of_another_export_or_of_no_sense_are_refused(
    model: Path, today: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("thresholds", model, "--good", today) == 0
    file = model.with_suffix(".thresholds.json")
    good = json.loads(file.read_text())
    wrong: list[Any] = [{**good, "model": "0"}, {**good, "score": "high"}, {"score": 1}, [], None]
    for each in wrong:
        file.write_text(json.dumps(each))
        capsys.readouterr()
        assert run(model, today) == 2
        err = capsys.readouterr().err
        assert re.fullmatch(r"error: \S*thresholds.json has .*: find them again, or delete it\n", err), err


@pytest.mark.parametrize(("number", "message"), [(0, "no images in"), (3, "all 3 good pictures")])
def test_a_threshold_that_cannot_be_found_changes_nothing(
    number: int, message: str, model: Path, today: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("thresholds", model, "--good", today) == 0
    before = model.with_suffix(".thresholds.json").read_text()
    (tmp_path / "same").mkdir()
    for i in range(number):
        Image.new("RGB", (56, 40)).save(tmp_path / "same" / f"{i}.png")
    capsys.readouterr()
    assert run("thresholds", model, "--good", tmp_path / "same") == 2
    assert re.fullmatch(rf"error: .*{message}.*\n", capsys.readouterr().err)
    assert model.with_suffix(".thresholds.json").read_text() == before
    assert len(list(model.parent.iterdir())) == 3


@pytest.mark.parametrize("rate", ["0", "1", "2", "x", "nan"])
def test_a_rate_that_is_none_is_refused(rate: str, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        run("thresholds", model, "--good", "x", "--false-alarms", rate)
    assert f"'{rate}' is no share of good pictures in (0, 1): give for example 0.01" in capsys.readouterr().err


def test_a_packaged_model_judges_by_what_was_found(
    model: Path, today: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = deploy.package(model, "model-api", tmp_path / "own")
    assert run("thresholds", model, "--good", today, "--false-alarms", "0.2") == 0
    found = thresholds.read(model)
    assert found is not None
    capsys.readouterr()
    assert run("package", model, "--for", "model-api", "--output", tmp_path / "new") == 0
    assert "in the place of the model's own, from 9 good pictures" in capsys.readouterr().out
    before, after = (
        openvino.compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        for file in (own, tmp_path / "new/model.xml")
    )
    alarms = []
    for number in range(9):
        image = picture(number)[None, ..., ::-1].copy()
        old, new = before(image), after(image)
        assert new["pred_score"] == old["pred_score"]
        np.testing.assert_array_equal(new["pred_mask"], new["anomaly_map"] > found.pixel)
        alarms.append(bool(new["pred_label"]))
        assert alarms[-1] == (new["pred_score"].item() > found.score)
    assert sum(alarms) == 1

    model.write_bytes(model.read_bytes() + b"<!-- made again -->")
    assert run("package", model, "--for", "model-api", "--output", tmp_path / "other") == 2
    assert "thresholds of another export" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
