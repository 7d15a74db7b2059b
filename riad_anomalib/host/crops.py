"""Training on crops of pictures in their own size, and whole pictures, one at a time, for everything else."""

import logging
import math
from pathlib import Path
from typing import Any

import torch
from anomalib.data import AnomalibDataModule, ImageItem
from PIL import Image
from torch import Tensor
from torch.utils.data import Subset

from riad_anomalib.components.native import random_windows

logger = logging.getLogger(__name__)

KEPT_MIB = 2048
"""Memory for decoded training pictures, 3 bytes a pixel; those beyond are read again for each crop."""
FEWEST_CROPS = 400
"""Least crops of an epoch: each picture gives as many as that takes, and at least one."""


class Crops(Subset[ImageItem]):
    """Random crops of a training set's pictures, decoded once as far as memory is given for them.

    Worker processes that are forked, as on Linux, share the memory; elsewhere each has a copy.

    Args:
        dataset: anomalib's training set of images.
        size: Height and width of the crops, in pixels of the pictures.
        kept_mib: Memory for decoded pictures, in MiB.

    Raises:
        ValueError: If a picture is smaller than a crop.
    """

    def __init__(self, dataset: Any, size: tuple[int, int], kept_mib: int = KEPT_MIB) -> None:  # noqa: ANN401
        repeats = math.ceil(FEWEST_CROPS / len(dataset))
        super().__init__(dataset, list(range(len(dataset))) * repeats)
        self.size = size
        self._kept: list[Tensor] = []
        room = kept_mib * 2**20
        paths = dataset.samples["image_path"].tolist()
        for path in paths:
            with Image.open(path) as picture:
                _check_size(path, (picture.height, picture.width), size)
        if dataset.augmentations is None:
            for index in range(len(dataset)):
                pixels = (dataset[index].image * 255).round().to(torch.uint8)
                room -= pixels.numel()
                if room < 0:
                    break
                self._kept.append(pixels)
        logger.warning(  # what is less than a warning, anomalib's command does not show
            "Training on crops of %dx%d pixels, %d of each picture an epoch. %d of %d pictures are kept in memory, in "
            "%.0f of %d MiB%s.",
            *size,
            repeats,
            len(self._kept),
            len(dataset),
            sum(pixels.numel() for pixels in self._kept) / 2**20,
            kept_mib,
            "" if dataset.augmentations is None else ": the data module's augmentations make others each time",
        )

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        """Return what else the set of pictures has: samples, how to collate."""
        if name == "dataset":  # while it is unpickled
            raise AttributeError(name)
        return getattr(self.dataset, name)

    @property
    def augmentations(self) -> Any:  # noqa: ANN401
        """Those of the pictures; a data module sets them anew before each run."""
        return self.pictures.augmentations

    @augmentations.setter
    def augmentations(self, augmentations: Any) -> None:  # noqa: ANN401
        self.pictures.augmentations = augmentations

    @property
    def pictures(self) -> Any:  # noqa: ANN401
        """The set of whole pictures."""
        return self.dataset

    def __getitem__(self, index: int) -> ImageItem:  # one at a time
        """Return a crop, at a place drawn anew."""
        number = self.indices[index]
        sample = self.pictures.samples.iloc[number]
        if number < len(self._kept):
            pixels = self._kept[number]
        else:
            pixels = self.pictures[number].image
            _check_size(sample.image_path, (pixels.shape[-2], pixels.shape[-1]), self.size)
        crop = random_windows(pixels[None], self.size)[0]
        crop = crop.float() / 255 if crop.dtype == torch.uint8 else crop
        return ImageItem(image=crop, image_path=sample.image_path, gt_label=torch.tensor(int(sample.label_index)))

    def __getitems__(self, indices: list[int]) -> list[ImageItem]:
        """Return several crops, which torch asks of a ``Subset`` for at once."""
        return [self[index] for index in indices]


def _check_size(path: str, picture: tuple[int, int], crop: tuple[int, int]) -> None:
    if picture[0] < crop[0] or picture[1] < crop[1]:
        msg = (
            f"{Path(path).name} is {picture[0]}x{picture[1]} pixels, smaller than a crop of {crop[0]}x{crop[1]} "
            "(crop_size over scale): take the picture out, or give a smaller crop_size"
        )
        raise ValueError(msg)


def cut(datamodule: AnomalibDataModule, size: tuple[int, int]) -> None:
    """Let a data module that is set up train on crops; one that does already stays as it is."""
    if not (isinstance(datamodule.train_data, Crops) and datamodule.train_data.size == size):
        datamodule.train_data = Crops(whole(datamodule.train_data), size)  # type: ignore[assignment]


def whole(dataset: Any) -> Any:  # noqa: ANN401
    """Return the set of pictures that crops are cut out of; any other set is that itself."""
    return dataset.pictures if isinstance(dataset, Crops) else dataset


def one_by_one(datamodule: AnomalibDataModule) -> None:
    """Give whole pictures one at a time: anomalib would stretch those of other sizes in a batch to the largest."""
    if datamodule.eval_batch_size != 1:
        logger.warning(
            "eval_batch_size is 1, not %d: pictures are seen whole, and their sizes may differ.",
            datamodule.eval_batch_size,
        )
        datamodule.eval_batch_size = 1
