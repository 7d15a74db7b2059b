import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from anomalib.data import Folder, ImageBatch
from anomalib.data.utils import read_image
from anomalib.models.components import AnomalibModule
from blur import Blur
from engine_contract import engine
from lightning.pytorch import seed_everything
from lightning.pytorch.cli import LightningCLI, SaveConfigCallback
from lightning.pytorch.utilities.types import STEP_OUTPUT
from PIL import Image
from torch import Tensor

from riad_anomalib import ReconstructionVisualizer
from riad_anomalib.components.variation import Variation, vary
from riad_anomalib.host.normal_images import warn_of_lost_range

pytestmark = [pytest.mark.filterwarnings("ignore:The "), pytest.mark.filterwarnings("ignore:.*isinstance.treespec")]


class MyBlur(Blur):
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
    LightningCLI(Blur, Folder, args=["fit", *options, "--model.factor=2"], seed_everything_default=0)
    saved = yaml.safe_load((tmp_path / "config.yaml").read_text())["model"]
    assert saved["factor"] == 2
    assert "class_path" not in saved


@pytest.mark.parametrize(
    ("given", "saved"),
    [
        ("riad", "riad_anomalib.Riad"),
        ("Riad", "riad_anomalib.Riad"),
        ("blur", "blur.Blur"),
        (f"{__name__}.MyBlur", f"{__name__}.MyBlur"),
    ],
)
def test_a_saved_config_names_the_class_that_was_given(
    given: str,
    saved: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.argv", ["program"])
    options: dict[str, Any] = {"args": [f"--model={given}", "--trainer.logger=false"], "run": False}
    cli = LightningCLI(AnomalibModule, subclass_mode_model=True, seed_everything_default=0, **options)
    cli.model.trainer = cli.trainer
    cli.model.configure_callbacks()
    (callback,) = [each for each in cli.trainer.callbacks if isinstance(each, SaveConfigCallback)]  # type: ignore[attr-defined]
    assert callback.config["model"]["class_path"] == saved


def float_picture(low: float, high: float) -> Image.Image:
    return Image.fromarray(np.linspace(low, high, 64, dtype=np.float32).reshape(8, 8))


@pytest.mark.parametrize(
    ("made", "found"),
    [
        (Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000), "mode I;16, values from 0 to 63000"),
        (Image.fromarray(np.arange(64, dtype=np.int32).reshape(8, 8) - 9), "mode I, values from -9 to 54"),
        (float_picture(0, 1), "mode F, values from 0 to 1"),
        (float_picture(0, 300), "mode F, values from 0 to 300"),
        (Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 4), None),  # 8 bits in a file of 16
        (float_picture(0, 255), None),
        (Image.new("L", (8, 8)), None),
        (Image.new("RGBA", (8, 8)), None),
    ],
)
def test_training_begins_with_a_warning_of_pictures_that_reading_makes_blank(
    made: Image.Image, found: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made.save(tmp_path / "a.tif")
    (tmp_path / "b.tif").write_text("no picture")
    samples = pd.DataFrame({"image_path": [str(tmp_path / "a.tif"), str(tmp_path / "b.tif")]})
    trainer: Any = SimpleNamespace(train_dataloader=SimpleNamespace(dataset=SimpleNamespace(samples=samples)))
    warn_of_lost_range(trainer)
    assert len(caplog.messages) == (found is not None)
    if found:
        assert "1 of 2 training pictures" in caplog.text
        assert f"such as {tmp_path / 'a.tif'} (Pillow's {found})" in caplog.text


def test_a_model_without_reconstructions_has_none_to_show() -> None:
    other: Any = SimpleNamespace(model=object(), name="Other")
    visualizer: Any = ReconstructionVisualizer()
    with pytest.raises(TypeError, match="Other's torch model has no reconstruction"):
        visualizer.on_test_batch_end(None, other, None, None)


STRENGTHS = {"brightness": 0.3, "translate": 0.1}


class Watched(Blur):
    """Keeps what it was trained on."""

    seen: ClassVar[list[Tensor]] = []

    def training_step(self, batch: ImageBatch, *_: object) -> STEP_OUTPUT:
        self.seen.append(batch.image.clone())  # type: ignore[union-attr]
        return super().training_step(batch)


def test_training_and_calibration_see_the_same_variation_and_say_if_there_is_none(
    folder: Folder,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def trained(**arguments: Any) -> tuple[Watched, list[Tensor]]:
        seed_everything(0)
        Watched.seen.clear()
        model = Watched(image_size=(32, 48), calibration="pixel", visualizer=False, **arguments)
        engine(tmp_path, max_epochs=1).fit(model, datamodule=folder)
        return model, list(Watched.seen)

    with caplog.at_level(logging.WARNING):
        _, still = trained()
    assert "presumes that light and position stay as they are" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        model, varied = trained(variation=STRENGTHS)
    assert "presumes" not in caplog.text
    normal = torch.cat(still)
    assert all((normal == image).flatten(1).all(dim=1).any() for batch in still for image in batch)
    assert sum((normal == image).flatten(1).all(dim=1).any() for batch in varied for image in batch) < len(normal)

    # The statistics, worked out: the seed is fixed, each batch of images in their order is varied four times.
    draws, variation = torch.Generator().manual_seed(0), Variation(**STRENGTHS)
    files = [read_image(file, as_tensor=True) for file in folder.train_data.samples.image_path]
    pre_processor: Any = model.pre_processor
    images = pre_processor.transform(torch.stack([torch.as_tensor(file) for file in files]))
    with torch.no_grad():
        values = [
            model.eval().model.dissimilarity_map(vary(batch, variation, draws))
            for batch in images.split(folder.train_batch_size)
            for _ in range(4)
        ]
    torch.testing.assert_close(model.model.calibration.normal_mean, torch.cat(values).mean(dim=0))
