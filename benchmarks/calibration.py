"""What calibration, the mean filter and fewer region sizes do to the AUROC of one trained network, and what they cost.

    python benchmarks/calibration.py --checkpoint model.ckpt --root datasets/MVTecAD/grid

The folder is laid out as MVTec AD's categories. A row is a choice of region sizes with its passes and GFLOP an image,
a column the mean filter as a share of the image; without and with calibration from 40 training images, image and pixel
AUROC on the test images. --shift n moves every map by up to n pixels at random, as if products did not lie alike.
--score-function and --partitions compare what needs no other training.
"""

import argparse
import warnings
from itertools import combinations
from pathlib import Path

import torch
from measuring import auroc, gflop, normal_set, row, table, test_set
from torch import Tensor

from riad_anomalib import Riad
from riad_anomalib.components.calibration import calibrate
from riad_anomalib.components.smoothing import anomaly_score, mean_filter
from riad_anomalib.models.riad.anomaly_map import SCORE_FUNCTIONS
from riad_anomalib.models.riad.torch_model import RiadModel

SHARES = (0.02, 0.04, 0.08, 0.16)


def dissimilarity_per_size(model: RiadModel, images: Tensor, shift: int) -> Tensor:
    """Return 1 - similarity for each region size, ``(N, K, H, W)``, each image's moved by up to ``shift`` pixels."""
    maps = []
    for image in images.split(1):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            reconstructions = model.reconstructions(image)[0].float()  # (P*K, C, H, W)
        difference = SCORE_FUNCTIONS[model.score_function](image.expand_as(reconstructions), reconstructions)
        down, right = torch.randint(-shift, shift + 1, (2,)).tolist()
        per_size = difference[:, 0].unflatten(0, (-1, len(model.region_sizes))).mean(dim=0)  # (K, H, W)
        maps.append(per_size.roll((down, right), dims=(-2, -1)))
    return torch.stack(maps)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--shift", type=int, default=0)
    parser.add_argument("--score-function", choices=SCORE_FUNCTIONS, help="another one than the checkpoint's")
    parser.add_argument("--partitions", type=int, default=1, help="of every region size")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.manual_seed(0)

    others = {"num_partitions": arguments.partitions}
    if arguments.score_function:
        others["score_function"] = arguments.score_function
    loaded = Riad.load_from_checkpoint(arguments.checkpoint, map_location="cpu", **others)
    model: RiadModel = loaded.eval().model  # type: ignore[assignment]  # Riad's
    data, images, labels, masks = test_set(arguments.root, model.image_size)
    if arguments.shift:
        masks = masks[:0]  # they stay where they were
    normal = normal_set(data)
    of_normal = dissimilarity_per_size(model, normal, arguments.shift)
    of_test = dissimilarity_per_size(model, torch.from_numpy(images), arguments.shift)
    per_pass = gflop(model.network, normal[:1])

    names = [f"{calibration}, {share}" for calibration in ("none", "pixel") for share in SHARES]
    print(table(["region sizes", "passes", "GFLOP", *names]))
    sizes = range(len(model.region_sizes))
    for kept in sorted((c for n in sizes for c in combinations(sizes, n + 1)), key=len, reverse=True):
        mean_normal, mean_test = (maps[:, kept].mean(dim=1, keepdim=True) for maps in (of_normal, of_test))
        calibrated = calibrate(mean_test, mean_normal.mean(dim=0), mean_normal.std(dim=0, correction=0))
        cells = []
        for values in (mean_test, calibrated):
            for share in SHARES:
                model.smoothing_size = share
                values_map = mean_filter(values, model.smoothing_window)
                cells.append(f"{auroc(anomaly_score(values_map).numpy(), labels):.3f}")
                if masks.size:
                    cells[-1] += f" / {auroc(values_map.numpy(), masks):.3f}"
        passes = len(kept) * model.num_disjoint_sets * model.num_partitions
        chosen_sizes = ", ".join(str(model.region_sizes[k]) for k in kept)
        print(row([chosen_sizes, f"{passes}", f"{passes * per_pass:.3g}", *cells]), flush=True)


if __name__ == "__main__":
    main()
