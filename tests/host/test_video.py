"""Clips through anomalib's engine: every frame has one score, the mean over itself and the frames before it."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import openvino
import pytest
import torch
from anomalib.data import VideoBatch
from anomalib.data.utils import read_image
from anomalib.metrics import AUROC, Evaluator
from clips import NUM_FRAMES, QUIET, small, video_data
from engine_contract import engine
from lightning.pytorch import Callback, LightningModule, Trainer
from model_contract import quantized
from PIL import Image
from torch.utils.data import DataLoader, Subset

from riad_anomalib.host import normal_images
from riad_anomalib.host.video import FrameScores, check_processes, frame_by_frame

pytestmark = QUIET

CLIPS: list[dict[str, Any]] = [
    {},  # anomalib's default: two frames, ten apart
    {"clip_length_in_frames": 1, "frames_between_clips": 1},
    {"clip_length_in_frames": 3, "frames_between_clips": 1, "target_frame": "mid"},
    {"clip_length_in_frames": 4, "frames_between_clips": 3, "target_frame": "first", "eval_batch_size": 3},
]


def frames_of(clip: Path) -> torch.Tensor:
    return torch.stack([torch.as_tensor(read_image(file, as_tensor=True)) for file in sorted(clip.glob("*.tif"))])


def auroc(labels: Sequence[bool], scores: Sequence[float]) -> float:
    """Return how often an anomalous frame scores higher than a normal one."""
    pairs = [
        (scores[i] > scores[j]) + (scores[i] == scores[j]) / 2
        for i, j in np.ndindex(len(labels), len(labels))
        if labels[i] and not labels[j]
    ]
    return float(np.mean(pairs))


def batch(frames: Sequence[int], scores: Sequence[float], video: str = "clip", labels: Any = None) -> Any:
    return VideoBatch(
        image=torch.zeros(len(frames), 3, 4, 4),
        video_path=[video] * len(frames),
        frames=torch.tensor(frames)[:, None],
        pred_score=torch.tensor(scores),
        gt_label=None if labels is None else torch.tensor(labels),
    )


def averages(scores: FrameScores, frames: Sequence[int], own: Sequence[float], **arguments: Any) -> list[float]:
    given = batch(frames, own, **arguments)
    scores.take_new_frames(given)
    return [round(score, 6) for score in scores.averaged(given).tolist()]


def test_a_score_is_the_mean_over_three_frames_across_batches_and_anew_with_each_video() -> None:
    scores = FrameScores(3)
    assert averages(scores, [0, 1], [3.0, 6.0]) == [3.0, 4.5]
    assert averages(scores, [2, 3], [9.0, 0.0]) == [6.0, 5.0]
    assert averages(scores, [0, 1], [1.0, 2.0], video="another") == [1.0, 1.5]
    assert averages(scores, [10, 11], [7.0, 8.0]) == [7.0, 7.5]  # after a gap


def test_one_frame_is_every_frames_own_score_in_any_order() -> None:
    assert averages(FrameScores(1), [5, 2, 3], [3.0, 6.0, 9.0]) == [3.0, 6.0, 9.0]


def test_shuffled_frames_are_refused_unless_nothing_is_averaged() -> None:
    with pytest.raises(ValueError, match=r"frame 3 of clip comes after frame 5, .*: give frames in order"):
        averages(FrameScores(3), [5, 3], [0.0, 0.0])


def test_a_frame_that_comes_again_is_not_scored_again() -> None:
    scores, given = FrameScores(3), batch([0, 1, 1, 2], [0.0] * 4, labels=[0, 1, 1, 0])
    scores.take_new_frames(given)
    assert given.frames.flatten().tolist() == [0, 1, 2]
    assert given.gt_label.tolist() == [False, True, False]
    assert given.video_path == ["clip"] * 3
    assert len(given.image) == len(given.pred_score) == 3
    scores.averaged(given)
    with pytest.raises(ValueError, match="every frame of a batch of clip was scored before"):
        scores.take_new_frames(batch([1, 2], [0.0, 0.0]))


@pytest.mark.parametrize(("target", "position"), [("first", 0), ("mid", 1), ("last", 2)])
def test_the_frame_that_the_label_is_for_is_taken_of_a_clip(target: Any, position: int) -> None:
    image = torch.rand(2, 3, 3, 4, 4)
    given: Any = VideoBatch(image=image, video_path=["clip"] * 2, frames=torch.tensor([[4], [5]]))
    FrameScores(3).take_new_frames(given, target)
    assert torch.equal(given.image, image[:, position])


def test_a_batch_that_does_not_say_what_it_is_of_is_refused() -> None:
    with pytest.raises(ValueError, match="no video_path or no frames"):
        FrameScores(3).take_new_frames(VideoBatch(image=torch.rand(2, 3, 4, 4)))


def test_auroc_of_the_videos_that_have_both_kinds_of_frames() -> None:
    scores = FrameScores(1)
    averages(scores, [0, 1, 2, 3], [1.0, 3.0, 2.0, 4.0], labels=[0, 0, 1, 1])
    averages(scores, [0, 1], [1.0, 3.0], video="all.avi", labels=[1, 1])
    averages(scores, [0, 1], [1.0, 3.0], video="some/b.avi", labels=[0, 1])
    assert scores.aurocs() == {"clip": 0.75, "b": 1.0}
    averages(scores, [0, 1], [3.0, 1.0], video="other/b.avi", labels=[0, 1])
    averages(scores, [0, 1], [1.0, 3.0], video="Test/10.30", labels=[0, 1])
    averages(scores, [0, 1], [3.0, 1.0], video="Test/10.45", labels=[0, 1])
    assert scores.aurocs() == {"clip": 0.75, "some/b.avi": 1.0, "other/b.avi": 0.0, "10.30": 1.0, "10.45": 0.0}


def test_several_processes_are_refused_unless_nothing_is_averaged() -> None:
    two: Any = SimpleNamespace(world_size=2)
    with pytest.raises(ValueError, match=r"past_frames is 3, and 2 processes .*: take one device"):
        check_processes(two, 3)
    check_processes(two, 1)


@pytest.mark.parametrize("clips", CLIPS)
def test_frame_by_frame_is_every_frame_once_with_its_label(clips: dict[str, Any], footage: Path) -> None:
    data = video_data(footage, **clips)
    data.setup()
    before = len(data.test_data)
    frames = frame_by_frame(data.test_data)
    assert len(data.test_data) == before
    assert len(frames) == NUM_FRAMES
    masks = sorted((footage / "Test").glob("*_gt/*.bmp"))
    for item, mask in zip((frames[i] for i in range(NUM_FRAMES)), masks, strict=True):
        assert item.image.shape == (3, 96, 144)
        assert item.gt_label == (np.asarray(Image.open(mask)).max() > 0)


class Calls(Callback):
    """How many images the network scored."""

    def __init__(self, model: Any) -> None:
        self.number = 0
        model.model.register_forward_hook(self._count)

    def _count(self, module: Any, inputs: Any, _: object) -> None:
        self.number += 0 if module.training else len(inputs[0])


@pytest.fixture(scope="module")
def expected(footage: Path) -> list[float]:
    """Averaged scores of the test clips as a loop has them."""
    model = small().eval()
    averaged = []
    for clip in ("Test001", "Test002"):
        with torch.no_grad():
            own = model.model(model.pre_processor.transform(frames_of(footage / "Test" / clip))).pred_score.tolist()
        averaged += [float(np.mean(own[max(0, i - 2) : i + 1])) for i in range(len(own))]
    return averaged


@pytest.mark.parametrize("clips", CLIPS)
def test_whatever_the_clips_every_frame_is_scored_once_and_averaged(
    clips: dict[str, Any],
    footage: Path,
    expected: list[float],
    tmp_path: Path,
) -> None:
    model, data = small(post_processor=False), video_data(footage, **clips)
    calls = Calls(model)
    run = engine(tmp_path)
    predictions: Any = run.predict(model, datamodule=data)
    assert calls.number == NUM_FRAMES
    scores = torch.cat([prediction.pred_score for prediction in predictions]).tolist()
    assert scores == pytest.approx(expected, abs=1e-6)
    frames = [frame for prediction in predictions for frame in prediction.frames.flatten().tolist()]
    assert frames == [*range(13), *range(13)]
    labels = torch.cat([prediction.gt_label for prediction in predictions]).tolist()
    run.predict(model, datamodule=data)
    assert calls.number == 2 * NUM_FRAMES  # begun anew
    evaluator = Evaluator(test_metrics=AUROC(fields=["pred_score", "gt_label"], prefix="image_"))
    metrics = run.test(small(post_processor=False, evaluator=evaluator), datamodule=data, verbose=False)[0]
    assert metrics["image_AUROC"] == pytest.approx(auroc(labels, expected))
    for i, clip in enumerate(("Test001", "Test002")):
        part = slice(13 * i, 13 * i + 13)
        assert metrics[f"image_AUROC/{clip}"] == pytest.approx(auroc(labels[part], expected[part]))


def test_thresholds_normalisation_and_labels_are_those_of_the_averaged_scores(
    footage: Path,
    expected: list[float],
    tmp_path: Path,
) -> None:
    model, data = small(), video_data(footage)
    run = engine(tmp_path)
    run.validate(model, datamodule=data, verbose=False)
    assert model.post_processor.image_max == pytest.approx(max(expected))
    assert model.post_processor.image_min == pytest.approx(min(expected))
    threshold = model.post_processor.image_threshold.item()
    predictions: Any = run.predict(model, datamodule=data)
    labels = torch.cat([prediction.pred_label for prediction in predictions]).tolist()
    decided = [(score, label) for score, label in zip(expected, labels, strict=True) if abs(score - threshold) > 1e-7]
    assert len(decided) >= NUM_FRAMES - 1
    assert [label for _, label in decided] == [score > threshold for score, _ in decided]
    scores = torch.cat([prediction.pred_score for prediction in predictions])
    spread = max(expected) - min(expected)
    assert scores.tolist() == pytest.approx(
        np.clip([(score - threshold) / spread + 0.5 for score in expected], 0, 1), abs=1e-4
    )


def test_loaders_without_a_data_module_score_what_their_labels_are_for(
    footage: Path,
    expected: list[float],
    tmp_path: Path,
) -> None:
    data = video_data(footage, clip_length_in_frames=3, frames_between_clips=1, target_frame="first")
    data.setup()
    model = small(post_processor=False)
    for loader in (
        data.test_dataloader(),
        DataLoader(Subset(data.test_data, range(22)), batch_size=4, collate_fn=data.test_data.collate_fn),
    ):
        predictions: Any = engine(tmp_path).predict(model, dataloaders=loader)
        scores = torch.cat([prediction.pred_score for prediction in predictions]).tolist()
        assert scores == pytest.approx([*expected[:11], *expected[13:24]], abs=1e-5)
    dataset = frame_by_frame(data.test_data)
    shuffled: Any = DataLoader(dataset, batch_size=4, shuffle=True, collate_fn=dataset.collate_fn)
    with pytest.raises(ValueError, match="give frames in order"):
        engine(tmp_path).predict(model, dataloaders=shuffled)


class Batches(Callback):
    """What training saw."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, _: Any, given: Any, *__: Any) -> None:
        del trainer, pl_module
        self.shapes.append(tuple(given.image.shape))


