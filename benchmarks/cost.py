"""How time and memory grow with image size, batch, region sizes times sets, and width.

    python benchmarks/cost.py                    # from a width of 16 at 256x256, one thing changed a row
    python benchmarks/cost.py --bf16

Every figure is from a process of its own. Seconds beside GFLOP are the row's seconds per GFLOP over the first row's: 1
where time grows as the network's work does, more where something grows faster. Partitions: drawing those of a training
step, which has one region size; building draws those of inference. Peak memory: on a CPU, of all the process.
"""

import argparse
import copy
import multiprocessing
from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import Any

import torch
from measuring import environment, gflop, in_a_process, peak_memory, row, synchronize, table

from riad_anomalib import Riad

BASE = {"base_width": 16, "image_size": 256, "batch_size": 1, "region_sizes": (2, 4, 8, 16), "num_disjoint_sets": 3}
ROWS: list[dict[str, Any]] = [
    {},
    *({"image_size": size} for size in (128, 512, 1024)),
    {"image_size": 1024, "region_sizes": (2,)},
    *({"batch_size": size} for size in (2, 4, 8)),
    {"region_sizes": (8,)},
    {"region_sizes": (4, 16)},
    *({"num_disjoint_sets": number} for number in (2, 5)),
    *({"base_width": width} for width in (8, 32, 64)),
]


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

    arguments = dict(setting)
    batch_size, size = arguments.pop("batch_size"), arguments.pop("image_size")
    start = perf_counter()
    module = Riad(image_size=(size, size), **arguments)
    result = {"build": perf_counter() - start}
    module.to(options.device).train(training)
    image = torch.rand(batch_size, 3, size, size, device=options.device)
    result["partitions"] = seconds(lambda: module.model.random_removed(batch_size, image.device))
    copies = module.model.num_disjoint_sets * (1 if training else len(module.model.region_sizes))
    network = copy.deepcopy(module.model.network).to("meta")
    masked = torch.empty(batch_size * copies, 3, size, size, device="meta")
    result["gflop"] = gflop(network, masked) * (3 if training else 1)
    optimizer = torch.optim.Adam(module.parameters())

    @torch.no_grad()
    def infer() -> None:
        module.model(image)

    def train() -> None:
        optimizer.zero_grad()
        module.loss(module.model(image), image).backward()
        optimizer.step()

    result["seconds"] = seconds(train if training else infer)
    result["peak"] = peak_memory(options.device)
    return result


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--bf16", action="store_true", help="under autocast to bfloat16")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    print(f"{environment()}; {vars(options)}\n")
    names = ["", "build, s", "partitions, s"]
    for name in ("inference", "training step"):
        names += [f"{name}, GFLOP", "s", "s beside GFLOP", "peak, MiB"]
    print(table(names))
    # Imports take longer than the rest.
    multiprocessing.set_forkserver_preload(["riad_anomalib.models.riad", "torch.utils.flop_counter"])
    base: list[float] = []
    for changed in ROWS:
        setting = BASE | changed
        results = [in_a_process("forkserver", measure, setting, training, options) for training in (False, True)]
        rates = [result["seconds"] / result["gflop"] for result in results]
        base = base or rates
        name = ", ".join(f"{key} {value}" for key, value in (changed or BASE).items())
        cells = [name, f"{results[1]['build']:.2f}", f"{results[1]['partitions']:.4f}"]
        for result, rate, first in zip(results, rates, base, strict=True):
            cells += [f"{result['gflop']:.3g}", f"{result['seconds']:.2f}", f"{rate / first:.2f}"]
            cells += [f"{result['peak']:.0f}"]
        print(row(cells), flush=True)


if __name__ == "__main__":
    main()
