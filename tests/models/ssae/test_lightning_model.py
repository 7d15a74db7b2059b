from itertools import product
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from anomalib.data import Folder, ImageBatch
from anomalib.pre_processing import PreProcessor
from engine_contract import EngineContract, engine
from lightning.pytorch import Callback
from model_contract import MASK, UNATTACHED, ModelContract
from torch import Tensor, nn
from torchvision.transforms.v2 import Resize

from riad_anomalib import Ssae
from riad_anomalib.models.ssae import lightning_model


class TestSsae(ModelContract, EngineContract):
    model_class = Ssae
    size = (32, 48)
    scorings = tuple(product(("squared", "ssim"), ("none", "pixel", "avgmap")))
    reconstructs = "reconstructions"
    small: ClassVar[dict[str, Any]] = {
        "image_size": (32, 48),
        "base_width": 8,
        "dilations": (1, 2),
        "smoothing_size": 5,
    }
    variants: ClassVar[dict[str, Any]] = {
        "objective": "ensemble",
        "corrupted_weight": 0.25,
        "corruptions": ("elastic", "zeros"),
        "num_patches": 3,
        "patch_size": (0.1, 0.3),
        "displacement": (0.1, 0.2),
        "brightness": 0.5,
        "augmentation": "flips",
        "crop_scales": (1,),
        "score_function": "ssim",
        "smoothing_size": 7,
        "smoothing_repeats": 2,
        "image_score": "max",
        "calibration": "avgmap",
        "avgmap_power": 2.0,
        "base_width": 6,
        "kernel_size": 5,
        "dilations": (1, 4),
        "registration": "light",
        "variation": {"brightness": 0.5, "still": 0.0},
        "lr": 0.1,
        "image_size": (32, 64),
        "crop_size": (16, 16),
        "scale": 0.5,
        "memory": 64,
        "region": MASK,
        "past_frames": 1,
        "false_alarms": 0.4,
    }
    needs: ClassVar[dict[str, dict[str, Any]]] = {
        "avgmap_power": {"calibration": "avgmap"},
        "scale": {"image_size": None, "crop_size": (16, 16)},
        "memory": {"image_size": None, "crop_size": (16, 16), "image_score": "max"},
    }
    idle = frozenset({"memory"})

    def check_log(self, rows: list[dict[str, str]]) -> None:
        super().check_log(rows)
        for row in rows:
            normal, corrupted, copied = (
                float(row[f"train_{name}_step"]) for name in ("normal_loss", "corrupted_loss", "copied")
            )
            assert float(row["train_loss_step"]) == pytest.approx((normal + corrupted) / 2)
            assert copied > 0

    @pytest.mark.filterwarnings("ignore")  # torch.onnx and OpenVINO warn about themselves
    def test_both_objectives_and_every_score_export(self, tmp_path: Path) -> None:
        self.check_export(
            tmp_path,
            objective="ensemble",
            score_function="ssim",
            registration="position",
            image_score="max",
            calibration="avgmap",
            kernel_size=5,
        )


def build(**arguments: Any) -> Ssae:
    torch.manual_seed(0)
    return Ssae(**{"base_width": 1, "dilations": (1,), "image_size": (32, 32), **arguments})


@pytest.mark.filterwarnings(UNATTACHED)
@pytest.mark.parametrize("objective", ["amplify", "ensemble"])
@pytest.mark.parametrize("corruption", ["elastic", "occlusion", "zeros"])
def test_every_objective_trains_on_every_corruption(objective: str, corruption: str) -> None:
    model = build(objective=objective, corruptions=[corruption, "rotation"]).train()
    model.training_step(ImageBatch(image=torch.rand(4, 3, 32, 32)), 0)["loss"].backward()  # type: ignore[index]
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.model.networks.parameters())


