"""Large pictures with small defects: SSAE trained on crops of pictures in their own size, beside pictures resized.

    python benchmarks/large.py --root datasets/kolektor_sdd --seed 0 --scale 1 --checkpoint native.ckpt
    python benchmarks/large.py --root datasets/kolektor_sdd --seed 0 --resize 128 --checkpoint resized.ckpt

The folder is laid out as MVTec AD's categories. The network is that of configs/ssae_large.yaml, trained by anomalib's
engine for --steps of 8, and kept in --checkpoint, from which a second call goes on. With --scale training sees crops of
128x128 pixels of pictures at this scale, with --resize whole pictures resized to a square. The test pictures are then
scored whole, and the table has their image and pixel AUROC for several mean filters, repeated three times and once.
"""

import argparse
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from anomalib.data import Folder
from anomalib.engine import Engine
from lightning.pytorch import seed_everything
from measuring import auroc, environment, row
from torch import Tensor

from riad_anomalib import Ssae
from riad_anomalib.host.pre_processing import transformed

FILTERS = (3, 5, 9, 15, 31)
PIXELS = 2**18
"""Most pixels of a picture that pixel AUROC is made of, every so many rows and columns."""


def built(scale: float, resize: int | None) -> Ssae:
    """Return the model of ``configs/ssae_large.yaml``, at this scale or for pictures of this size."""
    size: dict[str, Any] = {"image_size": resize} if resize else {"image_size": None, "crop_size": 128, "scale": scale}
    return Ssae(
        **size,
        corrupted_weight=0.1,
        num_patches=3,
        augmentation="flips",
        crop_scales=[1.0],
        image_score="max",
        smoothing_size=9,
        smoothing_repeats=1,
        base_width=16,
        dilations=[1, 2, 4, 8],
        lr=1e-3,
        visualizer=False,
    )


def data_of(root: Path) -> Folder:
    """Return anomalib's data module of the folder."""
    return Folder(
        name=root.name,
        root=root,
        normal_dir="train/good",
        normal_test_dir="test/good",
        abnormal_dir=sorted(f"test/{path.name}" for path in (root / "test").iterdir() if path.name != "good"),
        mask_dir=sorted(f"ground_truth/{path.name}" for path in (root / "ground_truth").iterdir()),
        val_split_mode="same_as_test",
        train_batch_size=8,
        num_workers=0,
    )


def trained(arguments: argparse.Namespace) -> Ssae:
    """Return a trained network, with thresholds, from the checkpoint or for it."""
    if arguments.checkpoint.exists():
        saved: Any = Ssae.load_from_checkpoint(arguments.checkpoint)
        return saved  # type: ignore[no-any-return]
    seed_everything(arguments.seed, verbose=False)
    model, start = built(arguments.scale, arguments.resize), time.perf_counter()
    engine = Engine(
        max_steps=arguments.steps,
        max_epochs=-1,
        limit_val_batches=0,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=arguments.checkpoint.parent / "results",
    )
    engine.fit(model, datamodule=data_of(arguments.root))
    print(f"{arguments.steps} steps in {time.perf_counter() - start:.0f} s")
    engine.trainer.save_checkpoint(arguments.checkpoint)
    return model


def maps_of(model: Ssae, image: Tensor) -> list[Tensor]:
    """Return a picture's map by every filter three times, then by every filter once, each in the picture's size."""
    network = model.model
    found = []
    with torch.no_grad():
        bare = network.dissimilarity_map(network.seen(transformed(model.pre_processor, image)))
        for repeats in (3, 1):
            for size in FILTERS:
                network.smoothing_size, network.smoothing_repeats = size, repeats
                smoothed = network.as_it_came(network.smooth(bare), image)
                found.append(smoothed)
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--resize", type=int)
    parser.add_argument("--steps", type=int, default=2500)
    arguments = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    print(environment())
    model = trained(arguments).eval()
    data = data_of(arguments.root)
    data.setup()
    scores: list[list[float]] = [[] for _ in range(2 * len(FILTERS))]
    pixels: list[list[np.ndarray[Any, Any]]] = [[] for _ in range(2 * len(FILTERS))]
    labels, masks, seconds = [], [], []
    for index in range(len(data.test_data)):
        item = data.test_data[index]
        image, start = torch.as_tensor(item.image)[None], time.perf_counter()
        found = maps_of(model, image)
        seconds.append(time.perf_counter() - start)
        height, width = found[0].shape[-2:]
        mask = torch.zeros(image.shape[-2:]) if item.gt_mask is None else item.gt_mask
        if mask.shape != (height, width):  # of resized pictures
            found = [torch.nn.functional.interpolate(each, mask.shape, mode="bilinear") for each in found]
        step = int(np.ceil((mask.numel() / PIXELS) ** 0.5))
        labels.append(bool(item.gt_label))
        masks.append(np.asarray(mask, dtype=bool)[::step, ::step].ravel())
        for number, each in enumerate(found):
            scores[number].append(each.max().item())
            pixels[number].append(each[0, 0, ::step, ::step].numpy().ravel())
    print(f"{np.median(seconds):.2f} s a picture in torch, all filters together")
    print(row(["", *(f"{size}" for size in FILTERS)]))
    print(row(["---"] * (1 + len(FILTERS))))
    for name, first in (("three times", 0), ("once", len(FILTERS))):
        cells = [
            f"{auroc(np.array(scores[i]), np.array(labels)):.3f} / "
            f"{auroc(np.concatenate(pixels[i]), np.concatenate(masks)):.3f}"
            for i in range(first, first + len(FILTERS))
        ]
        print(row([name, *cells]))


if __name__ == "__main__":
    main()
