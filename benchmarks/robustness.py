"""What a line does to pictures (riad_anomalib/deploy/changes.py), and what models say then.

    python benchmarks/robustness.py --checkpoint model.ckpt --model Ssae --root datasets/MVTecAD/bottle
    python benchmarks/robustness.py --model PatchCore --root datasets/MVTecAD/bottle --ratio 0.01

A row a change and strength: image AUROC by ranks, and the shares of good and defective pictures above a threshold of
the unchanged test set, the one that 5 % of its good pictures exceed. --registration adds what a checkpoint was trained
without, with statistics, calibration's too, from 40 training pictures. PatchCore is that of beside.py.
"""

import argparse
import csv
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from measuring import environment, normal_set, row, table, test_set
from sklearn.metrics import roc_auc_score  # type: ignore[import-untyped]
from torch import Tensor

import riad_anomalib
from riad_anomalib.components.registration import REGISTRATIONS, Registration
from riad_anomalib.deploy.changes import CHANGES
from riad_anomalib.report import Image

MODELS = ("Riad", "Ssae", "I3ad", "PatchCore")
FALSE_ALARMS = 0.05
"""Share of the unchanged test set's good pictures that lie above the threshold."""
COLUMNS = ("label", "category", "change", "strength", "image_AUROC", "pixel_AUROC", "false_alarms", "found")

Score = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From a batch in [0, 1] of any size to anomaly maps and scores."""


def loaded(arguments: argparse.Namespace) -> Score:
    """Return a checkpoint's model, with another registration if that is asked for."""
    model: Any = getattr(riad_anomalib, arguments.model).load_from_checkpoint(
        arguments.checkpoint, map_location="cpu", visualizer=False
    )
    model.eval()
    if arguments.registration:
        data, *_ = test_set(arguments.root, model.image_size)
        normal = normal_set(data)
        registration = model.model.registration = Registration(arguments.registration)
        with torch.no_grad():
            if registration.needs_statistics:
                registration.gather(normal)
            values = [model.model.dissimilarity_map(registration(batch)[0]) for batch in normal.split(8)]
            if model.model.calibration.needs_statistics:
                model.model.calibration.set_statistics(*model.model.calibration.statistics(torch.cat(values)))

    def score(images: Tensor) -> tuple[Tensor, Tensor]:
        batch = model.model(model.pre_processor.transform(images))
        return batch.anomaly_map, batch.pred_score

    return score


def patchcore_of(arguments: argparse.Namespace) -> Score:
    """Return a PatchCore of this folder."""
    from anomalib.engine import Engine
    from beside import patchcore

    size = (arguments.image_size, arguments.image_size)
    model: Any = patchcore(size, arguments.ratio)
    data, *_ = test_set(arguments.root, size)
    data.train_batch_size = 8
    options: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "accelerator": "cpu"}
    Engine(**options, limit_val_batches=0).fit(model, datamodule=data)
    model.eval()

    def score(images: Tensor) -> tuple[Tensor, Tensor]:
        batch = model.model(model.pre_processor.transform(images))
        return batch.anomaly_map, batch.pred_score

    return score


def pictures(root: Path) -> tuple[list[Image], np.ndarray, np.ndarray]:
    """Return the test pictures as read, whether each is defective, and masks."""
    files = sorted((root / "test").glob("*/*.png"), key=lambda file: (file.parent.name != "good", file))
    images: list[Any] = [cv2.imread(str(file)) for file in files]
    labels = np.array([file.parent.name != "good" for file in files])
    masks: list[Any] = [
        cv2.imread(str(root / "ground_truth" / file.parent.name / f"{file.stem}_mask.png"), cv2.IMREAD_GRAYSCALE)
        if is_defective
        else np.zeros(image.shape[:2])
        for file, image, is_defective in zip(files, images, labels, strict=True)
    ]
    return images, labels, np.stack(masks) > 0


def scored(score: Score, images: Iterator[Image] | list[Image]) -> tuple[np.ndarray, np.ndarray]:
    """Return maps and scores of pictures, blue first."""
    tensors = torch.stack([torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1) for image in images]) / 255
    with torch.no_grad():
        maps, scores = zip(*(score(batch) for batch in tensors.split(8)), strict=True)
    return torch.cat(maps)[:, 0].numpy(), torch.cat(scores).flatten().double().numpy()


def main() -> None:
    """Print the table, and append it to a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, required=True)
    parser.add_argument("--checkpoint", type=Path, help="of a model of this package")
    parser.add_argument("--root", type=Path, required=True, help="a folder with train/good, test/* and ground_truth/*")
    parser.add_argument("--registration", choices=REGISTRATIONS, help="another one than the checkpoint's")
    parser.add_argument("--image-size", type=int, default=256, help="of PatchCore")
    parser.add_argument("--ratio", type=float, default=0.01, help="of PatchCore's features that it keeps")
    parser.add_argument("--middle", action="store_true", help="only the middle one of each change's three strengths")
    parser.add_argument("--label", help="name of the model in the table")
    parser.add_argument("--output", type=Path, help="a CSV file to append to")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    label = arguments.label or arguments.model
    score = patchcore_of(arguments) if arguments.model == "PatchCore" else loaded(arguments)
    images, labels, masks = pictures(arguments.root)
    print(f"{vars(arguments)}\n{environment()}\n")
    print(table(["change", "strength", "image AUROC", "false alarms", "found"]))
    threshold, rows = 0.0, []
    chosen = slice(1, 2) if arguments.middle else slice(None)
    settings = [("as is", None, None), *((c.name, s, c) for c in CHANGES for s in list(c.strengths)[chosen])]
    for name, strength, change in settings:
        shown = images if change is None or strength is None else [change.apply(image, strength) for image in images]
        maps, scores = scored(score, shown)
        pixel = ""
        if change is None:
            good = np.sort(scores[~labels])
            threshold = good[len(good) - 1 - int(FALSE_ALARMS * len(good))]
            sized = np.stack([cv2.resize(values, masks.shape[:0:-1]) for values in maps])
            pixel = f"{roc_auc_score(masks.ravel(), sized.ravel()):.3f}"
        above = scores > threshold
        figures = [roc_auc_score(labels, scores), above[~labels].mean(), above[labels].mean()]
        cells = [f"{value:.3f}" for value in figures]
        print(row([name, "" if strength is None else f"{strength:g}", *cells]), flush=True)
        rows.append([label, arguments.root.name, name, strength, cells[0], pixel, *cells[1:]])
    auroc, alarms, found = (np.array([float(line[i]) for line in rows]) for i in (4, 6, 7))
    print(f"\nunchanged {auroc[0]:.3f} / {rows[0][5]}", end="; ")
    print(f"worst AUROC {auroc.min():.3f}, false alarms {alarms.max():.3f}, found {found.min():.3f}")
    if arguments.output:
        is_new = not arguments.output.exists()
        with arguments.output.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([list(COLUMNS)] * is_new + rows)


if __name__ == "__main__":
    main()
