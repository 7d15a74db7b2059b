"""Normal training images, and what they tell: the statistics behind calibration and quantization."""

import logging
from collections.abc import Callable, Iterator
from typing import Any

import torch
from anomalib.data import ImageItem
from anomalib.data.datasets.base.video import AnomalibVideoDataset
from lightning.pytorch import Trainer
from PIL import Image
from torch import Generator, Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset
from torchvision.transforms.v2 import Transform

from riad_anomalib.components.variation import Variation, vary

from .crops import whole
from .loaders import datasets, parts, single, with_augmentations
from .video import flatten_clips, frame_by_frame

logger = logging.getLogger(__name__)

NUM_IMAGES = 40
"""Training images that statistics are taken from."""
NUM_FRAMES = 200
"""Training frames of video that they are taken from: whoever walks past is somewhere else in every one."""
VIEWS = 4
"""How often each of them is varied."""


def spread(length: int, most: int) -> list[int]:
    """Return at most so many indices, spread evenly over a length."""
    number = min(most, length)
    return [i * length // number for i in range(number)]


def normal_images(dataset: Any, augmentations: Transform | None) -> Subset[ImageItem]:  # noqa: ANN401
    """Return the images of a training set that statistics are taken from, spread evenly over it.

    Args:
        dataset: anomalib's training set, or torch's ``Subset`` or ``ConcatDataset`` of such.
        augmentations: What they are seen with, instead of the set's own augmentations.
    """
    dataset = frame_by_frame(whole(dataset))
    most = NUM_FRAMES if any(isinstance(part, AnomalibVideoDataset) for part in parts(dataset)) else NUM_IMAGES
    return Subset(with_augmentations(dataset, augmentations), spread(len(dataset), most))


def normal_batches(trainer: Trainer) -> Iterator[Tensor]:
    """Return the training images that statistics are taken from in batches, as validation sees images.

    Resized to be batched, not augmented to train on, and not yet pre-processed.

    Raises:
        ValueError: If they cannot be read a second time.
    """
    loader: Any = single(trainer.train_dataloader)[0]
    dataset = getattr(loader, "dataset", None)
    if dataset is None or isinstance(dataset, IterableDataset):
        msg = (
            "statistics of normal images are gathered from the training images, and the training loader has no data "
            "set with a length to read them from: give a DataLoader over one, or a data module"
        )
        raise ValueError(msg)
    seen_by_validation = datasets(trainer.val_dataloaders)
    augmentations = getattr(seen_by_validation[0], "augmentations", None) if seen_by_validation else None
    images = normal_images(dataset, augmentations)
    for batch in DataLoader(images, batch_size=loader.batch_size or 1, collate_fn=loader.collate_fn):
        flatten_clips(batch)  # of a Subset of clips
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


FEWEST_LEVELS = 16
"""Grey levels from a float picture's darkest value to its brightest, with fewer of which hardly anything shows."""


def warn_of_lost_range(trainer: Trainer) -> None:
    """Say before training, not after, that anomalib's reading makes training pictures white, black or nearly so.

    It asks Pillow for RGB, which takes the values of 16-bit grey, integer and float pictures as they are: what is
    beyond [0, 255] is cut off, fractions are dropped. 8 bits, and 16 bits in colour, keep what they show.
    """
    files: list[str] = []
    for dataset in datasets(trainer.train_dataloader):
        samples: Any = getattr(dataset, "samples", None)
        if not isinstance(dataset, AnomalibVideoDataset) and "image_path" in getattr(samples, "columns", ()):
            files += samples["image_path"].tolist()
    paths = [files[i] for i in spread(len(files), NUM_IMAGES)]
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
