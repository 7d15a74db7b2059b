"""Loaders in the place of a data module: lists of them, torch's Subset and ConcatDataset."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from anomalib.data import Folder
from anomalib.data.utils import read_image
from blur import Blur
from engine_contract import engine
from torch.utils.data import ConcatDataset, DataLoader, IterableDataset, Subset, TensorDataset
from torchvision.transforms.v2 import RandomInvert

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{text}") for text in ("The ", ".*isinstance.treespec", "'pin_memory'")
]


@pytest.fixture
def data(folder: Folder) -> Folder:
    """The pictures, augmented to train on."""
    folder.train_augmentations = RandomInvert(p=1.0)
    folder.setup()
    return folder


def loader(dataset: Any, data: Folder, **arguments: Any) -> DataLoader[Any]:
    return DataLoader(dataset, batch_size=2, collate_fn=data.train_data.collate_fn, **arguments)


def calibrated(tmp_path: Path, train: Any, val: Any) -> Any:
    torch.manual_seed(0)
    model = Blur(image_size=(32, 48), calibration="pixel", visualizer=False)
    engine(tmp_path, max_epochs=1, logger=False).fit(model, train_dataloaders=train, val_dataloaders=val)
    return model


WAYS: list[Callable[[Folder], Any]] = [
    lambda data: (loader(data.train_data, data), [loader(data.val_data, data)], None),
    lambda data: (loader(Subset(data.train_data, [2, 0]), data), {"a": loader(data.val_data, data)}, [2, 0]),
    lambda data: (
        loader(ConcatDataset([Subset(data.train_data, [1]), Subset(Subset(data.train_data, [2, 0]), [0])]), data),
        loader(ConcatDataset([Subset(data.val_data, [0]), data.val_data]), data),
        [1, 2],
    ),
]


@pytest.mark.parametrize("way", WAYS)
def test_calibration_reads_the_training_images_of_any_loader_without_their_augmentations(
    way: Callable[[Folder], Any], data: Folder, tmp_path: Path
) -> None:
    train, val, chosen = way(data)
    model = calibrated(tmp_path, train, val)
    files = [data.train_data.samples.image_path[i] for i in chosen or range(len(data.train_data))]
    images = torch.stack([torch.as_tensor(read_image(file, as_tensor=True)) for file in files])
    with torch.no_grad():
        values = model.model.eval().dissimilarity_map(model.pre_processor.transform(images))
    torch.testing.assert_close(model.model.calibration.normal_mean, values.mean(dim=0))
    assert not model.post_processor.image_threshold.isnan()


def test_test_and_predict_take_loaders(data: Folder, tmp_path: Path) -> None:
    model = calibrated(tmp_path, loader(data.train_data, data), loader(data.val_data, data))
    run = engine(tmp_path, logger=False)
    whole = run.test(model, datamodule=data, verbose=False)
    halves = [Subset(data.test_data, range(2)), Subset(data.test_data, range(2, len(data.test_data)))]
    assert run.test(model, dataloaders=loader(ConcatDataset(halves), data), verbose=False) == whole
    assert len(run.predict(model, dataloaders=loader(halves[0], data))) == 1  # type: ignore[arg-type]


class Stream(IterableDataset[Any]):
    """Images one after another."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __iter__(self) -> Any:
        return iter(self.dataset[i] for i in range(len(self.dataset)))


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (lambda data: list(loader(data.train_data, data)), "gives a list, not one of anomalib.s batches: give a data"),
        (lambda data: loader(Stream(data.train_data), data), "statistics of normal images .*: give a DataLoader"),
        (lambda data: [loader(data.train_data, data)] * 2, "gives a list, not one of anomalib.s batches: give a data"),
        (lambda _: DataLoader(TensorDataset(torch.rand(2, 3, 32, 48))), "gives a list, not one of anomalib.s batches"),
    ],
)
def test_what_no_model_can_train_on_is_refused_by_name(
    train: Callable[[Folder], Any], message: str, data: Folder, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        calibrated(tmp_path, train(data), loader(data.val_data, data))


def test_validations_that_anomalib_cannot_run_are_refused_before_training(data: Folder, tmp_path: Path) -> None:
    run = engine(tmp_path, max_epochs=1, logger=False)
    two = [loader(data.val_data, data), loader(data.test_data, data)]
    with pytest.raises(ValueError, match=r"anomalib validates on one loader, not on 2: join .* ConcatDataset"):
        run.fit(Blur(visualizer=False), train_dataloaders=loader(data.train_data, data), val_dataloaders=two)
    assert run.trainer.global_step == 0


@pytest.mark.parametrize("precision", ["16-true", "bf16-true", "64-true"])
def test_precisions_that_images_do_not_come_in_are_refused(precision: str, data: Folder, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"precision is {precision}, and anomalib's images are float32: take 32-true"):
        engine(tmp_path, logger=False, precision=precision).fit(Blur(visualizer=False), datamodule=data)
