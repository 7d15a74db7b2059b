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


TINY: dict[str, Any] = {"base_width": 4, "image_size": (32, 32), "smoothing_size": 3}


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