@pytest.mark.filterwarnings(UNATTACHED)
@pytest.mark.parametrize("repairs", [True, False])
def test_the_network_sees_the_corrupted_image_and_is_compared_with_the_clean_one(
    repairs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def invert(image: Tensor, *arguments: object, **shares: object) -> tuple[Tensor, Tensor]:
        assert arguments == (["zeros"], 2, 0.1)
        assert shares == {"patch_size": [0.1, 0.3], "displacement": [0.1, 0.2]}
        return 1 - image, torch.ones(len(image), 1, *image.shape[-2:])

    class Network(nn.Module):
        def forward(self, corrupted: Tensor) -> Tensor:
            return 1 - corrupted if repairs else corrupted

    monkeypatch.setattr(lightning_model, "corrupt", invert)
    sizes = {"patch_size": (0.1, 0.3), "displacement": (0.1, 0.2)}
    model = build(crop_scales=[1], corruptions=["zeros"], num_patches=2, brightness=0.1, **sizes).train()
    model.model.networks[0] = Network()
    image = torch.rand(4, 3, 32, 32)
    loss = model.training_step(ImageBatch(image=image), 0)["loss"]  # type: ignore[index]
    assert loss.item() == pytest.approx(0 if repairs else (1 - 2 * image).square().mean().item() / 2, abs=1e-6)


@pytest.mark.filterwarnings("ignore")  # Lightning's advice on workers and logging
def test_crops_grow_with_the_share_of_training(folder: Folder, tmp_path: Path) -> None:
    sizes: list[tuple[int, ...]] = []

    class Watch(Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            del trainer
            pl_module.model.register_forward_pre_hook(
                lambda module, inputs: sizes.append(tuple(inputs[0].shape[-2:])) if module.training else None
            )

    model = build(image_size=(32, 64))
    engine(tmp_path, max_steps=6, callbacks=[Watch()]).fit(model, datamodule=folder)
    assert sizes == [(16, 32)] * 2 + [(24, 48)] * 2 + [(32, 64)] * 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": (36, 32)}, "image size 36x32 is not a multiple of 8: set image_size to 32x32 or 40x32"),
        ({"image_size": "32"}, "image_size is '32': give height and width"),
        ({"objective": "repair"}, "objective is 'repair': choose one of"),
        ({"corrupted_weight": 2}, r"corrupted_weight is 2: it must be in \[0, 1\]"),
        ({"corruptions": None}, r"corruptions is None: give a list, for example \['elastic'\]"),
        ({"corruptions": ["noise"]}, r"corruptions is \['noise'\]"),
        ({"corruptions": []}, "corruptions is"),
        ({"num_patches": 0}, "num_patches is 0"),
        ({"patch_size": 0.1}, r"patch_size is 0.1: give a list, for example \[0.03, 0.2\]"),
        ({"patch_size": [0.2, 0.1]}, r"patch_size is \[0.2, 0.1\]: it must be two positive shares"),
        ({"displacement": [0.1]}, r"displacement is \[0.1\]: it must be two positive shares"),
        ({"brightness": -1}, "brightness is -1"),
        ({"augmentation": "turn"}, "augmentation is 'turn': choose one of"),
        ({"augmentation": "dihedral", "image_size": (32, 40)}, "dihedral"),
        ({"augmentation": "dihedral", "corruptions": ["elastic", "rotation"]}, "drop one of them"),
        ({"variation": {"degrees": 15}, "corruptions": ["elastic", "rotation"]}, "turns from 10 degrees on are not"),
        ({"variation": {"hue": 0.1}}, "variation has no strength hue"),
        ({"registration": "all"}, "registration is .all.: choose one of"),
        ({"crop_scales": 0.5}, r"crop_scales is 0.5: give a list, for example \[0.5, 0.75, 1\]"),
        ({"crop_scales": []}, r"crop_scales is \[\]: give shares"),
        ({"crop_scales": [0]}, r"crop_scales is \[0\]: give shares"),
        ({"crop_scales": [0.5, 1.5]}, r"crop_scales is \[0.5, 1.5\]: give shares"),
        ({"score_function": "l1"}, "score_function is 'l1': choose one of"),
        ({"image_score": "sum"}, "image_score is 'sum': choose one of"),
        ({"calibration": "some"}, "calibration is 'some': choose one of"),
        ({"dilations": True}, r"dilations is True: give a list, for example \[1, 2, 4, 8\]"),
        ({"dilations": [1, 1]}, r"dilations is \[1, 1\]"),
        ({"kernel_size": 4}, "kernel_size is 4"),
        ({"lr": 0}, "lr is 0: it must be a positive number"),
        ({"pre_processor": PreProcessor(Resize((100, 100)))}, "image size 100x100 is not a multiple"),
    ],
)
def test_bad_arguments_are_refused_when_the_model_is_built(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**arguments)
