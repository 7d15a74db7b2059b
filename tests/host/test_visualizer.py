"""Pictures of a video's frames, and plot and table of its scores."""

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from clips import NUM_FRAMES, QUIET, small, video_data
from engine_contract import engine
from PIL import Image

from riad_anomalib import ReconstructionVisualizer
from riad_anomalib.host.visualizer import OutputFiles, ScoredFrame, VideoVisualizer, frame_paths, plot_scores

pytestmark = QUIET


def rows(table: Path) -> list[dict[str, str]]:
    with table.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def drawn(picture: Path) -> Any:
    return np.asarray(Image.open(picture).convert("RGB")).astype(int)


def test_every_frame_has_its_pictures_and_every_video_its_scores(footage: Path, tmp_path: Path) -> None:
    model, data = small(visualizer=ReconstructionVisualizer()), video_data(footage)
    run = engine(tmp_path, max_epochs=1)
    run.fit(model, datamodule=data)
    predictions: Any = run.predict(model, datamodule=data)
    root = Path(run.trainer.default_root_dir)
    for kind in ("images", "reconstructions"):
        names = sorted(path.relative_to(root / kind).as_posix() for path in (root / kind).rglob("*.png"))
        assert names == [f"{clip}/{i:06}.png" for clip in ("Test001", "Test002") for i in range(13)]
    scores = [score for prediction in predictions for score in prediction.pred_score.tolist()]
    labels = [label for prediction in predictions for label in prediction.pred_label.tolist()]
    table = [row for clip in ("Test001", "Test002") for row in rows(root / "scores" / f"{clip}.csv")]
    assert len(table) == NUM_FRAMES
    assert [float(row["score"]) for row in table] == pytest.approx(scores)
    assert [row["is_anomalous"] for row in table] == [str(label) for label in labels]
    assert drawn(root / "scores/Test001.png").std() > 0


def test_the_default_visualizer_is_for_videos_too(footage: Path, tmp_path: Path) -> None:
    run = engine(tmp_path)
    run.predict(small(visualizer=True), datamodule=video_data(footage))
    assert len(list(Path(run.trainer.default_root_dir, "images").rglob("*.png"))) == NUM_FRAMES


def test_what_was_scored_before_a_video_breaks_off_is_kept(
    footage: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = video_data(footage, eval_batch_size=4)
    data.setup()
    read = type(data.test_data).__getitem__

    def broken(self: Any, index: int) -> Any:
        if index >= 18:
            msg = "cannot decode Test002"
            raise RuntimeError(msg)
        return read(self, index)

    monkeypatch.setattr(type(data.test_data), "__getitem__", broken)
    run = engine(tmp_path)
    with pytest.raises(RuntimeError, match="cannot decode Test002"):
        run.predict(small(visualizer=True), datamodule=data)
    folder = Path(run.trainer.default_root_dir, "scores")
    assert [len(rows(folder / f"{clip}.csv")) for clip in ("Test001", "Test002")] == [13, 3]
    assert (folder / "Test002.png").exists()


def test_what_has_the_same_name_has_files_of_its_own(tmp_path: Path) -> None:
    trainer: Any = SimpleNamespace(datamodule=None, default_root_dir=tmp_path, world_size=1, is_global_zero=True)
    files = OutputFiles()
    paths = ["/d/line1/cam/0.png", "/d/line2/cam/0.png", "/d/line2/cam/../cam/0.png", "/d/line1/cam/0.png"]
    found = [files.of(trainer, path, tmp_path).relative_to(tmp_path).as_posix() for path in paths]
    assert found[:2] == ["cam/0.png", "line2/cam/0.png"]
    assert found[3] == found[0]
    assert len({*found}) == 3
    videos = ["/d/cam1/01.avi", "/d/cam2/01.avi", "/d/Test/10.30", "/d/Test/10.45", "/d/$x$/" + "a" * 255]
    batch: Any = SimpleNamespace(video_path=videos, frames=torch.tensor([7] * 5))
    assert len({*frame_paths(batch)}) == 5
    visualizer = VideoVisualizer()
    for video in videos:
        visualizer._scored[video] = [ScoredFrame(0, 0.5, is_anomalous=False, gt_label=None)]
    visualizer.on_test_epoch_end(trainer, SimpleNamespace(post_processor=None))
    written = {path.relative_to(tmp_path / "scores").as_posix() for path in (tmp_path / "scores").rglob("*.csv")}
    assert {name for name in written if len(name) < 99} == {
        "cam1/01.avi.csv",
        "cam2/01.avi.csv",
        "10.30.csv",
        "10.45.csv",
    }
    assert len(written) == 5


def test_the_labelled_stretch_is_shaded_and_scores_above_the_threshold_are_red(tmp_path: Path) -> None:
    plain = [ScoredFrame(i, i / 10, is_anomalous=False, gt_label=False) for i in range(10)]
    labelled = [each._replace(gt_label=each.frame >= 5) for each in plain]
    above = [each._replace(is_anomalous=each.frame >= 8) for each in plain]
    pictures = {}
    for name, scored, threshold in (
        ("plain", plain, None),
        ("labelled", labelled, None),
        ("above", above, None),
        ("threshold", plain, 0.75),
    ):
        plot_scores("clip", scored, threshold, tmp_path / f"{name}.png")
        pictures[name] = drawn(tmp_path / f"{name}.png")
    half = pictures["plain"].shape[1] * 2 // 3  # of the axes; the legend is beside them

    def share(name: str, is_colour: Any) -> float:
        left = pictures[name][:, :half]
        return float(is_colour(left[..., 0], left[..., 1], left[..., 2]).mean())

    def orange(red: Any, green: Any, blue: Any) -> Any:
        return (red > 240) & (green > 200) & (green < 240) & (blue < 210)

    def strong_red(red: Any, green: Any, blue: Any) -> Any:
        return (red > 200) & (green < 80) & (blue < 80)

    def blueish(red: Any, green: Any, blue: Any) -> Any:
        return (blue > 150) & (red < 80) & (green < 160)

    assert share("plain", orange) == 0
    assert 0.1 < share("labelled", orange) < 0.6
    for name, colour in (("above", strong_red), ("threshold", blueish)):
        assert share("plain", colour) < share(name, colour)
