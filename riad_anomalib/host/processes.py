"""What the processes of a distributed run have found, put together."""

from typing import Any, TypeVar

from lightning.pytorch import Trainer
from torch import distributed

Found = TypeVar("Found")


def gathered(trainer: Trainer, found: Found) -> list[Found]:
    """Return what every process gives, by rank; all of them must call it. Of a single process, what it gave itself."""
    if trainer.world_size == 1:
        return [found]
    everything: list[Any] = [None] * trainer.world_size
    distributed.all_gather_object(everything, found)
    return everything
