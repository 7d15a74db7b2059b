from itertools import product
from pathlib import Path
from typing import Any, ClassVar

import pytest
from anomalib.pre_processing import PreProcessor
from engine_contract import EngineContract
from model_contract import MASK, ModelContract
from torchvision.transforms.v2 import Resize

from riad_anomalib import Riad


class TestRiad(ModelContract, EngineContract):
    model_class = Riad
    size = (32, 48)
    scorings = tuple(product(("msgms", "msgms_grey", "ssim", "absolute"), ("none", "pixel")))
    reconstructs = "reconstructions"
    small: ClassVar[dict[str, Any]] = {
        "image_size": (32, 48),
        "region_sizes": (2, 8),
        "base_width": 4,
        "smoothing_size": 5,
    }
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
        "region": MASK,
        "registration": "light",
        "variation": {"brightness": 0.5, "still": 0.0},
        "lr": 0.1,
        "image_size": (32, 64),
        "num_partitions": 2,
        "partition_seed": 1,
        "past_frames": 1,
        "false_alarms": 0.4,
    }

    def check_log(self, rows: list[dict[str, str]]) -> None:
        super().check_log(rows)
        for row in rows:
            terms = sum(float(row[f"train_{name}_loss_step"]) for name in ("msgms", "ssim", "l2"))
            assert float(row["train_loss_step"]) == pytest.approx(terms, abs=1e-5)

    def test_ssim_of_two_sets_without_skips_exports(self, tmp_path: Path) -> None:
        self.check_export(tmp_path, score_function="ssim", skip_connections=False, num_disjoint_sets=2)

    def test_grey_gradients_of_two_partitions_export(self, tmp_path: Path) -> None:
        self.check_export(tmp_path, score_function="msgms_grey", num_partitions=2, registration="position")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": (250, 256)}, "image size 250x256 is not a multiple of region size 4"),
        ({"image_size": (256,)}, r"image_size is \(256,\): give height and width"),
        ({"image_size": "256"}, r"image_size is '256': give height and width, for example \[256, 256\], or one number"),
        ({"image_size": (256, 2.5e2)}, "image_size is 250.0: it must be a whole number"),
        ({"lr": 0}, "lr is 0: it must be a positive number"),
        ({"lr": "1e-4"}, "lr is '1e-4': it must be a finite number"),
        ({"lr": float("nan")}, "lr is nan: it must be a finite number"),
        ({"region_sizes": []}, "region_sizes is empty"),
        (
            {"region_sizes": None},
            r"region_sizes is None: give a list of whole numbers of pixels, for example \[2, 4, 8, 16\]",
        ),
        ({"region_sizes": "8"}, "region_sizes is '8': it must be a whole number"),
        ({"region_sizes": [2.5]}, "region_sizes is 2.5: it must be a whole number"),
        ({"num_disjoint_sets": 2.5}, "num_disjoint_sets is 2.5: it must be a whole number"),
        ({"num_disjoint_sets": float("nan")}, "num_disjoint_sets is nan: it must be a whole number"),
        ({"base_width": None}, "base_width is None: it must be a whole number"),
        ({"base_width": True}, "base_width is True: it must be a whole number"),
        ({"past_frames": 0}, "past_frames is 0: give 1 for every frame's own score, or more"),
        ({"past_frames": 2.5}, "past_frames is 2.5: it must be a whole number"),
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
