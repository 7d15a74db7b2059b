"""What every model must keep in anomalib's engine: verbs, length, resume, refusals, calibration, 8 bits, names."""

import csv
import logging
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import openvino
import pytest
import torch
import yaml
from anomalib.data import Folder, ImageBatch
from anomalib.data.utils import read_image
from anomalib.deploy import OpenVINOInferencer
from anomalib.engine import Engine
from anomalib.models import get_model, list_models
from anomalib.models.components import AnomalibModule
from anomalib.pre_processing import PreProcessor
from inspections import model_api
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger
from model_contract import UNATTACHED, Contract, quantized
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import Compose, Grayscale, Normalize, RandomInvert, Resize

from riad_anomalib import ReconstructionVisualizer, deploy
from riad_anomalib.host import normal_images
from riad_anomalib.registry import alias


def engine(tmp_path: Path, **arguments: Any) -> Engine:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu", "devices": 1}
    return Engine(default_root_dir=tmp_path / "results", **{**quiet, **arguments})


class Record(Callback):
    """Learning rate and length as training sees them; ``stop`` ends it after the first step."""

    def __init__(self, stop: bool = False) -> None:
        self.learning_rates: list[float] = []
        self.max_epochs: int | None = None
        self.stop = stop

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        del pl_module
        self.learning_rates.append(trainer.optimizers[0].param_groups[0]["lr"])
        self.max_epochs = trainer.max_epochs
        trainer.should_stop = self.stop


