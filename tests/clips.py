"""What tests of video share: the demo's footage as data, a small model, warnings that are Lightning's own business."""

from pathlib import Path
from typing import Any

import pytest
from anomalib.data import UCSDped
from blur import Blur
from lightning.pytorch import seed_everything

QUIET = [
    pytest.mark.filterwarnings("ignore:The .* does not have many workers"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
    pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
    pytest.mark.filterwarnings("ignore:Your `predict_dataloader`.s sampler has shuffling enabled"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec"),
]
NUM_FRAMES = 26
"""Of both test clips."""


def video_data(footage: Path, **arguments: Any) -> UCSDped:
    return UCSDped(footage.parent, footage.name, **{"num_workers": 0, "train_batch_size": 2, **arguments})


def small(**arguments: Any) -> Any:
    seed_everything(0)
    return Blur(**{"image_size": (48, 72), "visualizer": False, **arguments})
