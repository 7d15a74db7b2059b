"""What the host gives a model for nothing: the least one keeps both contracts."""

import inspect
from typing import Any, ClassVar

import blur
from blur import Blur
from engine_contract import EngineContract
from model_contract import ModelContract


class TestBlur(ModelContract, EngineContract):
    model_class = Blur
    size = (32, 48)
    random_on_cuda: ClassVar[set[str]] = {"UpsampleBilinear2DBackward0"}
    small: ClassVar[dict[str, Any]] = {"image_size": (32, 48)}
    variants: ClassVar[dict[str, Any]] = {
        "kernel_size": 5,
        "factor": 2,
        "calibration": "pixel",
        "variation": {"brightness": 0.5, "still": 0.0},
        "lr": 0.1,
        "image_size": (32, 64),
    }


def test_a_model_costs_at_most_sixty_lines_of_its_own() -> None:
    """Imports and blank lines aside."""
    lines = [line for line in inspect.getsource(blur).splitlines() if line.strip()]
    assert len([line for line in lines if not line.startswith(("from ", "import "))]) <= 60
