import hashlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from anomalib.data import Folder
from anomalib.models.components.base.export_mixin import ExportMixin
from PIL import Image

from riad_anomalib import demo_data, demo_video

collect_ignore = ["blur.py"]
"""The search for doctests would import, and register, the model a second time by another name."""


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Five normal and two broken images, with masks."""
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


@pytest.fixture(scope="session")
def small_demo_data() -> Callable[[Path, int], Path]:
    """Make the demo's data set with few images: so many of each kind."""

    def make(root: Path, number: int) -> Path:
        with pytest.MonkeyPatch.context() as patch:
            for name in ("NUM_TRAIN", "NUM_TEST_GOOD", "NUM_TEST_PER_DEFECT"):
                patch.setattr(demo_data, name, number)
            return demo_data.make_demo_data(root)

    return make


@pytest.fixture(scope="session")
def footage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the demo's clips with 13 frames each, three to train on and two to test, in UCSD Ped's layout."""
    with pytest.MonkeyPatch.context() as patch:
        for name, number in (("NUM_TRAIN_CLIPS", 3), ("NUM_TEST_CLIPS", 2), ("NUM_FRAMES", 13)):
            patch.setattr(demo_video, name, number)
        return demo_video.make_demo_video(tmp_path_factory.mktemp("footage"))


@pytest.fixture(scope="module")
def export_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let what was exported before be copied: torch takes longer to export a model than anyone to compress it."""
    made: dict[Any, Path] = {}
    to_onnx = ExportMixin.to_onnx

    def copied(self: Any, export_root: Path | str, *args: Any, **kwargs: Any) -> Path:
        weights = hashlib.sha256()
        for value in self.state_dict().values():
            weights.update(value.numpy().tobytes())
        # What was set after the model was built, such as another number of rounds, counts too.
        switches = {
            name: value for name, value in vars(self.model).items() if isinstance(value, (int, float, str, tuple))
        }
        key = str(self), str(dict(self.hparams)), str(switches), str(args), str(kwargs), weights.digest()
        if key not in made:
            made[key] = to_onnx(self, tmp_path_factory.mktemp("onnx"), *args, **kwargs).parent
        return Path(shutil.copytree(made[key], Path(export_root) / "weights/onnx", dirs_exist_ok=True)) / "model.onnx"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ExportMixin, "to_onnx", copied)
        yield
