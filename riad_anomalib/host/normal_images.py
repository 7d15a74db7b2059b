"""Normal training images, and what they tell: the statistics behind calibration and quantization."""

import logging
from collections.abc import Callable, Iterator
from copy import copy
from typing import Any

import torch
from anomalib.data import ImageItem
from anomalib.data.datasets.base.video import AnomalibVideoDataset
from lightning.pytorch import Trainer
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Subset
from torchvision.transforms.v2 import Transform

from .video import frame_by_frame

logger = logging.getLogger(__name__)

NUM_IMAGES = 40
"""Training images that statistics are taken from."""
NUM_FRAMES = 200
"""Training frames of video that they are taken from: whoever walks past is somewhere else in every one."""


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


FEWEST_LEVELS = 16
"""Grey levels from a float picture's darkest value to its brightest, with fewer of which hardly anything shows."""


def warn_of_lost_range(trainer: Trainer) -> None:
    """Say before training, not after, that anomalib's reading makes training pictures white, black or nearly so.

    It asks Pillow for RGB, which takes the values of 16-bit grey, integer and float pictures as they are: what is
    beyond [0, 255] is cut off, fractions are dropped. 8 bits, and 16 bits in colour, keep what they show.
    """
    dataset: Any = getattr(trainer.train_dataloader, "dataset", None)
    samples: Any = getattr(dataset, "samples", None)
    if isinstance(dataset, AnomalibVideoDataset) or "image_path" not in getattr(samples, "columns", ()):
        return
    paths = [samples["image_path"].iloc[i] for i in spread(len(samples), NUM_IMAGES)]
    lost = [(path, *found) for path in paths if (found := _lost_range(path))]
    if lost:
        logger.warning(
            "%d of %d training pictures that were looked at are read as white, black or nearly so, such as %s "
            "(Pillow's mode %s, values from %g to %g): anomalib cuts off below 0 and above 255 and drops fractions. "
            "Convert them to 8 bits first, for training and for inspection alike.",
            len(lost),
            len(paths),
            *lost[0],
        )


def _lost_range(path: str) -> tuple[str, float, float] | None:
    """Return mode, least and greatest value of a picture that loses by reading."""
    try:
        with Image.open(path) as image:
            mode = image.mode
            if not mode.startswith(("I", "F")):
                return None
            extrema: Any = image.convert("F").getextrema()
    except (OSError, ValueError):  # what training ends with, and why
        return None
    low, high = extrema
    is_kept = low >= 0 and high <= 255 and (mode != "F" or high - low >= FEWEST_LEVELS)  # noqa: PLR2004  # 8 bits
    return None if is_kept else (mode, low, high)
