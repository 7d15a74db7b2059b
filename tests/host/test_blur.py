"""What the host gives a model for nothing: the least one keeps both contracts."""

from typing import Any, ClassVar

from blur import Blur
from engine_contract import EngineContract
from model_contract import ModelContract


class TestBlur(ModelContract, EngineContract):
    model_class = Blur
    size = (32, 48)
    small: ClassVar[dict[str, Any]] = {"image_size": (32, 48)}
    variants: ClassVar[dict[str, Any]] = {
        "kernel_size": 5,
        "factor": 2,
        "calibration": "pixel",
        "lr": 0.1,
        "image_size": (32, 64),
    }