def test_training_takes_every_frame_of_a_clip_and_calibrates_on_single_ones(
    footage: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(normal_images, "NUM_FRAMES", 3)
    model, batches = small(calibration="pixel"), Batches()
    run = engine(tmp_path, max_epochs=1, callbacks=[batches])
    run.fit(model, datamodule=video_data(footage, frames_between_clips=4))  # 3 clips of a video of 13 frames
    assert batches.shapes == [(4, 3, 48, 72)] * 4 + [(2, 3, 48, 72)]
    chosen = [frames_of(footage / "Train" / clip)[0] for clip in ("Train001", "Train002", "Train003")]
    with torch.no_grad():
        values = model.model.eval().dissimilarity_map(model.pre_processor.transform(torch.stack(chosen)))
    torch.testing.assert_close(model.model.calibration.normal_mean, values.mean(dim=0))
    tested = run.test(model, datamodule=video_data(footage), verbose=False)[0]
    fresh = small(calibration="pixel", image_size=(96, 72))
    again = engine(tmp_path).test(
        fresh,
        datamodule=video_data(footage),
        ckpt_path=str(run.best_model_path),
        verbose=False,
    )
    assert again[0] == pytest.approx(tested)


class Fail(Callback):
    """Breaks a run off."""

    def on_validation_start(self, *_: Any) -> None:
        raise RuntimeError


@pytest.mark.parametrize("fails", [False, True])
def test_a_data_module_is_afterwards_as_it_was(fails: bool, footage: Path, tmp_path: Path) -> None:
    data = video_data(footage, clip_length_in_frames=2, frames_between_clips=1)
    data.setup()
    before = data.val_data, data.test_data, data.external_collate_fn
    run = engine(tmp_path, max_epochs=1, logger=False, callbacks=[Fail()] if fails else [])
    if fails:
        with pytest.raises(RuntimeError):
            run.fit(small(), datamodule=data)
    else:
        run.fit(small(), datamodule=data)
        assert len(run.predict(small(), datamodule=data)) > 0  # type: ignore[arg-type]
    length = len(before[0])
    assert length < NUM_FRAMES
    data.setup()
    assert len(data.val_data) == len(data.test_data) == length
    assert next(iter(data.test_dataloader())).image.shape[1] == 2
    assert data.external_collate_fn is before[2] is None


def test_frames_that_names_put_in_another_order_than_numbers_are_refused(footage: Path, tmp_path: Path) -> None:
    unpadded = shutil.copytree(footage, tmp_path / "unpadded")
    for file in sorted((unpadded / "Test").glob("Test002*/*")):
        file.rename(file.with_stem(file.stem.lstrip("0")))
    names = r"anomalib takes the frames of .*Test002 by name, 10.tif before 2.tif: pad their numbers with zeros"
    with pytest.raises(ValueError, match=names):
        engine(tmp_path).predict(small(), datamodule=video_data(unpadded))
    model = small()
    model.past_frames = 1
    predictions: Any = engine(tmp_path).predict(model, datamodule=video_data(unpadded))
    assert sum(len(prediction.pred_score) for prediction in predictions) == NUM_FRAMES


def test_images_never_see_it(footage: Path, tmp_path: Path) -> None:
    frames = footage / "Test" / "Test001"
    model = small(post_processor=False)
    predictions: Any = engine(tmp_path).predict(model, data_path=frames)
    with torch.no_grad():
        own = model.eval().model(model.pre_processor.transform(frames_of(frames))).pred_score
    torch.testing.assert_close(torch.cat([prediction.pred_score for prediction in predictions]), own)


def test_clips_of_other_sizes_are_scored_together(footage: Path, expected: list[float], tmp_path: Path) -> None:
    other = shutil.copytree(footage, tmp_path / "other")
    for file in (other / "Test").glob("Test002*/*"):
        with Image.open(file) as image:
            image.resize((72, 48)).save(file)
    predictions: Any = engine(tmp_path).predict(small(post_processor=False), datamodule=video_data(other))
    scores = torch.cat([prediction.pred_score for prediction in predictions]).tolist()
    assert len(scores) == NUM_FRAMES
    assert scores[:13] == pytest.approx(expected[:13], abs=1e-6)


@pytest.mark.parametrize("part", ["Train", "Test"])
def test_empty_clip_folders_are_refused_by_name(part: str, footage: Path, tmp_path: Path) -> None:
    empty = shutil.copytree(footage, tmp_path / "empty")
    for file in (empty / part).rglob("*.tif"):
        file.unlink()
    with pytest.raises(ValueError, match=r"UCSDped finds no clips to train on, or none to test, in .*empty: give"):
        engine(tmp_path, max_epochs=1).fit(small(), datamodule=video_data(empty))


def test_a_frame_that_cannot_be_read_is_named(footage: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(footage, tmp_path / "broken")
    (broken / "Test/Test002/007.tif").write_bytes(b"no picture")
    with pytest.raises(OSError, match=r"cannot identify image file .*Test002/007.tif"):
        engine(tmp_path).predict(small(), datamodule=video_data(broken))


@pytest.mark.filterwarnings("ignore")  # torch.onnx, OpenVINO and NNCF warn about themselves
@pytest.mark.parametrize("compression", ["int8_ptq", "int8_acq"])
def test_quantization_takes_frames(compression: Any, footage: Path, tmp_path: Path) -> None:
    model, data = small(), video_data(footage)
    run = engine(tmp_path, max_epochs=1)
    run.fit(model, datamodule=data)
    exported = run.export(
        model,
        export_type="openvino",
        export_root=tmp_path,
        compression_type=compression,
        datamodule=video_data(footage),
        ckpt_path=str(run.best_model_path),
    )
    assert exported is not None
    assert quantized(openvino.Core().read_model(exported)) <= {"Convolution", "ConvolutionBackpropData", "Concat"}
