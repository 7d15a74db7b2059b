from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from anomalib.data import Folder
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from blur import Blur
from clips import small, video_data
from engine_contract import engine
from inspections import page
from lightning.pytorch import Callback
from PIL import Image
from torchvision.transforms.v2 import CenterCrop, Compose, Normalize, Resize

from riad_anomalib import ReportVisualizer
from riad_anomalib.host import report_visualizer
from riad_anomalib.report import Report

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{text}") for text in ("The ", ".*isinstance.treespec", "'pin_memory'")
]


def reports(model: Blur, folder: Any, tmp_path: Path, *callbacks: Callback) -> tuple[Any, Path]:
    """What the page of a test is told, and where it lies."""
    run = engine(tmp_path, callbacks=list(callbacks), logger=False)
    run.validate(model, datamodule=folder)
    run.test(model, datamodule=folder)
    where = Path(run.trainer.default_root_dir) / "report"
    return page(where), where


def test_the_page_of_a_test_knows_the_truth_and_says_what_the_test_said(folder: Folder, tmp_path: Path) -> None:
    batches = []

    class Record(Callback):
        def on_test_batch_end(self, _trainer: Any, _module: Any, _outputs: Any, batch: Any, *_: Any) -> None:
            batches.append(batch)  # normalised and judged later, in place

    told, where = reports(Blur(image_size=(32, 48), visualizer=ReportVisualizer()), folder, tmp_path, Record())
    assert told["heading"] == "Test: Blur tiny"
    items = [item for batch in batches for item in batch]
    assert len(items) == len(told["rows"]) > 2
    for row, item in zip(told["rows"], items, strict=True):
        assert row["name"] == "/".join(Path(item.image_path).parts[-2:])
        assert row["is_defective"] == row["name"].startswith("bad/")
        assert row["views"] == (3 if row["is_defective"] else 2)
        assert row["score"] == float(item.pred_score)
        assert row["is_anomalous"] == bool(item.pred_label) == (row["score"] > told["threshold"])
    number = next(i for i, row in enumerate(told["rows"]) if row["is_defective"])
    picture, truth = (cv2.imread(str(where / f"report_files/{number}.{view}.jpg")) for view in (1, 2))
    assert picture is not None
    assert truth is not None
    assert picture.shape == (40, 56, 3)  # the file's, not the model's
    rows, columns = np.nonzero((picture.astype(int) - truth)[..., 2] > 60)  # white turned green
    assert np.abs(np.array([rows.min(), columns.min()]) - 10).max() <= 3


def test_a_prediction_knows_no_truth(folder: Folder, tmp_path: Path) -> None:
    model = Blur(image_size=(32, 48), visualizer=ReportVisualizer())
    run = engine(tmp_path, logger=False)
    run.validate(model, datamodule=folder)
    run.predict(model, data_path=folder.root / "images" / "bad")  # type: ignore[operator]
    told = page(Path(run.trainer.default_root_dir) / "report")
    assert told["heading"].startswith("Prediction: Blur")
    assert [(row["name"], row["is_defective"], row["views"]) for row in told["rows"]] == [
        ("bad/0.png", None, 2),
        ("bad/1.png", None, 2),
    ]


def test_every_frame_of_a_video_is_a_picture_with_its_averaged_score(footage: Path, tmp_path: Path) -> None:
    batches = []

    class Record(Callback):
        def on_test_batch_end(self, _trainer: Any, _module: Any, _outputs: Any, batch: Any, *_: Any) -> None:
            batches.append(batch)

    model = small(visualizer=ReportVisualizer())
    told, where = reports(model, video_data(footage), tmp_path, Record())
    assert [row["name"] for row in told["rows"]] == [
        f"{clip}/{frame:06}.png" for clip in ("Test001", "Test002") for frame in range(13)
    ]
    assert [row["score"] for row in told["rows"]] == torch.cat([batch.pred_score for batch in batches]).tolist()
    labels = torch.cat([batch.gt_label for batch in batches]).bool().tolist()
    assert [row["is_defective"] for row in told["rows"]] == labels
    assert [row["views"] for row in told["rows"]] == [2 + label for label in labels]
    shown, taken = (cv2.imread(str(path)) for path in (where / "report_files/20.1.jpg", frame_file(footage)))
    assert shown is not None
    assert taken is not None
    assert shown.shape == taken.shape == (96, 144, 3)  # the frame's, not the model's
    assert np.abs(shown.astype(int) - taken).mean() < 5


def frame_file(footage: Path) -> Path:
    return sorted((footage / "Test/Test002").glob("*.tif"))[20 - 13]


def test_pictures_of_the_same_name_in_folders_of_the_same_name_are_told_apart(tmp_path: Path) -> None:
    report = Report(tmp_path, "x", "x")
    for path in ("/d/line1/cam/0.png", "/d/line2/cam/0.png", "/d/line2/cam/1\n.png"):
        report.add(path, 0.5, False)
    trainer: Any = SimpleNamespace(datamodule=None)
    report_visualizer.name_rows(trainer, report)
    assert [row.name for row in report.rows] == ["line1/cam/0.png", "line2/cam/0.png", r"cam/1\x0a.png"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_test_leaves_a_page_of_what_was_done(
    error: type[BaseException], folder: Folder, tmp_path: Path
) -> None:
    class Interrupt(Callback):
        def on_test_batch_start(self, _trainer: Any, _module: Any, _batch: Any, number: int, *_: Any) -> None:
            if number == 1:
                raise error

    model = Blur(image_size=(32, 48), visualizer=ReportVisualizer())
    with pytest.raises((RuntimeError, SystemExit)):
        reports(model, folder, tmp_path, Interrupt())
    (path,) = tmp_path.rglob("report.html")
    told = page(path.parent)
    assert len(told["rows"]) == 2  # a batch
    assert told["notes"] == [f"The run ended early, after 2 pictures: {error.__name__}."]


def test_a_model_without_verdicts_has_no_page(folder: Folder, tmp_path: Path) -> None:
    without = PostProcessor(enable_thresholding=False)
    model = Blur(visualizer=ReportVisualizer(), post_processor=without, evaluator=False)
    with pytest.raises(ValueError, match="Blur gives none: leave its post-processor on"):
        reports(model, folder, tmp_path)


def test_a_map_of_a_part_lies_over_that_part(folder: Folder, tmp_path: Path) -> None:
    cropping = PreProcessor(Compose([Resize((40, 56)), CenterCrop((32, 48))]))
    model = Blur(image_size=(32, 48), pre_processor=cropping, visualizer=ReportVisualizer())
    _, where = reports(model, folder, tmp_path)
    with Image.open(where / "report_files/0.1.jpg") as picture:
        assert picture.size == (48, 32)


def test_what_a_model_saw_is_shown_in_its_colours() -> None:
    image = torch.zeros(3, 2, 2)
    image[0] = 1  # red
    np.testing.assert_array_equal(report_visualizer.seen(image)[0, 0], [0, 0, 255])
    normalised = report_visualizer.seen(Normalize([0.5] * 3, [0.25] * 3)(image))
    np.testing.assert_array_equal(normalised[0, 0], [0, 0, 255])
