"""Large maps thinned out for what keeps every pixel of every picture: pixel metrics and thresholds."""

import copy
import math
from typing import Any

from anomalib.data import Batch
from lightning.pytorch import Callback
from torch import Tensor

MOST_PIXELS = 2**18
"""Pixels of a map, those of 512x512, above which every second, third, ... row and column is taken."""
_FIELDS = ("anomaly_map", "pred_mask", "gt_mask")


def step_of(batch: Batch[Any]) -> int:
    """Return the distance of the rows, and columns, that are taken of a batch's maps: 1 takes all."""
    found: Any = batch.anomaly_map
    return 1 if found is None else math.ceil(math.sqrt(found.shape[-2] * found.shape[-1] / MOST_PIXELS))


def thinned(batch: Batch[Any]) -> Batch[Any]:
    """Return a batch with fewer rows and columns of its maps; one of small maps is that itself."""
    if (step := step_of(batch)) == 1:
        return batch
    fewer = copy.copy(batch)
    for name, value in _maps(batch).items():
        setattr(fewer, name, value[..., ::step, ::step])
    return fewer


def _maps(batch: Batch[Any]) -> dict[str, Tensor]:
    return {name: value for name in _FIELDS if (value := getattr(batch, name)) is not None}


class _Thin(Callback):
    def __init__(self, whole: dict[str, Tensor]) -> None:
        self.whole = whole

    def on_test_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, *args: Any) -> None:  # noqa: ANN401
        del trainer, pl_module, outputs, args
        if (step := step_of(batch)) > 1:
            self.whole.update(_maps(batch))
            batch.update(**{name: value[..., ::step, ::step] for name, value in self.whole.items()})

    def on_validation_batch_end(self, *args: Any) -> None:  # noqa: ANN401
        self.on_test_batch_end(*args)


class _Restore(_Thin):
    def on_test_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, *args: Any) -> None:  # noqa: ANN401
        del trainer, pl_module, outputs, args
        batch.update(**self.whole)
        self.whole.clear()


def around(evaluator: Callback) -> list[Callback]:
    """Return callbacks in which an evaluator's metrics see large maps thinned out, and whoever follows whole ones."""
    whole: dict[str, Tensor] = {}
    return [_Thin(whole), evaluator, _Restore(whole)]
