from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
import torch
from anomalib.data import Folder
from anomalib.pre_processing import PreProcessor
from blur import Blur
from engine_contract import engine
from lightning.pytorch import Trainer
from torchvision.transforms.v2 import CenterCrop, Compose, Grayscale, InterpolationMode, Normalize, Resize

F32 = {"INFERENCE_PRECISION_HINT": "f32"}

pytestmark = [pytest.mark.filterwarnings("ignore:The "), pytest.mark.filterwarnings("ignore:.*isinstance.treespec")]


def test_rounding_in_bicubic_resizing_is_not_taken_for_normalisation(folder: Folder, tmp_path: Path) -> None:
    bicubic = Resize(288, interpolation=InterpolationMode.BICUBIC, antialias=True)
    model = Blur(pre_processor=PreProcessor(Compose([bicubic, CenterCrop(256)])))
    pre_processor: Any = model.pre_processor
    assert pre_processor.transform(torch.ones(1, 3, 256, 256)).max() > 1
    engine(tmp_path, fast_dev_run=True).fit(model, datamodule=folder)
    slight = Blur(pre_processor=PreProcessor(Compose([Resize((32, 48)), Normalize([0.01], [1.0])])))
    with pytest.raises(ValueError, match=r"maps images in \[0, 1\] to \[-0.01, 0.99\]"):
        engine(tmp_path, fast_dev_run=True).fit(slight, datamodule=folder)


def test_a_size_that_depends_on_the_image_is_refused() -> None:
    with pytest.raises(ValueError, match=r"for example Resize\(\(256, 256\)\) instead of Resize\(256\)"):
        Blur(pre_processor=PreProcessor(Resize(256)))


class Fixed(Blur):
    """A user's own, without an argument for the size."""

    def __init__(self) -> None:
        super().__init__(factor=2)


@pytest.mark.parametrize("model", [Blur, Fixed])
def test_images_get_the_models_default_size_in_a_users_subclass_too(model: type[Blur]) -> None:
    transform: Any = model.configure_pre_processor().transform
    assert list(transform.size) == [64, 64]
    assert model().image_size == (64, 64)


@pytest.mark.parametrize("interpolation", ["bilinear", InterpolationMode.BICUBIC])
@pytest.mark.filterwarnings("ignore")  # torch.onnx and OpenVINO about themselves
def test_shrinking_stays_smooth_in_checkpoint_and_export_and_beside_other_transforms(
    interpolation: Any,
    tmp_path: Path,
) -> None:
    resize = Resize((32, 48), interpolation=interpolation, antialias=True)
    crop_and_resize = Compose([CenterCrop((120, 100)), Compose([resize, Grayscale(3)])])
    model = Blur(pre_processor=PreProcessor(crop_and_resize), post_processor=False)
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, default_root_dir=tmp_path)
    trainer.strategy.connect(model)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    loaded = Blur.load_from_checkpoint(tmp_path / "model.ckpt", map_location="cpu").eval()
    large = torch.rand(1, 3, 130, 140)
    assert isinstance(loaded.pre_processor, PreProcessor)
    small = crop_and_resize(large)
    torch.testing.assert_close(loaded.pre_processor(large), small, atol=1e-5, rtol=0)
    with torch.no_grad():
        expected = loaded.model(small).anomaly_map.numpy()
    compiled = openvino.compile_model(
        openvino.convert_model(loaded.to_onnx(tmp_path, input_size=(130, 140))), "CPU", F32
    )
    np.testing.assert_allclose(compiled(large.numpy())["anomaly_map"], expected, atol=1e-5)


def test_a_resize_that_keeps_proportions_is_not_exported(tmp_path: Path) -> None:
    transform = Compose([Resize(72), CenterCrop(64)])
    model = Blur(pre_processor=PreProcessor(transform), post_processor=False).eval()
    pre_processor: Any = model.pre_processor
    large = torch.rand(1, 3, 130, 140)
    torch.testing.assert_close(pre_processor(large), transform(large))
    with pytest.raises(ValueError, match=r"Resize\(size=\[72\].* depends on the image.* Resize\(\(256, 256\)\)"):
        model.to_onnx(tmp_path)
    assert not list(tmp_path.rglob("*.onnx"))
