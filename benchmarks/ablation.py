"""What SSAE's choices do to the AUROC: networks trained one after another, each scored in every way.

    python benchmarks/ablation.py --root datasets/MVTecAD/grid --epochs 50 --threads 1 --precision bf16-mixed
    python benchmarks/ablation.py --root datasets/MVTecAD/screw --base '{"augmentation": "dihedral"}' --output screw.csv

Starts from ``--config``; a trained network differs from it by one of TRAINING, a score by one of SCORING. What
``--train`` and ``--score`` give takes their place, arguments of ``Ssae`` as JSON. The folder is laid out as MVTec AD's
categories; all of its test images count, after the last epoch. A row of the file is one score of one network.
"""

import argparse
import csv
import itertools
import json
import sys
import tempfile
import time
import warnings
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
from anomalib.engine import Engine
from anomalib.models.components import AnomalibModule
from lightning.pytorch import seed_everything
from measuring import auroc, environment, normal_set, row, table, test_set
from torch import Tensor

from riad_anomalib import Ssae
from riad_anomalib.components.calibration import likeness
from riad_anomalib.models.ssae import SsaeModel

TRAINING: list[dict[str, Any]] = [
    {},
    {"objective": "amplify"},
    {"objective": "ensemble"},
    {"corruptions": ["elastic", "occlusion"]},
    {"corruptions": ["occlusion"]},
    {"corruptions": ["zeros"]},
    {"patch_size": [0.03, 0.1]},
    {"patch_size": [0.06, 0.4]},
    {"displacement": [0.01, 0.045]},
    {"num_patches": 1},
    {"brightness": 0.0},
    {"crop_scales": [1.0]},
    {"kernel_size": 5},
]
SCORING: list[dict[str, Any]] = [
    {},
    *(
        {"calibration": calibration, "smoothing_size": size, "smoothing_repeats": repeats}
        for calibration in ("none", "pixel", "avgmap")
        for size, repeats in ((3, 1), (3, 3), (5, 3), (9, 3))
    ),
    {"score_function": "ssim"},
    {"image_score": "mean"},
]


def build(config: Path, arguments: dict[str, Any]) -> Ssae:
    """Return the config's model with other arguments."""
    model: Ssae = AnomalibModule.from_config(  # type: ignore[assignment]  # the config's
        config, **{f"model.{name}": value for name, value in arguments.items()}
    )
    return model


def train(model: Ssae, data: Any, epochs: int, precision: str) -> None:  # noqa: ANN401
    """Train as anomalib does."""
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr):
        engine = Engine(
            max_epochs=epochs,
            precision=precision,
            accelerator="cpu",
            devices=1,
            limit_val_batches=0,
            default_root_dir=folder,
            logger=False,
            enable_progress_bar=False,
        )
        engine.fit(model, datamodule=data)


def move_maps(model: SsaeModel, shift: int) -> None:
    """Let every map be moved by up to ``shift`` pixels at random, as if products did not lie alike."""
    original = model.dissimilarity_map

    def moved(image: Tensor) -> Tensor:
        moves = torch.randint(-shift, shift + 1, (len(image), 2)).tolist()
        maps = [one.roll(move, dims=(-2, -1)) for one, move in zip(original(image), moves, strict=True)]
        return torch.stack(maps)

    model.dissimilarity_map = moved  # type: ignore[method-assign]


def score(trained: Ssae, model: Ssae, normal: Tensor, images: Tensor, shift: int) -> tuple[float, Tensor, Tensor]:
    """Return likeness of normal images' maps, scores and maps, of a model that takes over a trained network."""
    model.eval().model.networks.load_state_dict(trained.model.networks.state_dict())
    torch.manual_seed(0)
    move_maps(model.model, shift)
    calibration = model.model.calibration
    with torch.no_grad():
        of_normal = torch.cat([model.model.dissimilarity_map(part) for part in normal.split(8)])
        calibration.set_statistics(*calibration.statistics(of_normal))
        results = [model.model(part) for part in images.split(8)]
    scores, maps = (torch.cat([getattr(result, name) for result in results]) for name in ("pred_score", "anomaly_map"))
    return likeness(of_normal), scores, maps


def main() -> None:
    """Train, score, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="a folder with train/good and test/*")
    parser.add_argument("--config", type=Path, default=Path(__file__).parents[1] / "configs/ssae_small.yaml")
    parser.add_argument("--base", type=json.loads, default={}, help="arguments for all networks, as JSON")
    parser.add_argument("--train", type=json.loads, nargs="+", default=TRAINING, help="instead of TRAINING")
    parser.add_argument("--score", type=json.loads, nargs="+", default=SCORING, help="instead of SCORING")
    parser.add_argument("--shift", type=int, nargs="+", default=[0], help="pixels by which maps are moved at random")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("--output", type=Path, help="CSV that rows are appended to")
    parser.add_argument("--checkpoints", type=Path, help="folder of networks: those in it are not trained again")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    names = ["category", "seed", "epochs", "training, s", "shift", "network", "score", "likeness"]
    print(f"{environment()}; {vars(options)}\n")
    print(table([*names, "image AUROC", "pixel AUROC"]))
    for index, changed in enumerate(options.train):
        seed_everything(options.seed, verbose=False)
        arguments = options.base | changed
        trained = build(options.config, arguments)
        data, images, labels, masks = test_set(options.root, trained.image_size or trained.default_image_size)
        data.train_batch_size = 8
        kept = options.checkpoints / f"{options.root.name}_{options.seed}_{index}.pt" if options.checkpoints else None
        start = time.perf_counter()
        if kept and kept.exists():
            trained.model.networks.load_state_dict(torch.load(kept))
        else:
            train(trained, data, options.epochs, options.precision)
        seconds = time.perf_counter() - start
        if kept:
            kept.parent.mkdir(parents=True, exist_ok=True)
            torch.save(trained.model.networks.state_dict(), kept)
        normal = normal_set(data)
        for shift, scoring in itertools.product(options.shift, options.score):
            model = build(options.config, arguments | scoring)
            alike, scores, maps = score(trained, model, normal, torch.from_numpy(images), shift)
            pixels = auroc(maps.numpy(), masks) if masks.size and not shift else float("nan")  # masks are not moved
            cells: list[Any] = [options.root.name, options.seed, options.epochs, round(seconds), shift]
            cells += [json.dumps(arguments), json.dumps(scoring)]
            cells += [f"{value:.4f}" for value in (alike, auroc(scores.numpy(), labels), pixels)]
            print(row(map(str, cells)), flush=True)
            if options.output:
                with options.output.open("a", newline="", encoding="utf-8") as file:
                    csv.writer(file).writerow(cells)


if __name__ == "__main__":
    main()
