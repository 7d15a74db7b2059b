from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from anomalib.data import Folder
from anomalib.models.components import AnomalibModule
from blur import Blur
from lightning.pytorch.cli import LightningCLI, SaveConfigCallback

from riad_anomalib import ReconstructionVisualizer

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


def test_a_model_without_reconstructions_has_none_to_show() -> None:
    other: Any = SimpleNamespace(model=object(), name="Other")
    visualizer: Any = ReconstructionVisualizer()
    with pytest.raises(TypeError, match="Other's torch model has no reconstruction"):
        visualizer.on_test_batch_end(None, other, None, None)