# Lightning's advice on this machine's cores and on data sets of four images; no pixel metrics without masks
@pytest.mark.filterwarnings("ignore:The .* does not have many workers")
@pytest.mark.filterwarnings("ignore:The number of training batches")
@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true")
@pytest.mark.filterwarnings("ignore:The dirpath has changed")
@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric AUROC")
@pytest.mark.filterwarnings("ignore:.*isinstance.treespec")
class EngineContract(Contract):
    """Inherit it beside the model's contract; ``folder`` is a fixture of conftest.py."""

    def trained(self, folder: Folder, tmp_path: Path, **arguments: Any) -> tuple[Engine, Any, str]:
        """Return an engine that trained for an epoch, its model and the checkpoint."""
        seed_everything(0)
        run, model = engine(tmp_path, max_epochs=1), self.model_class(**{**self.small, **arguments})
        run.fit(model, datamodule=folder)
        return run, model, str(run.best_model_path)

    def another_size(self) -> tuple[int, int]:
        return self.size[0] * 2, self.size[1]

    def test_anomalib_knows_it_by_its_names(self, tmp_path: Path) -> None:
        name = self.model_class.__name__
        assert alias(name) in list_models()
        # The benchmark runner and get_model hand over OmegaConf's lists, which torch.load refuses under weights_only.
        small = {key: list(value) if isinstance(value, tuple) else value for key, value in self.small.items()}
        for model in (get_model({"class_path": name, "init_args": small}), get_model(alias(name), **self.small)):
            assert type(model) is self.model_class
            assert model.name == name
            assert {type(value).__module__ for value in model.hparams.values()} == {"builtins"}
        config = tmp_path / "model.yaml"
        for spelling in (alias(name), name):
            config.write_text(yaml.safe_dump({"model": {"class_path": spelling, "init_args": small}}))
            assert type(AnomalibModule.from_config(config)) is self.model_class

    def test_it_trains_tests_and_predicts_on_a_folder(self, folder: Folder, tmp_path: Path) -> None:
        seed_everything(0)
        model = self.model_class(**self.small, visualizer=ReconstructionVisualizer())
        run = engine(tmp_path, max_epochs=2, logger=CSVLogger(tmp_path / "log"), log_every_n_steps=1)
        run.fit(model, datamodule=folder)
        metrics = run.test(model, datamodule=folder)[0]
        assert {"image_AUROC", "image_F1Score"} <= set(metrics)
        with (tmp_path / "log/lightning_logs/version_0/metrics.csv").open() as file:
            self.check_log([row for row in csv.DictReader(file) if row["train_loss_step"]])
        predictions: Any = run.predict(
            model,
            data_path=folder.root / "images" / "bad",  # type: ignore[operator]
            ckpt_path=run.best_model_path,
        )
        assert len(predictions) == 2
        assert all(torch.isfinite(prediction.pred_score).all() for prediction in predictions)
        root = run.trainer.default_root_dir
        for pictures in ("images", "reconstructions"):
            assert len(list(Path(root, pictures).rglob("*.png"))) >= 3
        with Image.open(next(Path(root, "reconstructions").rglob("*.png"))) as picture:
            assert picture.width > 2.9 * picture.height  # input, reconstruction, map

    def check_log(self, rows: list[dict[str, str]]) -> None:
        """Check what training logged, a row a step."""
        assert len({row["train_loss_step"] for row in rows}) == len(rows) == 4

    def test_the_engines_verbs_agree_in_any_order(self, folder: Folder, tmp_path: Path) -> None:
        """What anomalib's own integration tests ask of every model, with a check of what comes out."""
        run, model, checkpoint = self.trained(folder, tmp_path)
        tested = run.test(model, datamodule=folder)[0]
        fresh = self.model_class(**self.small)
        assert engine(tmp_path).test(fresh, datamodule=folder, ckpt_path=checkpoint)[0] == pytest.approx(tested)
        fresh = self.model_class(**self.small)
        assert torch.isnan(fresh.post_processor.image_threshold)
        engine(tmp_path).validate(fresh, datamodule=folder, ckpt_path=checkpoint)
        assert fresh.post_processor.image_threshold == pytest.approx(model.post_processor.image_threshold)
        fresh = self.model_class(**self.small)
        predicted: Any = engine(tmp_path).predict(fresh, datamodule=folder, ckpt_path=checkpoint)
        images = torch.cat([batch.image for batch in predicted])
        with torch.no_grad():
            direct = model.eval()(images)  # pre-processor, model and post-processor, as exports have them
        torch.testing.assert_close(torch.cat([batch.pred_score for batch in predicted]), direct.pred_score)
        trained = engine(tmp_path, max_epochs=1).train(self.model_class(**self.small), datamodule=folder)
        assert set(trained[0]) == set(tested)
        exported = run.export(model, export_type="torch", export_root=tmp_path, ckpt_path=checkpoint)
        assert exported is not None
        loaded = torch.load(exported, weights_only=False)["model"]
        with torch.no_grad():
            torch.testing.assert_close(loaded.eval()(images).pred_score, direct.pred_score)

    @pytest.mark.filterwarnings(UNATTACHED)
    def test_training_lowers_the_loss(self, folder: Folder, tmp_path: Path) -> None:
        stripes = np.tile(np.repeat(np.arange(0, 256, 32, dtype=np.uint8), 7), (40, 1))
        for image in Path(folder.root, "images", "good").iterdir():  # type: ignore[arg-type]
            Image.fromarray(stripes).save(image)
        seed_everything(0)
        model: Any = self.model_class(**self.small, lr=0.01)
        images = model.pre_processor.transform(torch.from_numpy(stripes).float().expand(4, 3, -1, -1) / 255)
        before = self.loss(model, images)
        engine(tmp_path, max_epochs=15, check_val_every_n_epoch=15).fit(model, datamodule=folder)
        model.trainer = None
        assert self.loss(model, images) < 0.5 * before

    @staticmethod
    def loss(model: Any, images: Tensor) -> float:
        """Return a training step's loss; the same draws every time, which change it more than a few steps do."""
        torch.manual_seed(1)
        with torch.no_grad():
            loss: Tensor = model.train().training_step(ImageBatch(image=images), 0)["loss"]
        return loss.item()

    def test_the_default_length_holds_unless_the_user_says_otherwise(self, folder: Folder, tmp_path: Path) -> None:
        lengths: list[tuple[dict[str, Any], int]] = [
            ({}, self.model_class.default_epochs),
            ({"max_epochs": 6}, 6),
            ({"max_steps": 6}, -1),
            ({"max_time": {"minutes": 1}}, -1),
        ]
        for given, epochs in lengths:
            record = Record(stop=True)
            engine(tmp_path, callbacks=[record], **given).fit(self.model_class(**self.small), datamodule=folder)
            assert record.max_epochs == epochs, given

    def test_training_resumes_with_optimizer_schedule_and_epoch(self, folder: Folder, tmp_path: Path) -> None:
        first = engine(tmp_path, max_epochs=2)
        first.fit(self.model_class(**self.small), datamodule=folder)
        resumed, record = self.model_class(**self.small), Record()
        second = engine(tmp_path, max_epochs=12, callbacks=[record])
        second.fit(resumed, datamodule=folder, ckpt_path=first.best_model_path)
        assert second.trainer.current_epoch == 12
        assert second.trainer.global_step == 24
        steps = {int(state["step"]) for state in second.trainer.optimizers[0].state.values()}
        assert steps == {24}
        # The checkpoint's learning rate was the dropped one, after 5/6 of 2 epochs; of 12 epochs that is not yet due.
        lr = resumed.hparams["lr"]
        assert record.learning_rates[1] == pytest.approx(lr)
        assert record.learning_rates[-1] == pytest.approx(lr / 10)

    def test_a_checkpoint_brings_its_image_size_and_scores_the_same_through_every_entrance(
        self,
        folder: Folder,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        run, model, checkpoint = self.trained(folder, tmp_path)
        expected = run.test(model, datamodule=folder)[0]
        fresh = self.model_class(**{**self.small, "image_size": self.another_size()})
        with caplog.at_level(logging.WARNING):
            result = engine(tmp_path).test(fresh, datamodule=folder, ckpt_path=checkpoint)[0]
        (height, width), (other_height, other_width) = self.size, self.another_size()
        resized = f"Images are resized to {height}x{width} as in the checkpoint, not to {other_height}x{other_width}."
        assert resized in caplog.text
        assert fresh.image_size == fresh.model.image_size == self.size
        assert result == pytest.approx(expected)
        loaded = self.model_class.load_from_checkpoint(checkpoint, map_location="cpu")
        images = self.images(1)
        with torch.no_grad():
            assert torch.equal(loaded.eval().model(images).anomaly_map, model.eval().model(images).anomaly_map)

    def test_another_network_is_refused_and_other_scores_are_warned_of(
        self,
        folder: Folder,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        _, model, checkpoint = self.trained(folder, tmp_path)
        for name in self.model_class.network_arguments:
            other = self.model_class(**{**self.small, **self.needs.get(name, {}), name: self.variants[name]})
            with pytest.raises(ValueError, match=f"another network: {name} is .* there and .* here"):
                engine(tmp_path).test(other, datamodule=folder, ckpt_path=checkpoint)
        for name in self.model_class.scoring_arguments:
            caplog.clear()
            with caplog.at_level(logging.WARNING):
                other = self.build(**{name: self.variants[name]})
                other.on_load_checkpoint(torch.load(checkpoint, weights_only=True))
            assert f"thresholds are for other scores than this model's: {name} is" in caplog.text
        caplog.clear()
        same = {name: tuple(value) for name, value in model.hparams.items() if isinstance(value, list)}
        self.model_class.load_from_checkpoint(checkpoint, map_location="cpu", **same)
        assert "thresholds" not in caplog.text

    def test_calibration_takes_its_statistics_from_training_images_and_keeps_them(
        self,
        folder: Folder,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(normal_images, "NUM_IMAGES", 3)
        folder.train_augmentations = RandomInvert(p=1.0)  # to train on, not what normal images look like
        run, model, checkpoint = self.trained(folder, tmp_path, calibration="pixel")
        files = list(folder.train_data.samples.image_path)
        chosen = [files[i * len(files) // 3] for i in range(3)]
        images = torch.stack([torch.as_tensor(read_image(file, as_tensor=True)) for file in chosen])
        with torch.no_grad():
            values = model.model.eval().dissimilarity_map(model.pre_processor.transform(images))
            highest = max(model.eval().model(batch.image).pred_score.max() for batch in folder.val_dataloader())
        calibration = model.model.calibration
        torch.testing.assert_close(calibration.normal_mean, values.mean(dim=0))
        torch.testing.assert_close(calibration.normal_std, values.std(dim=0, correction=0), atol=1e-4, rtol=1e-3)
        assert model.post_processor.image_max == pytest.approx(highest.item(), rel=1e-4)  # of the calibrated map

        expected = run.test(model, datamodule=folder)[0]
        fresh = self.model_class(**{**self.small, "image_size": self.another_size(), "calibration": "pixel"})
        assert engine(tmp_path).test(fresh, datamodule=folder, ckpt_path=checkpoint)[0] == pytest.approx(expected)
        loaded = self.model_class.load_from_checkpoint(checkpoint, map_location="cpu")
        assert torch.equal(loaded.model.calibration.normal_std, calibration.normal_std)
        with pytest.raises(ValueError, match=r"statistics of normal images are missing: .* train with validation"):
            engine(tmp_path).test(self.model_class(**{**self.small, "calibration": "pixel"}), datamodule=folder)

    def test_an_explicit_pre_processor_wins_and_survives_the_checkpoint(self, folder: Folder, tmp_path: Path) -> None:
        size = self.another_size()
        pre_processor = PreProcessor(Compose([Resize(size), Grayscale(num_output_channels=3)]))
        _, model, checkpoint = self.trained(folder, tmp_path, pre_processor=pre_processor)
        assert model.image_size == model.model.image_size == size
        loaded = self.model_class.load_from_checkpoint(checkpoint, map_location="cpu")
        assert loaded.image_size == size
        assert loaded.pre_processor.transform is not None
        assert self.model_class(**self.small, pre_processor=False).image_size == self.size

    def test_normalize_is_refused_before_any_training(self, folder: Folder, tmp_path: Path) -> None:
        normalize = Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
        for stage in ("fit", "test"):
            model = self.model_class(**self.small, pre_processor=PreProcessor(Compose([Resize(self.size), normalize])))
            with pytest.raises(ValueError, match=r"maps images in \[0, 1\] to \[-2.12, 2.64\].*take Normalize"):
                getattr(engine(tmp_path, max_epochs=1), stage)(model, datamodule=folder)

    def test_one_image_of_any_kind_is_enough_to_train_and_predict(self, tmp_path: Path) -> None:
        noise = np.random.default_rng(0).integers(0, 256, (40, 56), dtype=np.uint8)
        pictures = {
            "grey": Image.fromarray(noise),
            "sixteen": Image.fromarray(noise.astype(np.uint16) * 257),
            "rgba": Image.fromarray(np.dstack([noise] * 4), mode=None),
            "black": Image.new("RGB", (56, 40), (0, 0, 0)),
            "white": Image.new("RGB", (56, 40), (255, 255, 255)),
        }
        for name, picture in pictures.items():
            path = tmp_path / "images" / name / f"{name}.png"
            path.parent.mkdir(parents=True)
            picture.save(path)
            single = Folder(
                name="one",
                normal_dir=path.parent,
                normal_test_dir=path.parent,
                abnormal_dir=path.parent,
                val_split_mode="same_as_test",
                num_workers=0,
            )
            run, model, _ = self.trained(single, tmp_path)
            predictions: Any = run.predict(model, data_path=path)
            assert torch.isfinite(predictions[0].anomaly_map).all(), path
            assert all(parameter.isfinite().all() for parameter in model.parameters())

    @pytest.mark.filterwarnings("ignore")  # torch.onnx, OpenVINO and NNCF about themselves
    def test_quantizing_takes_the_network_alone_and_keeps_the_scores(
        self,
        folder: Folder,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        run, model, checkpoint = self.trained(folder, tmp_path, calibration="pixel")
        exported = run.export(
            self.model_class(),  # the checkpoint says what the model is
            export_type="openvino",
            export_root=tmp_path,
            compression_type="int8_ptq",  # type: ignore[arg-type]  # as YAML and command line give it
            datamodule=folder,
            ckpt_path=checkpoint,
        )
        assert exported is not None
        assert (
            {"Convolution"}
            <= quantized(openvino.Core().read_model(exported))
            <= {"Convolution", "ConvolutionBackpropData", "Concat"}
        )
        monkeypatch.chdir(tmp_path)  # the inferencer leaves a cache
        inferencer = OpenVINOInferencer(exported, device="CPU", config={"INFERENCE_PRECISION_HINT": "f32"})
        wrapped = model_api(deploy.package(exported, "model-api", tmp_path / "packaged"))
        for path in sorted(Path(folder.root, "images").rglob("*.png")):  # type: ignore[arg-type]
            with torch.no_grad():
                expected = model.eval()(torch.as_tensor(read_image(path, as_tensor=True))[None])
            predicted: Any = inferencer.predict(path)
            assert predicted.pred_score.item() == pytest.approx(expected.pred_score.item(), abs=0.15)
            result = wrapped(cv2.imread(str(path)))
            assert result.pred_score == pytest.approx(predicted.pred_score.item(), abs=1e-4)
            assert result.pred_label == str(bool(predicted.pred_label.item()))
