"""What the rounds of a trained I3AD do to its AUROC, with and without calibration; their exports; a picture of them.

    python benchmarks/iteration.py --checkpoint model.ckpt --root datasets/MVTecAD/grid
    python benchmarks/iteration.py --checkpoint riad.ckpt --model Riad --root datasets/MVTecAD/grid --rounds 1 9
    python benchmarks/iteration.py --checkpoint model.ckpt --export
    python benchmarks/iteration.py --checkpoint model.ckpt --picture broken.png --output rounds.jpg

The folder is laid out as MVTec AD's categories. A row is a number of rounds, with the network's passes an image and
the share of pixels that the last of them painted, of 40 training images and of test images; then image and pixel AUROC
on the test images. The threshold of the mask is the checkpoint's, or chosen with the most rounds if it has none.

With ``--model Riad``, RIAD's network paints in I3AD's iteration; the first row is RIAD's own inference.
"""

import argparse
import sys
import tempfile
import time
import warnings
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, cast

import numpy as np
import openvino
import torch
from anomalib.deploy import ExportType
from anomalib.engine import Engine
from anomalib.models.components import AnomalibModule
from measuring import Array, Mask, auroc, normal_set, row, table, test_set
from PIL import Image
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from riad_anomalib import I3ad, Riad
from riad_anomalib.components.calibration import calibrate, mean_and_std
from riad_anomalib.components.similarity import msgms_difference
from riad_anomalib.components.smoothing import mean_filter, window_size
from riad_anomalib.models.i3ad.iteration import Round
from riad_anomalib.models.i3ad.torch_model import IMAGE_SCORES, SCORE_FUNCTIONS, I3adModel
from riad_anomalib.models.riad.torch_model import RiadModel

MAPS = SCORE_FUNCTIONS | {"msgms": msgms_difference}


def driving(riad: RiadModel, mask_threshold: float | None) -> I3adModel:
    """Return I3AD's iteration with RIAD's network as its painter."""
    size, smoothing_size = riad.image_size, riad.smoothing_size
    module = I3ad(image_size=size, smoothing_size=smoothing_size, mask_threshold=mask_threshold)
    model: Any = module.eval().model
    model.paint = lambda image, removed: riad.network(image.masked_fill(removed, 0.0))
    return cast("I3adModel", model)


def rounds_of(model: I3adModel, images: Tensor, iterations: int) -> list[Round]:
    """Return each round of all images."""
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        each = [model.rounds(image, iterations) for image in images.split(1)]
    return [Round(*(torch.cat(parts) for parts in zip(*same, strict=True))) for same in zip(*each, strict=True)]


def print_table(model: I3adModel, root: Path, numbers: list[int], score_function: str, riad: RiadModel | None) -> None:
    """Print the AUROC after each of these numbers of rounds."""
    data, pictures, labels, masks = test_set(root, model.image_size)
    normal = normal_set(data)
    images = torch.from_numpy(pictures)
    model.iterations = max(numbers)
    if model.mask_threshold is None and not model.chosen_threshold.numel():
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            model.choose_threshold(
                lambda u: float(torch.cat([model.still_removed(x, u) for x in normal.split(1)]).mean())
            )
    print(f"threshold {float(model.threshold):.2f}, map {score_function}\n")
    print(table(["rounds", "passes", "painted: normal, %", "test, %", "none", "pixel"]))
    if riad:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            usual, values = (
                torch.cat([riad.dissimilarity_map(image) for image in batch.split(1)]) for batch in (normal, images)
            )
        passes = len(riad.removed) * riad.num_disjoint_sets
        print(row(["RIAD", f"{passes}", "", "", *aurocs(model, usual, values, labels, masks)]), flush=True)
    of_normal, of_test = (rounds_of(model, batch, max(numbers)) for batch in (normal, images))
    compare = MAPS[score_function]
    for number in numbers:
        same, seen = of_normal[number - 1], of_test[number - 1]
        usual, values = compare(normal, same.reconstruction), compare(images, seen.reconstruction)
        painted = [f"{100 * made.removed.float().mean():.2f}" for made in (same, seen)]
        cells = [f"{number}", f"{number + 3}", *painted, *aurocs(model, usual, values, labels, masks)]
        print(row(cells), flush=True)


def aurocs(model: I3adModel, usual: Tensor, values: Tensor, labels: Mask, masks: Mask) -> list[str]:
    """Return image and pixel AUROC of maps as they are, and calibrated by those of normal images."""
    cells = []
    for differing in (values, calibrate(values, *mean_and_std(usual))):
        values_map = mean_filter(differing, window_size(model.smoothing_size, model.image_size))
        cells.append(f"{auroc(IMAGE_SCORES[model.image_score](values_map).numpy(), labels):.3f}")
        if masks.size:
            cells[-1] += f" / {auroc(values_map.numpy(), masks):.3f}"
    return cells


