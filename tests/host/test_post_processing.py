"""Verdicts: one on a picture everywhere, none without a threshold; checkpoints of other models."""

import logging
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from anomalib.data import Folder, ImageBatch, InferenceBatch
from anomalib.metrics import AUROC, Evaluator, F1Score
from anomalib.post_processing import PostProcessor
from blur import Blur
from engine_contract import engine
from inspections import page
from torch import Tensor

from riad_anomalib import ReportVisualizer, Riad, Ssae
from riad_anomalib.host.post_processing import VerdictPostProcessor, between

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{text}")
    for text in ("The ", ".*isinstance.treespec", "'pin_memory'", "Total length")
]


TINY: dict[str, Any] = {"base_width": 4, "image_size": (32, 32), "smoothing_size": 3}


def validated(scores: list[float], labels: list[int], post_processor: PostProcessor | None = None) -> Any:
    """Return a post-processor after a validation of pictures with these scores, whose maps are flat."""
    post_processor = post_processor or VerdictPostProcessor()
    trainer: Any = None
    post_processor.on_validation_batch_end(trainer, trainer, batch(scores, labels))
    post_processor.on_validation_epoch_end(trainer, trainer)
    return post_processor


def batch(scores: list[float], labels: list[int] | None = None) -> ImageBatch:
    values = torch.tensor(scores)
    return ImageBatch(
        image=torch.zeros(len(scores), 3, 4, 4),
        pred_score=values,
        anomaly_map=values[:, None, None].expand(-1, 4, 4).clone(),
        gt_label=None if labels is None else torch.tensor(labels),
    )


@pytest.mark.parametrize(
    ("scores", "threshold", "expected"),
    [
        ([1.0, 2.0, 4.0, 8.0], 4.0, 3.0),
        ([1.0, 4.0, 4.0, 8.0], 4.0, 2.5),  # two of one score stay together
        ([4.0, 8.0], 4.0, 3.96),  # all of them are above
    ],
)
def test_a_threshold_lies_between_scores(scores: list[float], threshold: float, expected: float) -> None:
    values = torch.tensor(scores)
    found = between(values, torch.tensor(threshold))
    assert found.item() == pytest.approx(expected)
    assert torch.equal(values > found, values >= threshold)


def test_the_picture_that_defines_the_threshold_is_found_by_whoever_compares() -> None:
    scores, labels = [0.1, 0.2, 0.3, 0.7, 0.9], [0, 0, 0, 1, 1]
    theirs, ours = (validated(scores, labels, each) for each in (PostProcessor(), VerdictPostProcessor()))
    seen = batch(scores)
    ours.post_process_batch(seen)
    assert seen.pred_label is not None
    assert seen.pred_label.tolist() == [bool(label) for label in labels]
    missed = batch(scores)
    theirs.post_process_batch(missed)
    assert missed.pred_label is not None
    assert missed.pred_label.tolist() == [False, False, False, False, True]  # or this class is not needed any more
    graph = ours(InferenceBatch(pred_score=torch.tensor(scores), anomaly_map=torch.zeros(5, 1, 4, 4)))
    assert torch.equal(graph.pred_label, seen.pred_label)
    # Rounding of other runtimes is far below the gap that is left on both sides.
    assert (torch.as_tensor(seen.pred_score) - 0.5).abs().min() > 0.1


def test_a_checkpoint_of_anomalibs_post_processor_scores_as_before() -> None:
    theirs = validated([0.1, 0.2, 0.3, 0.7, 0.9], [0, 0, 0, 1, 1], PostProcessor(image_sensitivity=0.4))
    ours = VerdictPostProcessor()
    ours.load_state_dict(theirs.state_dict())
    ours.load_checkpoint_config(theirs.checkpoint_config())
    first, second = batch([0.1, 0.69, 0.71, 2.0]), batch([0.1, 0.69, 0.71, 2.0])
    theirs.post_process_batch(first)
    ours.post_process_batch(second)
    for name in ("pred_score", "pred_label", "anomaly_map", "pred_mask"):
        assert torch.equal(getattr(first, name), getattr(second, name))


