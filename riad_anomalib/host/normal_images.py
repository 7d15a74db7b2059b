"""Normal training images, and what they tell: the statistics behind calibration and quantization."""

from collections.abc import Callable, Iterator
from copy import copy
from typing import Any

import torch
from anomalib.data import ImageItem
from anomalib.data.datasets.base.video import AnomalibVideoDataset
from lightning.pytorch import Trainer
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Subset
from torchvision.transforms.v2 import Transform

from riad_anomalib.components.variation import Variation, vary

from .video import frame_by_frame

NUM_IMAGES = 40
"""Training images that statistics are taken from."""
NUM_FRAMES = 200
"""Training frames of video that they are taken from: whoever walks past is somewhere else in every one."""
VIEWS = 4
"""How often each of them is varied."""


def with_augmentations(dataset: Any, augmentations: Transform | None) -> Any:  # noqa: ANN401
    """Return a data set of anomalib with these augmentations instead of its own."""
    dataset = copy(dataset)
    dataset.augmentations = augmentations
    return dataset


def spread(length: int, most: int) -> list[int]:
    """Return at most so many indices, spread evenly over a length."""
    number = min(most, length)
    return [i * length // number for i in range(number)]


def normal_images(dataset: Any, augmentations: Transform | None) -> Subset[ImageItem]:  # noqa: ANN401
    """Return the images of a training set that statistics are taken from, spread evenly over it.

    Args:
        dataset: anomalib's training set.
        augmentations: What they are seen with, instead of the set's own augmentations.
    """
    dataset = frame_by_frame(dataset)
    most = NUM_FRAMES if isinstance(dataset, AnomalibVideoDataset) else NUM_IMAGES
    return Subset(with_augmentations(dataset, augmentations), spread(len(dataset), most))


def normal_batches(trainer: Trainer) -> Iterator[Tensor]:
    """Return the training images that statistics are taken from in batches, as validation sees images.

    Resized to be batched, not augmented to train on, and not yet pre-processed.
    """
    loader: Any = trainer.train_dataloader
    val_loader: Any = trainer.val_dataloaders
    images = normal_images(loader.dataset, getattr(val_loader.dataset, "augmentations", None))
    for batch in DataLoader(images, batch_size=loader.batch_size or 1, collate_fn=loader.collate_fn):
        yield batch.image


def views(image: Tensor, variation: Variation | None, generator: Generator) -> Iterator[Tensor]:
    """Return what a line will show of normal images: as they are without variation, else varied, several times.

    Args:
        image: Batch in [0, 1], ``(N, C, H, W)``.
        variation: How light and position vary.
        generator: Where draws come from.
    """
    if variation is None:
        yield image
        return
    for _ in range(VIEWS):
        yield vary(image, variation, generator)


def normal_statistics(
    trainer: Trainer,
    values: Callable[[Tensor], Tensor],
    statistics: Callable[[Tensor], tuple[Tensor, Tensor]],
) -> tuple[Tensor, Tensor]:
    """Return statistics of values over normal images, the same in all processes.

    Args:
        trainer: The trainer while it fits.
        values: From a batch of images to values, ``(N, ...)``.
        statistics: From all images' values to two tensors.

    Returns:
        The two, on the CPU.
    """
    gathered = []
    for image in normal_batches(trainer):
        with trainer.precision_plugin.val_step_context():
            gathered.append(values(image))
    first, second = statistics(torch.cat(gathered))
    # Processes of a distributed run differ in batch norm's averages; the checkpoint has those of the first.
    shared: tuple[Tensor, Tensor] = trainer.strategy.broadcast((first.cpu(), second.cpu()))
    return shared
