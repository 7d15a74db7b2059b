"""How time and memory grow with image size, batch, width, and what else a model's cost depends on.

    python benchmarks/cost.py                    # from a width of 16 at 256x256, one thing changed a row
    python benchmarks/cost.py --model Ssae --bf16

Every figure is from a process of its own. Seconds beside GFLOP are the row's seconds per GFLOP over the first row's: 1
where time grows as the network's work does, more where something grows faster. Drawing: the masks of RIAD's training
step, which has one region size (building draws those of inference), or SSAE's corruption. A training step is one of
whole images. Peak memory: on a CPU, of all the process.
"""

import argparse
import copy
import multiprocessing
import warnings
from collections.abc import Callable
from statistics import median
from time import perf_counter
from types import SimpleNamespace
from typing import Any

import torch
from measuring import environment, gflop, in_a_process, peak_memory, row, synchronize, table

import riad_anomalib
from riad_anomalib import Riad, Ssae
from riad_anomalib.components.corruption import corrupt

COMMON: list[dict[str, Any]] = [
    {},
    *({"image_size": size} for size in (128, 512, 1024)),
    *({"batch_size": size} for size in (2, 4, 8)),
    *({"base_width": width} for width in (8, 32, 64)),
]
FIRST = {"base_width": 16, "image_size": 256, "batch_size": 1}
BASE: dict[str, dict[str, Any]] = {
    "Riad": FIRST | {"region_sizes": (2, 4, 8, 16), "num_disjoint_sets": 3},
    "Ssae": FIRST | {"dilations": (1, 2, 4, 8, 16), "kernel_size": 3, "objective": "filter", "crop_scales": (1,)},
}
ROWS: dict[str, list[dict[str, Any]]] = {
    "Riad": [
        *COMMON,
        {"image_size": 1024, "region_sizes": (2,)},
        {"region_sizes": (8,)},
        {"region_sizes": (4, 16)},
        *({"num_disjoint_sets": number} for number in (2, 5)),
    ],
    "Ssae": [*COMMON, {"dilations": (1, 2, 4, 8)}, {"kernel_size": 5}, {"objective": "ensemble"}],
}


def draw(module: Riad | Ssae, image: torch.Tensor) -> None:
    """Draw what a training step draws."""
    if isinstance(module, Riad):
        module.model.random_removed(len(image), image.device)
    else:
        corrupt(image, module.corruptions, module.num_patches, module.brightness)


def cost(module: Riad | Ssae, image: torch.Tensor, training: bool) -> float:
    """Count the GFLOP of the networks' passes; a training step counts three times its forward passes."""
    if isinstance(module, Riad):
        networks: list[torch.nn.Module] = [module.model.network]
        copies = module.model.num_disjoint_sets * (1 if training else len(module.model.region_sizes))
    else:
        networks, copies = list(module.model.networks), 1
    images = torch.empty(len(image) * copies, *image.shape[1:], device="meta")
    return sum(gflop(copy.deepcopy(each).to("meta"), images) for each in networks) * (3 if training else 1)


def measure(setting: dict[str, Any], training: bool, options: argparse.Namespace) -> dict[str, float]:
    """Time building, partitions, and inference or a training step, and tell the peak memory of the process."""

    def seconds(run: Callable[[], object]) -> float:
        times = []
        for _ in range(options.repeats + 1):
            start = perf_counter()
            with torch.autocast(options.device, torch.bfloat16, enabled=options.bf16):
                run()
            synchronize(options.device)
            times.append(perf_counter() - start)
        return median(times[1:])  # the first one is not counted

    warnings.simplefilter("ignore")  # a training step without a trainer has nowhere to log to
    arguments = dict(setting)
    batch_size, size = arguments.pop("batch_size"), arguments.pop("image_size")
    start = perf_counter()
    module = getattr(riad_anomalib, options.model)(image_size=(size, size), **arguments)
    result = {"build": perf_counter() - start}
    module.to(options.device).train(training)
    image = torch.rand(batch_size, 3, size, size, device=options.device)
    result["drawing"] = seconds(lambda: draw(module, image))
    result["gflop"] = cost(module, image, training)
    optimizer = torch.optim.Adam(module.parameters())

    @torch.no_grad()
    def infer() -> None:
        module.model(image)

    def train() -> None:
        optimizer.zero_grad()
        module.training_step(SimpleNamespace(image=image))["loss"].backward()
        optimizer.step()

    result["seconds"] = seconds(train if training else infer)
    result["peak"] = peak_memory(options.device)
    return result


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=BASE, default="Riad")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--bf16", action="store_true", help="under autocast to bfloat16")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    print(f"{environment()}; {vars(options)}\n")
    names = ["", "build, s", "drawing, s"]
    for name in ("inference", "training step"):
        names += [f"{name}, GFLOP", "s", "s beside GFLOP", "peak, MiB"]
    print(table(names))
    # Imports take longer than the rest.
    multiprocessing.set_forkserver_preload(
        ["riad_anomalib.models.riad", "riad_anomalib.models.ssae", "torch.utils.flop_counter"]
    )
    base: list[float] = []
    for changed in ROWS[options.model]:
        setting = BASE[options.model] | changed
        results = [in_a_process("forkserver", measure, setting, training, options) for training in (False, True)]
        rates = [result["seconds"] / result["gflop"] for result in results]
        base = base or rates
        name = ", ".join(f"{key} {value}" for key, value in (changed or setting).items())
        cells = [name, f"{results[1]['build']:.2f}", f"{results[1]['drawing']:.4f}"]
        for result, rate, first in zip(results, rates, base, strict=True):
            cells += [f"{result['gflop']:.3g}", f"{result['seconds']:.2f}", f"{rate / first:.2f}"]
            cells += [f"{result['peak']:.0f}"]
        print(row(cells), flush=True)


if __name__ == "__main__":
    main()
