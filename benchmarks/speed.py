"""How fast RIAD is: beside a straightforward one, beside its U-Net alone, and what each lever brings.

    python benchmarks/speed.py                                       # width 64, 256x256, one image
    python benchmarks/speed.py --base-width 16 --image-size 128 --batch-size 8

First how far the straightforward RIAD and this one are apart in float32, with the same partitions. Then a training step
and inference: all rows alternate in one run, so that a busy machine slows all, and a ratio is the median over rounds of
a ratio within a round. Training takes the next region size each round.
"""

import argparse
import copy
import itertools
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from time import perf_counter

import numpy as np
import torch
from kornia.metrics import ssim
from measuring import environment, gflop, peak_memory, row, synchronize, table
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from riad_anomalib import Riad
from riad_anomalib.components.masking import random_partition, removed_regions


class StraightforwardRiad:
    """RIAD as it is mostly written: masks by a loop over regions, set after set through the network, NCHW, float32.

    Images are ``(N, C, H, W)``; the values are those of this package, down to the border and the constants.
    """

    def __init__(self, module: Riad) -> None:
        self.model = module.model
        self.network = copy.deepcopy(module.model.network).to(memory_format=torch.contiguous_format)

    def masks(self, order: Sequence[int], region_size: int, device: str) -> list[Tensor]:
        """Return one mask per set, ``(1, 1, H, W)``, 0 where the set's regions lie; region i goes to set i mod n."""
        height, width = self.model.image_size
        num_sets = self.model.num_disjoint_sets
        masks = [np.ones((1, 1, height, width), np.float32) for _ in range(num_sets)]
        for region, place in enumerate(order):
            row, column = divmod(region, width // region_size)
            rows = slice(row * region_size, (row + 1) * region_size)
            columns = slice(column * region_size, (column + 1) * region_size)
            masks[place % num_sets][:, :, rows, columns] = 0
        return [torch.from_numpy(mask).to(device) for mask in masks]

    def reconstruct(self, image: Tensor, masks: Sequence[Tensor]) -> Tensor:
        """Paint every set of regions back."""
        parts: list[Tensor] = [self.network(image * mask) * (1 - mask) for mask in masks]
        return torch.stack(parts).sum(dim=0)

    @staticmethod
    def gradient(image: Tensor) -> Tensor:
        """Return the Prewitt gradient magnitude of every channel."""
        channels = image.shape[1]
        across = torch.tensor([[-1.0, 0.0, 1.0]] * 3, device=image.device) / 3
        filters = torch.stack([across, across.T])[:, None].repeat(channels, 1, 1, 1)  # (2C, 1, 3, 3)
        padded = F.pad(image, (1, 1, 1, 1), mode="replicate")
        both: Tensor = F.conv2d(padded, filters, groups=channels).unflatten(1, (channels, 2))
        return (both.square().sum(dim=2) + 1e-12).sqrt()

    def gms_per_scale(self, image: Tensor, reconstruction: Tensor) -> list[Tensor]:
        """Return the gradient magnitude similarity at four scales."""
        maps, c = [], 170 / 255**2
        for scale in range(4):
            if scale:
                image, reconstruction = F.avg_pool2d(image, 2), F.avg_pool2d(reconstruction, 2)
            g, g_r = self.gradient(image), self.gradient(reconstruction)
            maps.append((2 * g * g_r + c) / (g**2 + g_r**2 + c))
        return maps

    def loss(self, image: Tensor, masks: Sequence[Tensor]) -> Tensor:
        """Return the training loss."""
        reconstruction = self.reconstruct(image, masks)
        similarity = ssim(image, reconstruction, window_size=11, max_val=1.0, eps=0.0)
        scales = [1 - gms.mean() for gms in self.gms_per_scale(image, reconstruction)]
        loss: Tensor = torch.stack(scales).mean() + (1 - similarity).mean() + ((image - reconstruction) ** 2).mean()
        return loss

    def anomaly_map(self, image: Tensor) -> Tensor:
        """Return the anomaly map, ``(N, 1, H, W)``, from the partitions that the package takes."""
        maps = []
        for k in self.model.region_sizes:
            regions = (image.shape[-2] // k) * (image.shape[-1] // k)
            order = np.random.RandomState(self.model.partition_seed).permutation(regions).tolist()
            reconstruction = self.reconstruct(image, self.masks(order, k, str(image.device)))
            similarity = torch.zeros_like(image[:, :1])
            for gms in self.gms_per_scale(image, reconstruction):
                gms_map = gms.mean(dim=1, keepdim=True)
                similarity += F.interpolate(gms_map, size=image.shape[-2:], mode="bilinear") / 4
            window = self.model.smoothing_window
            smooth = F.avg_pool2d(similarity, window, stride=1, padding=window // 2, count_include_pad=False)
            maps.append(1 - smooth)
        return torch.stack(maps).mean(dim=0)


def print_parity(module: Riad, slow: StraightforwardRiad, image: Tensor) -> None:
    """Print how far the two are apart; batch norm in evaluation mode, because it sees one set at a time there."""
    model = module.model.eval()
    slow.network.eval()
    k, (height, width) = model.region_sizes[0], model.image_size
    order = torch.randperm((height // k) * (width // k)).tolist()
    masks = slow.masks(order, k, str(image.device))
    removed = torch.stack([mask[0] == 0 for mask in masks])  # (S, 1, H, W)
    with torch.no_grad():
        loss = (module.loss(model.reconstruct(image, removed), image) - slow.loss(image, masks)).abs().item()
        anomaly_map = (model(image).anomaly_map - slow.anomaly_map(image)).abs().max().item()
    print(
        f"\nfloat32, greatest difference from the straightforward RIAD: loss {loss:.1e}, anomaly map {anomaly_map:.1e}"
    )


def matrix_rate(device: str, dtype: torch.dtype) -> float:
    """Return the FLOP a second of large matrix products, the best of five."""
    size = 2048 if device == "cpu" else 8192
    a, b = (torch.rand(size, size, device=device, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(6):
        start = perf_counter()
        a @ b
        synchronize(device)
        seconds.append(perf_counter() - start)
    return 2 * size**3 / min(seconds[1:])


def compare(rows: dict[str, Callable[[], None]], options: argparse.Namespace, tflop: float, rates: list[float]) -> None:
    """Time all rows, round after round, and print them."""
    times: dict[str, list[float]] = {name: [] for name in rows}
    memory = {}
    for name, run in rows.items():  # warm up
        if options.device != "cpu":
            torch.accelerator.reset_peak_memory_stats()
        run()
        synchronize(options.device)
        if options.device != "cpu":
            memory[name] = peak_memory(options.device)
    for _ in range(options.rounds):
        for name, run in rows.items():
            start = perf_counter()
            run()
            synchronize(options.device)
            times[name].append(perf_counter() - start)

    def ratio(reference: str, name: str) -> str:
        ratios = sorted(a / b for a, b in zip(times[reference], times[name], strict=True))
        return f"{median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"

    names = ["", "s", "images/s", "times as fast as straightforward", "time beside the U-Net alone"]
    print(table([*names, "of the matrix rate", *(["peak memory, MiB"] if memory else [])]))
    for name in rows:
        seconds = median(times[name])
        low = "bf16" in name
        bare = "U-Net alone, bf16" if low else "U-Net alone, fp32"
        beside = "" if name == "straightforward" or name.startswith("U-Net") else ratio(name, bare)
        share = tflop * 1e12 / seconds / rates[low]
        cells = [f"{seconds:.3f}", f"{options.batch_size / seconds:.2f}", ratio("straightforward", name), beside]
        cells += [f"{share:.0%}", *([f"{memory[name]:.0f}"] if memory else [])]
        print(row([name, *cells]), flush=True)


def variants(module: Riad, options: argparse.Namespace) -> dict[str, Riad]:
    """Return copies of a model by the lever that is pulled; their networks train apart from each other."""
    models = {name: copy.deepcopy(module) for name in ("NCHW, fp32", "fp32", "bf16")}
    models["NCHW, fp32"].model.network.to(memory_format=torch.contiguous_format)
    if options.compile:
        models["compiled, bf16"] = copy.deepcopy(module)
        models["compiled, bf16"].model.network.compile()
    return models


def training(module: Riad, image: Tensor, options: argparse.Namespace) -> dict[str, Callable[[], None]]:
    """Return a training step of every row, on partitions of one region size a round."""
    slow, num_sets, size = StraightforwardRiad(module), module.model.num_disjoint_sets, module.model.image_size
    region_sizes = itertools.cycle(module.model.region_sizes)
    k = 0

    def slow_loss() -> Tensor:
        nonlocal k  # the first row of a round
        k = next(region_sizes)
        order = torch.randperm((size[0] // k) * (size[1] // k)).tolist()
        return slow.loss(image, slow.masks(order, k, options.device))

    def loss(module: Riad) -> Tensor:
        partition = random_partition(*size, k, num_sets, batch_size=len(image), device=image.device)
        value: Tensor = module.loss(module.model.reconstruct(image, removed_regions(partition, num_sets)), image)
        return value

    def step(network: nn.Module, name: str, loss: Callable[[], Tensor]) -> Callable[[], None]:
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)

        def run() -> None:
            network.train()
            with torch.autocast(options.device, torch.bfloat16, enabled="bf16" in name):
                value = loss()
            optimizer.zero_grad()
            value.backward()
            optimizer.step()

        return run

    copies = image.repeat(num_sets, 1, 1, 1)
    rows = {"straightforward": step(slow.network, "", slow_loss)}
    for name, model in variants(module, options).items():
        rows[name] = step(model, name, partial(loss, model))
    bare = copy.deepcopy(module.model.network)
    for name in ("U-Net alone, fp32", "U-Net alone, bf16"):
        rows[name] = step(bare, name, lambda: bare(copies).mean())
    return rows


def inference(module: Riad, image: Tensor, options: argparse.Namespace) -> dict[str, Callable[[], None]]:
    """Return an inference of every row."""

    def score(network: nn.Module, name: str, function: Callable[[Tensor], object], image: Tensor) -> Callable[[], None]:
        @torch.no_grad()
        def run() -> None:
            network.eval()
            with torch.autocast(options.device, torch.bfloat16, enabled="bf16" in name):
                function(image)

        return run

    slow, network = StraightforwardRiad(module), module.model.network
    copies = image.repeat(len(module.model.removed) * module.model.num_disjoint_sets, 1, 1, 1)
    rows = {"straightforward": score(slow.network, "", slow.anomaly_map, image)}
    for name, model in variants(module, options).items():
        rows[name] = score(model, name, model.model, image)
    for name in ("U-Net alone, fp32", "U-Net alone, bf16"):
        rows[name] = score(network, name, network, copies)
    return rows


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-width", type=int, default=64)
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--compile", action="store_true", help="also with the network through torch.compile")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()

    torch.manual_seed(0)
    size = (options.image_size, options.image_size)
    module = Riad(base_width=options.base_width, image_size=size).to(options.device)
    image = torch.rand(options.batch_size, 3, *size, device=options.device)
    tflop = gflop(module.model.network.eval(), image.repeat(module.model.num_disjoint_sets, 1, 1, 1)) / 1e3
    rates = [matrix_rate(options.device, dtype) for dtype in (torch.float32, torch.bfloat16)]
    print(f"{environment()}; {vars(options)}; matrix products: ", end="")
    print(f"fp32 {rates[0] / 1e12:.2f}, bf16 {rates[1] / 1e12:.2f} TFLOP/s")
    print_parity(module, StraightforwardRiad(module), image)
    print(f"\nTraining step, {3 * tflop:.3g} TFLOP\n")
    compare(training(module, image, options), options, 3 * tflop, rates)
    num_sizes = len(module.model.region_sizes)
    print(f"\nInference, {num_sizes * tflop:.3g} TFLOP\n")
    compare(inference(module, image, options), options, num_sizes * tflop, rates)


if __name__ == "__main__":
    main()
