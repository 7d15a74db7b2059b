"""How much time RIAD spends outside its U-Net: a training step and inference against the bare network.

    python benchmarks/overhead.py --base-width 64 --image-size 256 --batch-size 1

Both sides see the same number of masked copies and alternate in one run, so that a busy machine slows both.
"""

import argparse
import platform
from collections.abc import Callable
from statistics import median
from time import perf_counter

import torch

from riad_anomalib import Riad


def compare(name: str, whole: Callable[[], None], bare: Callable[[], None], repeats: int, device: str) -> None:
    """Print the median times of both and of their ratio, and its range."""

    def seconds(run: Callable[[], None]) -> float:
        start = perf_counter()
        run()
        if device != "cpu":
            torch.accelerator.synchronize()
        return perf_counter() - start

    whole()  # warm up
    bare()
    pairs = [(seconds(whole), seconds(bare)) for _ in range(repeats)]
    ratios = sorted(a / b for a, b in pairs)
    print(
        f"{name:10} RIAD {median(a for a, _ in pairs):8.3f} s   U-Net alone {median(b for _, b in pairs):8.3f} s   "
        f"ratio {median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})   [{device}]",
    )


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--base-width", type=int, default=64)
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--region-sizes", type=int, nargs="+", default=[2, 4, 8, 16])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--bf16", action="store_true", help="under autocast to bfloat16")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()

    torch.manual_seed(0)
    size = (options.image_size, options.image_size)
    module = Riad(base_width=options.base_width, image_size=size, region_sizes=options.region_sizes).to(options.device)
    model, network = module.model, module.model.network
    image = torch.rand(options.batch_size, 3, *size, device=options.device)
    copies = {
        True: image.repeat(model.num_disjoint_sets, 1, 1, 1),
        False: image.repeat(model.num_disjoint_sets * len(options.region_sizes), 1, 1, 1),
    }
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-4)

    def precision() -> torch.autocast:
        return torch.autocast(options.device, dtype=torch.bfloat16, enabled=options.bf16)

    def step(loss: torch.Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def train() -> None:
        model.train()
        with precision():
            loss = module.loss(model(image), image)
        step(loss)

    def train_bare() -> None:
        model.train()
        with precision():
            loss = network(copies[True]).mean()
        step(loss)

    @torch.no_grad()
    def infer() -> None:
        model.eval()
        with precision():
            model(image)

    @torch.no_grad()
    def infer_bare() -> None:
        model.eval()
        with precision():
            network(copies[False])

    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}; {vars(options)}")
    compare("training", train, train_bare, options.repeats, options.device)
    compare("inference", infer, infer_bare, options.repeats, options.device)


if __name__ == "__main__":
    main()
