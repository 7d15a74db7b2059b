"""What a trainer's loaders hold: through collections of loaders and torch's ``Subset`` and ``ConcatDataset``."""

from collections.abc import Iterator
from copy import copy
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import ConcatDataset, Subset
from torchvision.transforms.v2 import Transform


def single(loaders: Any) -> list[Any]:  # noqa: ANN401
    """Return the loaders of a loader, or of a list or dictionary of them, as Lightning takes them; of None, none."""
    return [loader for loader in CombinedLoader(loaders).flattened if loader is not None]


def parts(dataset: Any) -> Iterator[Any]:  # noqa: ANN401
    """Return the data sets that a data set is made of; most often itself alone."""
    if isinstance(dataset, Subset):
        yield from parts(dataset.dataset)
    elif isinstance(dataset, ConcatDataset):
        for each in dataset.datasets:
            yield from parts(each)
    elif dataset is not None:
        yield dataset


def datasets(loaders: Any) -> list[Any]:  # noqa: ANN401
    """Return all the data sets behind loaders; what is a loader without one, such as a generator, has none."""
    return [part for loader in single(loaders) for part in parts(getattr(loader, "dataset", None))]


def with_augmentations(dataset: Any, augmentations: Transform | None) -> Any:  # noqa: ANN401
    """Return a data set with these augmentations instead of its own."""
    dataset = copy(dataset)
    if isinstance(dataset, Subset):
        dataset.dataset = with_augmentations(dataset.dataset, augmentations)
    elif isinstance(dataset, ConcatDataset):
        dataset.datasets = [with_augmentations(each, augmentations) for each in dataset.datasets]
    else:
        dataset.augmentations = augmentations
    return dataset


def check_validation(trainer: Trainer) -> None:
    """Refuse validations that fail in anomalib with an error that says nothing of what to do.

    Raises:
        ValueError: If there are several loaders.
    """
    if len(loaders := single(trainer.val_dataloaders)) > 1:
        msg = f"anomalib validates on one loader, not on {len(loaders)}: join their data sets by torch's ConcatDataset"
        raise ValueError(msg)


class BatchCheck(Callback):
    """Refuses what other libraries' loaders give, before anomalib's pre-processor, a callback too, fails on it."""

    def on_train_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,  # noqa: ANN401
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Look at a batch.

        Raises:
            ValueError: If it has no ``image``.
        """
        del trainer, pl_module, batch_idx, dataloader_idx
        if not hasattr(batch, "image"):
            msg = (
                f"a loader gives a {type(batch).__name__}, not one of anomalib's batches: give a data module, or one "
                "DataLoader over a data set of anomalib, with collate_fn=dataset.collate_fn"
            )
            raise ValueError(msg)

    on_validation_batch_start = on_test_batch_start = on_predict_batch_start = on_train_batch_start