def print_exports(module: AnomalibModule, numbers: list[int]) -> None:
    """Print what an export with so many rounds costs, and how far OpenVINO is from torch on pictures of noise."""
    model: Any = module.model
    images = torch.rand(4, 3, *model.image_size, generator=torch.Generator().manual_seed(0))
    print(table(["rounds", "seconds", "MB", "nodes", "seconds to load", "greatest difference"]))
    for number in numbers:
        model.iterations = number
        with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr):
            start = time.perf_counter()
            engine = Engine(accelerator="cpu", devices=1, default_root_dir=folder, logger=False)
            file: Any = engine.export(module, ExportType.OPENVINO, folder)
            seconds = time.perf_counter() - start
            size = sum(path.stat().st_size for path in (file, file.with_suffix(".bin"))) / 1e6
            start = time.perf_counter()
            core = openvino.Core()
            network = core.read_model(file)
            compiled = core.compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
            loading = time.perf_counter() - start
            of_openvino: list[Array] = [compiled(image.numpy())["anomaly_map"] for image in images.split(1)]
        with torch.no_grad():
            of_torch = module(images).anomaly_map.numpy()
        difference = np.abs(np.concatenate(of_openvino) - of_torch).max()
        nodes = len(network.get_ops())
        print(row([f"{number}", f"{seconds:.0f}", f"{size:.1f}", f"{nodes}", f"{loading:.1f}", f"{difference:.1e}"]))


def draw(model: I3adModel, picture: Path, numbers: list[int]) -> Image.Image:
    """Return two rows of pictures; what a mask removes is white.

    The image, the first round's four masks, the last reconstruction; the first reconstruction, the mask that follows
    from each of these rounds, the map, as bright as it gets.
    """
    with Image.open(picture) as opened:
        pixels = torch.from_numpy(np.array(opened.convert("RGB"))).movedim(-1, 0)[None] / 255
    image = F.interpolate(pixels, model.image_size, mode="bilinear", antialias=True)
    rounds = rounds_of(model, image, max(numbers) + 1)
    first, last = (rounds[number - 1].reconstruction for number in (1, max(numbers)))
    values_map = SCORE_FUNCTIONS[model.score_function](image, last)
    values_map = mean_filter(values_map, window_size(model.smoothing_size, model.image_size))
    boards = [image.masked_fill(board, 1.0) for board in model.boards]
    masked = [image.masked_fill(rounds[number].removed, 1.0) for number in numbers]
    rows = [image, *boards, last], [first, *masked, (values_map / values_map.max()).expand_as(image)]
    most = max(map(len, rows))
    padded = [
        [F.pad(panel, (2, 2, 2, 2), value=1.0) for panel in (line + [torch.ones_like(image)] * most)[:most]]
        for line in rows
    ]
    strip = torch.cat([torch.cat(line, dim=3) for line in padded], dim=2)
    return Image.fromarray((255 * strip[0].clamp(0, 1).movedim(0, -1)).round().byte().numpy())


def main() -> None:
    """Print the tables, or write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--root", type=Path)
    what.add_argument("--picture", type=Path)
    what.add_argument("--export", action="store_true", help="time and size of exports")
    parser.add_argument("--model", choices=("I3ad", "Riad"), default="I3ad", help="the checkpoint's; Riad for --root")
    parser.add_argument("--map", choices=MAPS, help="another score_function than the checkpoint's, for --root")
    parser.add_argument("--mask-threshold", type=float, help="another one than the checkpoint's")
    parser.add_argument("--output", type=Path, default=Path("rounds.jpg"))
    parser.add_argument("--enlarge", type=int, default=1, help="the picture, so many times")
    parser.add_argument("--rounds", type=int, nargs="+", help="1 5 10, of a picture 1 2 5 10 unless given")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    if arguments.model == "Riad" and not arguments.root:
        parser.error("--model Riad is for --root")
    riad: Any = None
    if arguments.model == "Riad":
        riad = Riad.load_from_checkpoint(arguments.checkpoint, map_location="cpu").eval().model
        model: Any = driving(riad, arguments.mask_threshold)
    else:
        # None would take away the threshold of the checkpoint's arguments.
        given = {} if arguments.mask_threshold is None else {"mask_threshold": arguments.mask_threshold}
        loaded = I3ad.load_from_checkpoint(arguments.checkpoint, map_location="cpu", **given).eval()
        model = loaded.model
    if arguments.export:
        print_exports(loaded, arguments.rounds or [1, 5, 10])
    elif arguments.root:
        print_table(model, arguments.root, arguments.rounds or [1, 5, 10], arguments.map or model.score_function, riad)
    else:
        strip = draw(model, arguments.picture, arguments.rounds or [1, 2, 5, 10])
        size = strip.width * arguments.enlarge, strip.height * arguments.enlarge
        strip.resize(size, Image.Resampling.NEAREST).save(arguments.output, quality=85)


if __name__ == "__main__":
    main()
