"""Thresholds from good pictures alone: the false alarms that were asked for beside those that came, and what they cost.

    python benchmarks/thresholds.py --root datasets/MVTecAD/grid --seeds 3 --steps 300

The folder is laid out as MVTec AD's categories. For every seed a share of the training pictures (--share) is held out,
a network is trained on the others, and thresholds are found from the held-out ones at each --rates; then the test
pictures, which had no part in it, are judged. The first table has a line for each rate, over all seeds together: what
the held-out pictures promise, false alarms on the test's good pictures with their interval (Clopper and Pearson, 90 %,
of one seed's number of pictures: those of other seeds are the same), what was found of the defective ones, and F1
beside the best that a threshold can have that sees the test's defects. The second has the AUROC for each of --shares.

The network is SSAE's small setting at the size and width that are given, trained by a plain loop over pictures in
memory: this compares thresholds, and says nothing of the model at its full size.
"""

import argparse
import warnings
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from anomalib.data import ImageBatch
from anomalib.metrics.threshold.f1_adaptive_threshold import _F1AdaptiveThreshold
from measuring import auroc, environment, table, test_set
from torch import Tensor

from riad_anomalib import Ssae
from riad_anomalib.false_alarms import interval, percent, threshold
from riad_anomalib.host.normal_images import NUM_IMAGES, spread

BATCH = 8


def trained(images: Tensor, arguments: argparse.Namespace, seed: int) -> Ssae:
    """Return a network trained on images, ``(N, 3, H, W)``, and calibrated as training would."""
    torch.manual_seed(seed)
    model = Ssae(
        image_size=(arguments.size, arguments.size),
        base_width=arguments.width,
        corrupted_weight=0.1,
        num_patches=3,
        augmentation="flips",
        image_score="max",
        calibration="auto",
        dilations=[1, 2, 4],
        crop_scales=[1.0],
        lr=1e-3,
        visualizer=False,
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for step in range(arguments.steps):
        if step == arguments.steps * 5 // 6:
            optimizer.param_groups[0]["lr"] = 1e-4
        batch = ImageBatch(image=images[torch.randperm(len(images))[:BATCH]])
        loss: Any = model.train().training_step(batch, step)["loss"]  # type: ignore[index]  # a mapping
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    usual = images[spread(len(images), NUM_IMAGES)]
    with torch.no_grad():
        maps = torch.cat([model.model.dissimilarity_map(part) for part in usual.split(BATCH)])
    model.model.calibration.set_statistics(*model.model.calibration.statistics(maps))
    return model


def scored(model: Ssae, images: Tensor) -> Tensor:
    """Return the scores of images, ``(N,)``."""
    with torch.no_grad():
        return torch.cat([torch.empty(0), *(model.model(part).pred_score for part in images.split(BATCH) if len(part))])


def f1(alarms: int, found: int, defective: int) -> float:
    """Return the F1 score."""
    return 2 * found / max(found + alarms + defective, 1)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="a category's folder")
    parser.add_argument("--seeds", type=int, default=3, help="of the held-out share, and of training")
    parser.add_argument("--share", type=float, default=0.2, help="held out for the first table")
    parser.add_argument("--shares", type=float, nargs="*", default=[0.0, 0.1, 0.2], help="of the second table")
    parser.add_argument("--rates", type=float, nargs="+", default=[0.01, 0.05, 0.1])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--width", type=int, default=8)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")

    data, pictures, labels, _ = test_set(arguments.root, (arguments.size, arguments.size))
    tests, items = torch.from_numpy(pictures), (data.train_data[i] for i in range(len(data.train_data)))
    normal = torch.stack([torch.as_tensor(item.image) for item in items])
    good, defective = int((~labels).sum()), int(labels.sum())

    @cache
    def scores(share: float, seed: int) -> tuple[Tensor, Tensor]:
        """Return the scores of held-out pictures and of test pictures."""
        order = torch.randperm(len(normal), generator=torch.Generator().manual_seed(seed))
        held = round(share * len(normal))
        model = trained(normal[order[held:]], arguments, seed)
        return scored(model, normal[order[:held]]), scored(model, tests)

    print(f"{environment()}\n", flush=True)
    rows = []
    for rate in arguments.rates:
        alarms, found, ours, best, promises = [], [], [], [], []
        for seed in range(arguments.seeds):
            held_out, tested = scores(arguments.share, seed)
            value, promise = threshold(held_out.tolist(), rate)
            verdicts = tested.numpy() > value
            alarms.append(int(verdicts[~labels].sum()))
            found.append(int(verdicts[labels].sum()))
            ours.append(f1(alarms[-1], found[-1], defective))
            seen = float(_F1AdaptiveThreshold()(tested, torch.from_numpy(labels).int()))
            by_test = tested.numpy() >= seen
            best.append(f1(int(by_test[~labels].sum()), int(by_test[labels].sum()), defective))
            promises.append(promise)
        low, high = interval(round(mean(alarms)), good)
        rows.append(
            [
                arguments.root.name,
                percent(rate),
                f"{promises[0].pictures}",
                f"{percent(promises[0].expected)} / {percent(promises[0].bound)}",
                f"{', '.join(map(str, alarms))} of {good}",
                f"{percent(low)} to {percent(high)}",
                f"{', '.join(map(str, found))} of {defective}",
                f"{mean(ours):.3f}",
                f"{mean(best):.3f}",
            ]
        )
    names = [
        "category",
        "asked for",
        "held out",
        "promised: on average / 90 %",
        "false alarms",
        "interval",
        "found",
        "F1",
    ]
    print(table([*names, "best F1"], rows), flush=True)
    rows = []
    for share in sorted(arguments.shares):
        values = [auroc(scores(share, seed)[1].numpy(), labels) for seed in range(arguments.seeds)]
        rows.append(
            [arguments.root.name, percent(share), ", ".join(f"{value:.3f}" for value in values), f"{mean(values):.3f}"]
        )
    print(f"\n{table(['category', 'held out', 'image AUROC', 'mean'], rows)}")


if __name__ == "__main__":
    main()
