"""Exports of a trained model: every kind of compression, and anomalib's inferencers on them."""

from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
import torch
from anomalib.data import Folder
from anomalib.data.utils import read_image
from anomalib.deploy import CompressionType, OpenVINOInferencer, TorchInferencer
from anomalib.engine import Engine
from lightning.pytorch import seed_everything
from model_contract import quantized
from PIL import Image

from riad_anomalib import Riad

# Of torch.onnx, OpenVINO and NNCF about themselves, and Lightning's advice on small data sets.
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("export_once")]

F32 = {"INFERENCE_PRECISION_HINT": "f32"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("quantization")


@pytest.fixture(scope="module")
def folder(root: Path) -> Folder:
    """Stripes, and stripes with a square in them; as large as the model wants them, so that nothing resizes."""
    rng = np.random.default_rng(0)
    for kind, number in (("good", 8), ("bad", 4)):
        (root / kind).mkdir()
        for i in range(number):
            pixels = np.tile(np.linspace(0, 255, 16), (32, 3)) + rng.normal(0, 8, (32, 48))
            if kind == "bad":
                pixels[8:18, 4 + 5 * i : 14 + 5 * i] = 128
            Image.fromarray(np.stack([pixels.clip(0, 255).astype(np.uint8)] * 3, axis=-1)).save(
                root / kind / f"{i}.png"
            )
    return Folder(
        name="stripes",
        root=root,
        normal_dir="good",
        abnormal_dir="bad",
        val_split_mode="same_as_test",
        train_batch_size=4,
        eval_batch_size=4,
        num_workers=0,
        seed=0,
    )


@pytest.fixture(scope="module")
def trained(root: Path, folder: Folder) -> tuple[Engine, Riad, str]:
    """A calibrated model after training, and its checkpoint."""
    seed_everything(0)
    run = Engine(
        max_epochs=20,
        check_val_every_n_epoch=20,
        accelerator="cpu",
        devices=1,
        default_root_dir=root / "results",
        enable_progress_bar=False,
    )
    model = Riad(image_size=(32, 48), region_sizes=(2, 8), base_width=8, smoothing_size=5, lr=1e-2, calibration="pixel")
    run.fit(model, datamodule=folder)
    return run, model, str(run.best_model_path)


def pictures(root: Path) -> list[Path]:
    return sorted((root / "good").iterdir())[:3] + sorted((root / "bad").iterdir())


def batch(paths: list[Path]) -> torch.Tensor:
    """Return pictures as ``(N, 3, H, W)`` in [0, 1]."""
    return torch.stack([torch.as_tensor(read_image(path, as_tensor=True)) for path in paths])


def scores(inferencer: OpenVINOInferencer | TorchInferencer, images: list[Any]) -> np.ndarray[Any, Any]:
    return np.array([float(np.asarray(inferencer.predict(image).pred_score).item()) for image in images])


@pytest.mark.parametrize("compression", ["fp16", "int8", "int8_ptq"])
def test_every_compression_exports_from_a_checkpoint_and_keeps_the_verdicts(
    compression: str,
    trained: tuple[Engine, Riad, str],
    folder: Folder,
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, model, checkpoint = trained
    exported = run.export(
        Riad(),  # the checkpoint says what the model is
        export_type="openvino",
        export_root=tmp_path,
        compression_type=compression,  # type: ignore[arg-type]  # as YAML and command line give it
        datamodule=folder,
        ckpt_path=checkpoint,
    )
    assert exported is not None
    monkeypatch.chdir(tmp_path)  # the inferencer leaves a cache
    inferencer = OpenVINOInferencer(exported, device="CPU", config=F32)
    with torch.no_grad():
        expected: Any = model.eval()(batch(pictures(root)))
    # 8 bits of activations and weights, 8 of weights, 16 of weights
    tolerance = {"int8_ptq": 0.1, "int8": 0.05, "fp16": 5e-3}[compression]
    predictions: list[Any] = [inferencer.predict(path) for path in pictures(root)]
    actual = [prediction.pred_score.item() for prediction in predictions]
    np.testing.assert_allclose(actual, expected.pred_score.numpy(), atol=tolerance)
    clear = (expected.pred_score - 0.5).abs() > tolerance  # the threshold is one of the scores
    labels = torch.tensor([bool(prediction.pred_label.item()) for prediction in predictions])
    assert set(expected.pred_label[clear].tolist()) == {True, False}
    assert torch.equal(labels[clear], expected.pred_label[clear])
    graph = openvino.Core().read_model(exported)
    if compression == "int8_ptq":
        assert {"Convolution"} <= quantized(graph) <= {"Convolution", "ConvolutionBackpropData", "Concat"}
    else:
        assert not quantized(graph)
    if compression == "fp16":
        weights = [op for op in graph.get_ops() if op.get_output_element_type(0) == openvino.Type.f16]
        assert len(weights) > 10
        assert all(op.get_type_name() == "Constant" and len(op.get_output_shape(0)) == 4 for op in weights)


def test_both_inferencers_agree_on_a_path_a_pil_image_and_an_array(
    trained: tuple[Engine, Riad, str],
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, model, checkpoint = trained
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")
    monkeypatch.chdir(tmp_path)
    exports = {
        kind: run.export(model, export_type=kind, export_root=tmp_path, ckpt_path=checkpoint)
        for kind in ("torch", "openvino")
    }
    assert all(parameter.requires_grad for parameter in model.parameters())
    path = pictures(root)[-1]
    kinds = [path, str(path), Image.open(path), np.asarray(Image.open(path))]
    of_torch = scores(TorchInferencer(exports["torch"], device="cpu"), kinds)  # type: ignore[arg-type]
    openvino_inferencer = OpenVINOInferencer(exports["openvino"], device="CPU", config=F32)  # type: ignore[arg-type]
    np.testing.assert_allclose(scores(openvino_inferencer, kinds), of_torch, atol=1e-4)
    np.testing.assert_allclose(of_torch, of_torch[0], atol=1e-4)
    everything = [*(root / "good").iterdir(), *(root / "bad").iterdir()]  # also the one that the threshold is chosen by
    predicted: Any = run.predict(model, data_path=root)
    verdicts = {Path(item.image_path).relative_to(root): bool(item.pred_label) for batch in predicted for item in batch}
    for each in everything:
        label: Any = openvino_inferencer.predict(each).pred_label
        assert bool(label.item()) == verdicts[each.relative_to(root)] == (each.parent.name == "bad")
    prediction: Any = openvino_inferencer.predict(path)
    assert prediction.anomaly_map.squeeze().shape == prediction.pred_mask.squeeze().shape == (32, 48)
    assert prediction.pred_mask.any()


def test_accuracy_control_keeps_a_narrow_verdict(
    trained: tuple[Engine, Riad, str],
    folder: Folder,
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a threshold just below the lowest score of the bad pictures, rounding may cost that picture's verdict."""
    run, model, _ = trained
    post_processor: Any = model.post_processor
    threshold = post_processor._image_threshold.clone()
    bad = sorted((root / "bad").iterdir())
    with torch.no_grad():
        raw_scores = model.model.eval()(batch(bad)).pred_score
    post_processor._image_threshold.fill_(raw_scores.min() - 1e-4 * raw_scores.max())
    try:
        exported = run.export(
            model,
            export_type="openvino",
            export_root=tmp_path,
            compression_type=CompressionType.INT8_ACQ,
            datamodule=folder,
        )
    finally:
        post_processor._image_threshold.copy_(threshold)
    monkeypatch.chdir(tmp_path)
    inferencer: Any = OpenVINOInferencer(exported, device="CPU", config=F32)  # type: ignore[arg-type]
    assert all(inferencer.predict(path).pred_label.item() for path in bad)
    assert not any(inferencer.predict(path).pred_label.item() for path in (root / "good").iterdir())


def test_quantizing_without_images_is_refused(trained: tuple[Engine, Riad, str], tmp_path: Path) -> None:
    run, model, _ = trained
    with pytest.raises(ValueError, match=r"compression_type INT8_PTQ needs images: .* --data on the command line"):
        run.export(model, "openvino", export_root=tmp_path, compression_type=CompressionType.INT8_PTQ)
    assert not list(tmp_path.rglob("*.xml"))


def test_exporting_a_model_without_thresholds_is_refused(folder: Folder, tmp_path: Path) -> None:
    options: dict[str, Any] = {"accelerator": "cpu", "devices": 1, "default_root_dir": tmp_path, "logger": False}
    unvalidated = Riad(image_size=(32, 48), region_sizes=(8,), base_width=1)
    Engine(max_epochs=1, limit_val_batches=0, **options).fit(unvalidated, datamodule=folder)
    engine, kinds = Engine(**options), ("torch", "onnx", "openvino")
    for model in (Riad(base_width=1), unvalidated):
        for kind in kinds:
            with pytest.raises(ValueError, match=r"has no thresholds.*: no validation has found any. Train with"):
                engine.export(model, kind, export_root=tmp_path / "exported")
    assert not list((tmp_path / "exported").rglob("model.*"))
    engine.validate(unvalidated, datamodule=folder)  # as the message proposes
    for kind in kinds:
        assert engine.export(unvalidated, kind, export_root=tmp_path / "exported")
