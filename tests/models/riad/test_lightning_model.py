import csv
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import yaml
from anomalib.data import Folder
from anomalib.data.utils import read_image
from anomalib.engine import Engine
from anomalib.models import get_model
from anomalib.pre_processing import PreProcessor
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.cli import LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger
from model_contract import ModelContract
from PIL import Image
from torchvision.transforms.v2 import CenterCrop, Compose, Grayscale, InterpolationMode, Normalize, RandomInvert, Resize

from riad_anomalib import ReconstructionVisualizer, Riad

SMALL: dict[str, Any] = {"image_size": (32, 48), "region_sizes": (2, 8), "base_width": 4, "smoothing_size": 5}

pytestmark = [
    # Lightning's advice on this machine's cores and on data sets of four images
    pytest.mark.filterwarnings("ignore:The .* does not have many workers"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
    pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
    # no masks, no pixel metrics
    pytest.mark.filterwarnings("ignore:The ``compute`` method of metric AUROC"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec"),
]


class TestRiad(ModelContract):
    model_class = Riad
    small = SMALL
    size = (32, 48)
    variants: ClassVar[dict[str, Any]] = {
        "region_sizes": (2, 4),
        "num_disjoint_sets": 4,
        "base_width": 6,
        "skip_connections": False,
        "score_function": "ssim",
        "msgms_weight": 2.0,
        "ssim_weight": 2.0,
        "calibration": "pixel",
        "smoothing_size": 7,
        "lr": 0.1,
        "image_size": (32, 64),
        "num_partitions": 2,
        "partition_seed": 1,
    }

    @pytest.mark.parametrize("argument", list(variants))
    def test_every_argument_matters(self, argument: str) -> None:
        assert self.outcome() == self.outcome()
        assert self.outcome(**{argument: self.variants[argument]}) != self.outcome()

    def outcome(self, **arguments: Any) -> float:
        """The mean anomaly of an image after one training step."""
        model = self.build(**arguments)
        assert model.pre_processor is not None
        images = model.pre_processor(self.images())
        optimizer = torch.optim.SGD(model.parameters(), lr=model.hparams["lr"])
        torch.manual_seed(1)
        model.loss(model.train().model(images), images).backward()
        optimizer.step()
        return self.scores(model, images)[0].double().mean().item()

    @pytest.mark.parametrize("score_function", ["msgms", "ssim"])
    def test_no_skips_and_both_score_functions_export(self, score_function: str, tmp_path: Path) -> None:
        self.check_export(tmp_path, score_function=score_function, skip_connections=False, num_disjoint_sets=2)

    def test_grey_gradients_of_two_partitions_export(self, tmp_path: Path) -> None:
        self.check_export(tmp_path, score_function="msgms_grey", num_partitions=2)

    def test_shrinking_stays_smooth_in_a_checkpoint_and_beside_other_transforms(self, tmp_path: Path) -> None:
        size = Resize(self.size, antialias=True)
        model = self.build(pre_processor=PreProcessor(Compose([CenterCrop((120, 100)), size])), post_processor=False)
        trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, default_root_dir=tmp_path)
        trainer.strategy.connect(model)
        trainer.save_checkpoint(tmp_path / "model.ckpt")
        loaded = Riad.load_from_checkpoint(tmp_path / "model.ckpt", map_location="cpu").eval()
        large = torch.rand(1, 3, 130, 140)
        pre_processor: Any = model.pre_processor
        assert isinstance(loaded.pre_processor, PreProcessor)
        torch.testing.assert_close(loaded.pre_processor(large), pre_processor.transform(large))

    @pytest.mark.filterwarnings("ignore")  # torch.onnx and OpenVINO about themselves
    def test_a_calibrated_model_exports(self, tmp_path: Path) -> None:
        self.check_export(tmp_path, calibration="pixel")

    def build(self, **arguments: Any) -> Riad:
        """Build a model; a calibrated one with statistics, which training would have gathered."""
        model = super().build(**arguments)
        assert isinstance(model, Riad)
        if model.model.calibration == "pixel":
            generator = torch.Generator().manual_seed(2)
            model.model.normal_mean = 0.2 * torch.rand(1, *model.model.image_size, generator=generator)
            model.model.normal_std = 0.1 * torch.rand(1, *model.model.image_size, generator=generator)
        return model


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Five normal and two broken images, each kind of file that a camera may write."""
    rng = np.random.default_rng(0)
    for kind, number in (("good", 5), ("bad", 2)):
        (tmp_path / "images" / kind).mkdir(parents=True)
        for i in range(number):
            pixels = rng.integers(0, 256, (40, 56, 3), dtype=np.uint8)
            if kind == "bad":
                pixels[10:20, 10:20] = 255
                (tmp_path / "masks").mkdir(exist_ok=True)
                Image.fromarray(np.uint8(255) * (pixels.min(axis=2) == 255)).save(tmp_path / "masks" / f"{i}.png")
            Image.fromarray(pixels).save(tmp_path / "images" / kind / f"{i}.png")
    return Folder(
        name="tiny",
        root=tmp_path,
        normal_dir="images/good",
        abnormal_dir="images/bad",
        mask_dir="masks",
        val_split_mode="same_as_test",
        train_batch_size=2,
        eval_batch_size=2,
        num_workers=0,
        seed=0,
    )


def engine(tmp_path: Path, **arguments: Any) -> Engine:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu", "devices": 1}
    return Engine(default_root_dir=tmp_path / "results", **{**quiet, **arguments})


class Record(Callback):
    """Learning rate and length as training sees them."""

    def __init__(self) -> None:
        self.learning_rates: list[float] = []
        self.max_epochs: int | None = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        del pl_module
        self.learning_rates.append(trainer.optimizers[0].param_groups[0]["lr"])
        self.max_epochs = trainer.max_epochs


def test_it_trains_tests_and_predicts_on_a_folder(folder: Folder, tmp_path: Path) -> None:
    seed_everything(0)
    model = Riad(**SMALL, visualizer=ReconstructionVisualizer())
    run = engine(tmp_path, max_epochs=2, logger=CSVLogger(tmp_path / "log"), log_every_n_steps=1)
    run.fit(model, datamodule=folder)
    metrics = run.test(model, datamodule=folder)[0]
    assert {"image_AUROC", "image_F1Score"} <= set(metrics)
    with (tmp_path / "log/lightning_logs/version_0/metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["train_loss_step"]]
    for row in rows:
        terms = sum(float(row[f"train_{name}_loss_step"]) for name in ("msgms", "ssim", "l2"))
        assert float(row["train_loss_step"]) == pytest.approx(terms, abs=1e-5)
    predictions: Any = run.predict(model, data_path=tmp_path / "images" / "bad", ckpt_path=run.best_model_path)
    assert len(predictions) == 2
    assert all(torch.isfinite(prediction.pred_score).all() for prediction in predictions)
    root = run.trainer.default_root_dir
    for pictures in ("images", "reconstructions"):
        assert len(list(Path(root, pictures).rglob("*.png"))) >= 3
    with Image.open(next(Path(root, "reconstructions").rglob("*.png"))) as picture:
        assert picture.width > 2.9 * picture.height  # input, reconstruction, map


def test_the_engines_verbs_agree_in_any_order(folder: Folder, tmp_path: Path) -> None:
    """What anomalib's own integration tests ask of every model, with a check of what comes out."""
    seed_everything(0)
    run = engine(tmp_path, max_epochs=1)
    model = Riad(**SMALL)
    run.fit(model, datamodule=folder)
    checkpoint = str(run.best_model_path)
    tested = run.test(model, datamodule=folder)[0]
    assert engine(tmp_path).test(Riad(**SMALL), datamodule=folder, ckpt_path=checkpoint)[0] == pytest.approx(tested)
    fresh = Riad(**SMALL)
    assert fresh.post_processor is not None
    assert torch.isnan(torch.as_tensor(fresh.post_processor.image_threshold))
    engine(tmp_path).validate(fresh, datamodule=folder, ckpt_path=checkpoint)
    assert fresh.post_processor.image_threshold == pytest.approx(model.post_processor.image_threshold)  # type: ignore[union-attr]
    predicted: Any = engine(tmp_path).predict(Riad(**SMALL), datamodule=folder, ckpt_path=checkpoint)
    images = torch.cat([batch.image for batch in predicted])
    with torch.no_grad():
        direct = model.eval()(images)  # pre-processor, model and post-processor, as exports have them
    torch.testing.assert_close(torch.cat([batch.pred_score for batch in predicted]), direct.pred_score)
    trained = engine(tmp_path, max_epochs=1).train(Riad(**SMALL), datamodule=folder)
    assert set(trained[0]) == set(tested)
    exported = run.export(model, export_type="torch", export_root=tmp_path, ckpt_path=checkpoint)
    assert exported is not None
    loaded = torch.load(exported, weights_only=False)["model"]
    with torch.no_grad():
        torch.testing.assert_close(loaded.eval()(images).pred_score, direct.pred_score)


def test_training_lowers_the_loss(folder: Folder, tmp_path: Path) -> None:
    seed_everything(0)
    logger = CSVLogger(tmp_path / "log")
    for image in (tmp_path / "images" / "good").iterdir():
        Image.fromarray(np.tile(np.repeat(np.arange(0, 256, 32, dtype=np.uint8), 7), (40, 1))).save(image)
    run = engine(tmp_path, max_epochs=15, logger=logger, check_val_every_n_epoch=15)
    run.fit(Riad(**SMALL, lr=0.01), datamodule=folder)
    with (tmp_path / "log/lightning_logs/version_0/metrics.csv").open() as file:
        losses = [float(row["train_loss_epoch"]) for row in csv.DictReader(file) if row["train_loss_epoch"]]
    assert losses[-1] < 0.5 * losses[0]


def test_training_takes_300_epochs_unless_the_user_says_otherwise(folder: Folder, tmp_path: Path) -> None:
    class Stop(Record):
        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            trainer.should_stop = True

    record = Stop()
    model = Riad(**SMALL)
    run = engine(tmp_path, callbacks=[record])
    run.fit(model, datamodule=folder)
    assert record.max_epochs == 300
    per_epoch = run.trainer.num_training_batches
    rates = [model.lr_schedulers().lr_lambdas[0](epoch * per_epoch) for epoch in (249.9, 250, 299.9)]  # type: ignore[union-attr]
    assert rates == [1.0, 0.1, 0.1]


@pytest.mark.parametrize(
    ("given", "epochs", "steps"),
    [
        ({"max_epochs": 6}, 6, 12),
        ({"max_steps": 6}, -1, 6),
        ({"max_epochs": 6, "max_steps": 4}, 6, 4),
    ],
)
def test_the_learning_rate_drops_after_five_sixths_of_the_true_length(
    given: dict[str, Any],
    epochs: int,
    steps: int,
    folder: Folder,
    tmp_path: Path,
) -> None:
    record = Record()
    model = Riad(image_size=(16, 16), region_sizes=(8,), num_disjoint_sets=2, base_width=1, lr=0.5)
    engine(tmp_path, callbacks=[record], **given).fit(model, datamodule=folder)
    assert record.max_epochs == epochs
    drop = [i for i, rate in enumerate(record.learning_rates) if rate == pytest.approx(0.05)]
    assert len(record.learning_rates) == steps
    assert record.learning_rates[0] == 0.5
    assert drop == list(range(-(-steps * 5 // 6), steps))


def test_a_time_limit_holds_and_the_learning_rate_follows_it(folder: Folder, tmp_path: Path) -> None:
    record = Record()
    model = Riad(image_size=(16, 16), region_sizes=(8,), num_disjoint_sets=2, base_width=1, lr=0.5)
    run = engine(tmp_path, callbacks=[record], max_time={"seconds": 6}, check_val_every_n_epoch=1000)
    run.fit(model, datamodule=folder)
    assert record.max_epochs == -1
    assert record.learning_rates[0] == 0.5
    assert record.learning_rates[-1] == pytest.approx(0.05)
    late = sum(rate < 0.1 for rate in record.learning_rates) / len(record.learning_rates)
    assert 0.02 < late < 0.5


def test_training_resumes_with_optimizer_schedule_and_epoch(folder: Folder, tmp_path: Path) -> None:
    model = Riad(**SMALL)
    first = engine(tmp_path, max_epochs=2)
    first.fit(model, datamodule=folder)
    resumed, record = Riad(**SMALL), Record()
    second = engine(tmp_path, max_epochs=12, callbacks=[record])
    second.fit(resumed, datamodule=folder, ckpt_path=first.best_model_path)
    assert second.trainer.current_epoch == 12
    assert second.trainer.global_step == 24
    steps = {int(state["step"]) for state in second.trainer.optimizers[0].state.values()}
    assert steps == {24}
    # The checkpoint's learning rate was the dropped one, after 5/6 of 2 epochs; of 12 epochs that is not yet due.
    assert record.learning_rates[1] == pytest.approx(1e-4)
    assert record.learning_rates[-1] == pytest.approx(1e-5)


def test_a_checkpoint_brings_its_image_size_and_scores_the_same_through_every_entrance(
    folder: Folder,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    run = engine(tmp_path, max_epochs=1)
    model = Riad(**SMALL)
    run.fit(model, datamodule=folder)
    expected = run.test(model, datamodule=folder)[0]
    fresh = Riad(**{**SMALL, "image_size": (64, 64)})
    with caplog.at_level(logging.WARNING):
        result = engine(tmp_path).test(fresh, datamodule=folder, ckpt_path=run.best_model_path)[0]
    assert "Images are resized to 32x48 as in the checkpoint, not to 64x64." in caplog.text
    assert fresh.image_size == fresh.model.image_size == (32, 48)
    assert result == pytest.approx(expected)
    loaded: Any = Riad.load_from_checkpoint(str(run.best_model_path))
    images = torch.rand(1, 3, 32, 48)
    with torch.no_grad():
        assert torch.equal(loaded.eval().model(images).anomaly_map, model.eval().model(images).anomaly_map)


def test_calibration_takes_its_statistics_from_training_images_and_keeps_them(
    folder: Folder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("riad_anomalib.models.riad.lightning_model.CALIBRATION_IMAGES", 3)
    folder.train_augmentations = RandomInvert(p=1.0)  # to train on, not what normal images look like
    model = Riad(**SMALL, calibration="pixel")
    run = engine(tmp_path, max_epochs=2, check_val_every_n_epoch=2)
    run.fit(model, datamodule=folder)
    files = list(folder.train_data.samples.image_path)
    images = torch.stack([torch.as_tensor(read_image(files[i * len(files) // 3], as_tensor=True)) for i in range(3)])
    pre_processor: Any = model.pre_processor
    with torch.no_grad():
        values = model.model.eval().dissimilarity_map(pre_processor.transform(images))
    torch.testing.assert_close(model.model.normal_mean, values.mean(dim=0))
    torch.testing.assert_close(model.model.normal_std, values.std(dim=0, correction=0), atol=1e-4, rtol=1e-3)

    expected = run.test(model, datamodule=folder)[0]
    state = torch.load(str(run.best_model_path), weights_only=True)["state_dict"]
    assert torch.equal(state["model.normal_mean"], model.model.normal_mean)
    fresh = Riad(**{**SMALL, "image_size": (64, 64)}, calibration="pixel")
    assert engine(tmp_path).test(fresh, datamodule=folder, ckpt_path=run.best_model_path)[0] == pytest.approx(expected)
    loaded: Any = Riad.load_from_checkpoint(str(run.best_model_path))
    assert torch.equal(loaded.model.normal_std, model.model.normal_std)


def test_the_thresholds_are_those_of_the_calibrated_map(folder: Folder, tmp_path: Path) -> None:
    seed_everything(0)
    model = Riad(**SMALL, calibration="pixel")
    engine(tmp_path, max_epochs=1).fit(model, datamodule=folder)
    post_processor: Any = model.post_processor
    with torch.no_grad():
        highest = max(model.eval().model(batch.image).pred_score.max() for batch in folder.val_dataloader())
    assert post_processor.image_max == pytest.approx(highest.item(), rel=1e-4)


def test_a_calibrated_model_without_statistics_says_what_is_missing(folder: Folder, tmp_path: Path) -> None:
    model = Riad(**SMALL, calibration="pixel")
    with pytest.raises(ValueError, match=r"statistics of normal images are missing: .* train with validation"):
        engine(tmp_path).test(model, datamodule=folder)


@pytest.mark.parametrize(("given", "size", "pixels"), [(21, 128, 21), (0.08, 256, 21), (0.08, 128, 11), (0.001, 64, 1)])
def test_the_mean_filters_window_is_in_pixels_or_follows_the_image(given: float, size: int, pixels: int) -> None:
    model = Riad(base_width=1, image_size=(size, 2 * size), smoothing_size=given)
    assert model.model.smoothing_window == pixels


def test_an_explicit_pre_processor_wins_and_survives_the_checkpoint(folder: Folder, tmp_path: Path) -> None:
    pre_processor = PreProcessor(Compose([Resize((48, 32)), Grayscale(num_output_channels=3)]))
    model = Riad(**SMALL, pre_processor=pre_processor)
    assert model.image_size == model.model.image_size == (48, 32)
    run = engine(tmp_path, max_epochs=1)
    run.fit(model, datamodule=folder)
    loaded: Any = Riad.load_from_checkpoint(str(run.best_model_path))
    assert loaded.model.image_size == (48, 32)
    assert loaded.pre_processor.transform is not None


def test_without_a_pre_processor_images_have_the_given_size() -> None:
    assert Riad(**SMALL, pre_processor=False).model.image_size == (32, 48)


def test_another_network_in_the_checkpoint_is_refused(
    folder: Folder,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    run = engine(tmp_path, max_epochs=1)
    run.fit(Riad(**SMALL), datamodule=folder)
    other = Riad(**{**SMALL, "base_width": 6, "skip_connections": False})
    with pytest.raises(ValueError, match="base_width is 4 there and 6 here and skip_connections is True there"):
        engine(tmp_path).test(other, datamodule=folder, ckpt_path=run.best_model_path)
    # What only concerns scoring may differ: the same network, another map (Table 6).
    scorer = Riad(**{**SMALL, "score_function": "ssim", "region_sizes": (4,)})
    with caplog.at_level(logging.WARNING):
        engine(tmp_path).test(scorer, datamodule=folder, ckpt_path=run.best_model_path)
    assert "thresholds are for other scores than this model's: region_sizes is [2, 8] there and [4] here" in caplog.text
    assert scorer.model.score_function == "ssim"
    caplog.clear()
    Riad.load_from_checkpoint(str(run.best_model_path), region_sizes=(2, 8))  # the same, as a tuple
    assert "thresholds" not in caplog.text


class MyRiad(Riad):
    """A user's own."""


def test_lightnings_own_command_line_trains_and_saves_what_it_was_given(
    folder: Folder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.argv", ["program"])
    data = {"name": "tiny", "root": folder.root, "normal_dir": "images/good", "abnormal_dir": "images/bad"}
    trainer = {"max_epochs": 1, "accelerator": "cpu", "logger": "false", "enable_progress_bar": "false"}
    options = [f"--data.{name}={value}" for name, value in (data | {"num_workers": 0}).items()]
    options += [f"--trainer.{name}={value}" for name, value in (trainer | {"default_root_dir": tmp_path}).items()]
    options += [f"--model.{name}={list(value) if isinstance(value, tuple) else value}" for name, value in SMALL.items()]
    LightningCLI(Riad, Folder, args=["fit", *options], seed_everything_default=0)
    saved = yaml.safe_load((tmp_path / "config.yaml").read_text())["model"]
    assert saved["base_width"] == SMALL["base_width"]
    assert "class_path" not in saved
    names = {"riad": "riad_anomalib.Riad", "Riad": "riad_anomalib.Riad", f"{__name__}.MyRiad": f"{__name__}.MyRiad"}
    for name, path in names.items():
        arguments = [f"--model={name}", *options]
        cli = LightningCLI(Riad, Folder, subclass_mode_model=True, args=arguments, seed_everything_default=0, run=False)
        cli.model.trainer = cli.trainer
        cli.model.configure_callbacks()
        (callback,) = [each for each in cli.trainer.callbacks if isinstance(each, SaveConfigCallback)]  # type: ignore[attr-defined]
        assert callback.config["model"]["class_path"] == path


@pytest.mark.parametrize("stage", ["fit", "test"])
def test_normalize_is_refused_before_any_training(stage: str, folder: Folder, tmp_path: Path) -> None:
    transform = Compose([Resize((32, 48)), Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])])
    model = Riad(**SMALL, pre_processor=PreProcessor(transform))
    with pytest.raises(ValueError, match=r"maps images in \[0, 1\] to \[-2.12, 2.64\].*take Normalize"):
        getattr(engine(tmp_path, max_epochs=1), stage)(model, datamodule=folder)


def test_rounding_in_bicubic_resizing_is_not_taken_for_normalisation(folder: Folder, tmp_path: Path) -> None:
    bicubic = Resize(288, interpolation=InterpolationMode.BICUBIC, antialias=True)
    model = Riad(**{**SMALL, "image_size": (256, 256)}, pre_processor=PreProcessor(Compose([bicubic, CenterCrop(256)])))
    assert model.pre_processor.transform(torch.ones(1, 3, 256, 256)).max() > 1  # type: ignore[union-attr,operator]
    engine(tmp_path, fast_dev_run=True).fit(model, datamodule=folder)
    slight = Riad(**SMALL, pre_processor=PreProcessor(Compose([Resize((32, 48)), Normalize([0.01], [1.0])])))
    with pytest.raises(ValueError, match=r"maps images in \[0, 1\] to \[-0.01, 0.99\]"):
        engine(tmp_path, fast_dev_run=True).fit(slight, datamodule=folder)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": (250, 256)}, "image size 250x256 is not a multiple of region size 4"),
        ({"image_size": (256,)}, r"image_size is \(256,\): give height and width"),
        ({"image_size": 256}, "image_size is 256: give height and width"),
        ({"image_size": (256, 2.5e2)}, "image_size is 250.0: it must be a whole number"),
        ({"lr": 0}, "lr is 0: it must be a positive number"),
        ({"lr": "1e-4"}, "lr is '1e-4': it must be a finite number"),
        ({"lr": float("nan")}, "lr is nan: it must be a finite number"),
        ({"region_sizes": []}, "region_sizes is empty"),
        (
            {"region_sizes": 8},
            r"region_sizes is 8: give a list of whole numbers of pixels, for example \[2, 4, 8, 16\]",
        ),
        ({"region_sizes": "8"}, "region_sizes is '8': give a list"),
        ({"region_sizes": [2.5]}, "region_sizes is 2.5: it must be a whole number"),
        ({"num_disjoint_sets": 2.5}, "num_disjoint_sets is 2.5: it must be a whole number"),
        ({"num_disjoint_sets": float("nan")}, "num_disjoint_sets is nan: it must be a whole number"),
        ({"base_width": None}, "base_width is None: it must be a whole number"),
        ({"base_width": True}, "base_width is True: it must be a whole number"),
        ({"num_partitions": 1.5}, "num_partitions is 1.5: it must be a whole number"),
        ({"partition_seed": "a"}, "partition_seed is 'a': it must be a whole number"),
        ({"smoothing_size": True}, "smoothing_size is True: it must be a finite number"),
        ({"smoothing_size": float("nan")}, "smoothing_size is nan: it must be a finite number"),
        ({"msgms_weight": "a"}, "msgms_weight is 'a': it must be a finite number"),
        ({"ssim_weight": float("inf")}, "ssim_weight is inf: it must be a finite number"),
        ({"score_function": ["ssim"]}, r"score_function is \['ssim'\]: choose one of"),
        ({"score_function": "l2"}, "choose one of"),
        ({"calibration": "image"}, r"calibration is 'image': choose one of \['none', 'pixel'\]"),
        ({"smoothing_size": 10}, "smoothing_size is 10: it must be a positive odd number of pixels, or a share"),
        ({"smoothing_size": -1}, "smoothing_size is -1: it must be"),
        ({"smoothing_size": 1.5}, "smoothing_size is 1.5: it must be"),
        ({"msgms_weight": -1}, "msgms_weight is -1"),
        ({"pre_processor": PreProcessor(Resize(256))}, r"for example Resize\(\(256, 256\)\) instead of Resize\(256\)"),
        ({"pre_processor": PreProcessor(Resize((100, 100)))}, "image size 100x100 is not a multiple"),
    ],
)
def test_bad_arguments_are_refused_when_the_model_is_built(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Riad(**{"base_width": 1, **arguments})


def files(folder: Path) -> Iterator[Path]:
    """Grey, 16-bit, RGBA and constant images."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (40, 56), dtype=np.uint8)
    pictures = {
        "grey": Image.fromarray(noise),
        "sixteen": Image.fromarray(noise.astype(np.uint16) * 257),
        "rgba": Image.fromarray(np.dstack([noise] * 4), mode=None),
        "black": Image.new("RGB", (56, 40), (0, 0, 0)),
        "white": Image.new("RGB", (56, 40), (255, 255, 255)),
    }
    for name, picture in pictures.items():
        path = folder / name / f"{name}.png"
        path.parent.mkdir(parents=True)
        picture.save(path)
        yield path


def test_one_image_of_any_kind_is_enough_to_train_and_predict(tmp_path: Path) -> None:
    for path in files(tmp_path / "images"):
        single = Folder(
            name="one",
            normal_dir=path.parent,
            normal_test_dir=path.parent,
            abnormal_dir=path.parent,
            val_split_mode="same_as_test",
            num_workers=0,
        )
        model = Riad(**SMALL)
        run = engine(tmp_path, max_epochs=1)
        run.fit(model, datamodule=single)
        predictions: Any = run.predict(model, data_path=path)
        assert torch.isfinite(predictions[0].anomaly_map).all(), path
        assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_lists_from_omegaconf_do_not_reach_the_checkpoint() -> None:
    model = get_model({"class_path": "Riad", "init_args": {**SMALL, "image_size": [32, 48], "region_sizes": [2, 8]}})
    assert type(model.hparams["region_sizes"]) is list
    assert type(model.hparams["image_size"]) is tuple
    assert model.name == "Riad"