@pytest.mark.parametrize("number", [1, 8, 99])
def test_good_pictures_alone_find_a_threshold_and_a_scale_without_an_end(number: int) -> None:
    scores = [1 + i / number for i in range(number)]
    found = validated(scores, [0] * number)
    assert found.promise.pictures == number
    assert found.promise.asked == 0.01
    seen = batch([*scores, 2.5, 3.0, 50.0, 5000.0])
    found.post_process_batch(seen)
    assert seen.pred_label is not None
    assert seen.pred_label.tolist() == [False] * number + [True] * 4
    values = torch.as_tensor(seen.pred_score)
    assert (values.diff() > 0).all()  # every rank is kept
    assert ((values > 0) & (values < 1)).all()
    assert torch.as_tensor(seen.pred_mask).flatten(1).any(dim=1).tolist() == seen.pred_label.tolist()
    if number > 1:
        assert values[number // 2] == pytest.approx(0.25, abs=0.03)
    # The same comes out of a checkpoint.
    loaded = VerdictPostProcessor()
    loaded.load_state_dict(found.state_dict())
    loaded.load_checkpoint_config(found.checkpoint_config())
    again = batch([*scores, 2.5, 3.0, 50.0, 5000.0])
    loaded.post_process_batch(again)
    assert torch.equal(torch.as_tensor(again.pred_score), values)
    assert loaded.promise == found.promise


def test_a_rate_that_is_asked_for_holds_beside_defective_pictures_and_for_any_pixel() -> None:
    scores, labels = [i / 20 for i in range(1, 20)] + [0.5, 2.0], [0] * 19 + [1, 1]
    found = validated(scores, labels, VerdictPostProcessor(false_alarms=0.1))
    assert found.image_threshold == pytest.approx(0.925)  # 20 * 0.9: the 18th of 19 good ones, and half a step
    assert found.pixel_threshold == pytest.approx(0.925)  # maps are flat
    assert found.image_max == 2.0  # anomalib's scale: it is known how high defects score
    assert not found.has_open_scale
    best = validated(scores, labels)
    assert best.promise is None
    assert best.image_threshold > 0.95


def test_equal_scores_of_good_pictures_find_no_threshold_and_say_so(caplog: pytest.LogCaptureFixture) -> None:
    found = validated([0.5] * 4, [0] * 4)
    assert "No threshold: all 4 good pictures have the score 0.5, which tells nothing apart" in caplog.text
    assert found.image_threshold.isnan()


def test_a_rate_needs_a_post_processor_that_knows_of_it() -> None:
    post_processor: Any = Riad(**TINY, false_alarms=0.05).post_processor
    assert post_processor.false_alarms == 0.05
    Riad(**TINY, false_alarms=0.05, post_processor=False)
    with pytest.raises(ValueError, match=r"false_alarms is 0\.05, of which PostProcessor knows nothing"):
        Riad(**TINY, false_alarms=0.05, post_processor=PostProcessor())
    with pytest.raises(ValueError, match=r"false_alarms is 5: give a share of good pictures in \(0, 1\)"):
        Riad(**TINY, false_alarms=5)


@pytest.mark.parametrize("mode", ["from_test", "from_train"])
def test_held_out_pictures_are_never_trained_on_and_the_same_in_every_run(
    mode: str, folder: Folder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    held_out = []
    for fresh in (False, True):
        data = Folder(
            "good", "images/good", root=folder.root, val_split_mode=mode, num_workers=0, test_split_ratio=0.4,
            val_split_ratio=0.5, eval_batch_size=2,
        )  # fmt: skip
        model = Blur(image_size=(32, 48))
        run = engine(tmp_path / str(fresh), max_epochs=1, logger=False)
        tested = run.train(model, datamodule=data)[0]
        assert set(tested) == {"image_false_alarms"}
        parts = [{*part.samples.image_path} for part in (data.train_data, data.val_data, data.test_data)]
        assert not parts[0] & (parts[1] | parts[2])
        assert len(parts[0] | parts[1] | parts[2]) == 5
        assert len(model.evaluator.test_metrics) == 4  # type: ignore[union-attr, arg-type]  # back in their place
        held_out.append(parts)
    assert held_out[0] == held_out[1]
    train, val, _ = map(len, held_out[0])
    assert f"{val} of 5 good pictures are held out of training to find the threshold" in caplog.text
    assert f"The threshold is from {val} good picture" in caplog.text
    assert (train, val) == ((3, 2) if mode == "from_test" else (2, 1))


def test_a_rate_without_a_validation_is_refused_before_training(folder: Folder, tmp_path: Path) -> None:
    data = Folder("x", "images/good", root=folder.root, val_split_mode="none", num_workers=0)
    model = Blur(image_size=(32, 48), post_processor=VerdictPostProcessor(false_alarms=0.01))
    with pytest.raises(ValueError, match=r"no validation to find its threshold .*--data.val_split_mode from_train"):
        engine(tmp_path, max_epochs=1, logger=False).fit(model, datamodule=data)


WAYS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "limit_val_batches": ({}, {"limit_val_batches": 0}),
    "val_split_mode none": ({"val_split_mode": "none"}, {}),
    "a validation that never came": ({}, {"check_val_every_n_epoch": 5}),
}


@pytest.mark.parametrize("way", WAYS)
def test_without_a_threshold_there_is_no_verdict_whatever_the_way_there(
    way: str, folder: Folder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data_arguments, arguments = WAYS[way]
    for name, value in data_arguments.items():
        setattr(folder, name, type(getattr(folder, name))(value))
    model = Blur(image_size=(32, 48), visualizer=ReportVisualizer())
    run = engine(tmp_path, max_epochs=1, logger=False, **arguments)
    run.fit(model, datamodule=folder)
    metrics = len(model.evaluator.test_metrics)  # type: ignore[union-attr, arg-type]  # of the default evaluator
    with caplog.at_level(logging.WARNING):
        tested = run.test(model, datamodule=folder)[0]
    assert "image_AUROC" in tested
    assert not any("F1" in name for name in tested)
    assert len(model.evaluator.test_metrics) == metrics  # type: ignore[union-attr, arg-type]
    assert caplog.text.count("there is no threshold: no validation has found any. Train with validation") == 1
    told = page(Path(run.trainer.default_root_dir) / "report")
    assert told["threshold"] is None
    assert {row["is_anomalous"] for row in told["rows"]} == {None}
    predictions: Any = run.predict(model, datamodule=folder)
    assert all(each.pred_label is None and each.pred_mask is None for each in predictions)
    with torch.no_grad():
        assert model.eval()(torch.rand(1, 3, 32, 48)).pred_label is None


def test_scores_that_are_all_the_same_find_no_threshold(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = Blur(image_size=(32, 48), evaluator=Evaluator(test_metrics=[F1Score(["pred_label", "gt_label"])]))
    monkeypatch.setattr(model.model, "dissimilarity_map", lambda image: torch.full_like(image[:, :1], 0.25))
    run = engine(tmp_path, logger=False)
    run.validate(model, datamodule=folder)
    run.test(model, datamodule=folder)
    why = "all validation scores were 0.25, which tells nothing apart"
    assert why in caplog.text
    with pytest.raises(ValueError, match=f"has no thresholds.*{why}"):
        run.export(model, "onnx", export_root=tmp_path)


@pytest.mark.filterwarnings("ignore")  # of torch.onnx about itself
def test_without_a_post_processor_a_checkpoint_gives_the_bare_map_and_score(folder: Folder, tmp_path: Path) -> None:
    run = engine(tmp_path, max_epochs=1, logger=False)
    run.fit(Blur(image_size=(32, 48)), datamodule=folder)
    path = str(run.best_model_path)
    bare: Any = Blur.load_from_checkpoint(path, post_processor=False)
    whole: Any = Blur.load_from_checkpoint(path)
    image = torch.rand(1, 3, 32, 48)
    with torch.no_grad():
        values: InferenceBatch = bare.eval()(image)
        assert torch.equal(values.pred_score, whole.eval().model(image).pred_score)  # type: ignore[arg-type]
    assert values.pred_label is None
    exported = run.export(bare, "onnx", export_root=tmp_path)  # as the refusal of a model without thresholds says
    assert exported is not None
    auroc = Evaluator(test_metrics=[AUROC(["pred_score", "gt_label"], prefix="image_")])
    tested = engine(tmp_path, logger=False).test(
        Blur(image_size=(32, 48), post_processor=False, evaluator=auroc), datamodule=folder, ckpt_path=path
    )
    assert "image_AUROC" in tested[0]


def checkpoint(model: Any, **arguments: Any) -> dict[str, Any]:
    weights: dict[str, Tensor] = model.state_dict()
    return {"state_dict": weights, "hyper_parameters": dict(model.hparams), "pytorch-lightning_version": "2.6.0"} | (
        arguments
    )


@pytest.mark.parametrize("by_class", [False, True])
@pytest.mark.parametrize(
    ("of", "other", "whose"),
    [
        (Riad(region_sizes=[2, 4], **TINY), Ssae, r"of Riad \(--model riad\), and this is Ssae"),
        (Ssae(dilations=[1, 2], **TINY), Riad, r"of Ssae \(--model ssae\), and this is Riad"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused_by_its_name(
    of: Any, other: Any, whose: str, by_class: bool, tmp_path: Path
) -> None:
    saved = checkpoint(of)
    torch.save(saved, tmp_path / "model.ckpt")
    load = partial(other.load_from_checkpoint, tmp_path / "model.ckpt")
    with pytest.raises(ValueError, match=whose):
        load() if by_class else other(**TINY).on_load_checkpoint(saved)


def test_a_strangers_checkpoint_is_refused_and_a_users_own_subclass_is_not() -> None:
    ours = Blur(image_size=(32, 48))
    stranger = {"state_dict": {"model.weight": torch.zeros(1)}, "hyper_parameters": {"nobodys": "x", "layers": []}}
    with pytest.raises(ValueError, match="another model, with the arguments layers, nobodys, and this is Blur"):
        ours.on_load_checkpoint(stranger)
    with pytest.raises(ValueError, match="of Patchcore"):
        ours.on_load_checkpoint({**stranger, "hyper_parameters": {"coreset_sampling_ratio": 0.1, "num_neighbors": 9}})
    with pytest.raises(ValueError, match="of another model, and this is Blur"):
        ours.on_load_checkpoint({**stranger, "hyper_parameters": {}})
    saved = checkpoint(ours)
    saved["hyper_parameters"]["an_argument_of_the_users_own"] = 1
    ours.on_load_checkpoint(saved)
