"""What pictures of 1 to 20 megapixels cost an exported model that sees them in their own size, whole and in strips.

    python benchmarks/growth.py --model deployed/weights/openvino/model.xml --picture cup.png --memory 512

Pictures are made by laying copies of --picture, mirrored, side by side. Each row is a process of its own: seconds a
picture (median of --repeats after one to warm up, --threads threads, float32), the peak memory of the process less what
it had before the first picture, and the largest difference of the strips' map from that of one pass, of its range. With
--checkpoint the second table has that difference for strips that overlap more or less, in torch.
"""

import argparse
import math
import multiprocessing
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from measuring import environment, in_a_process, peak_memory, process_memory, row

OVERLAPS = (32, 64, 96, 128, 192)


def tiled(picture: Path, megapixels: float) -> Any:  # noqa: ANN401
    """Return a picture of so many megapixels, four to three, BGR."""
    image: Any = cv2.imread(str(picture))
    height = round(math.sqrt(megapixels * 1e6 * 3 / 4) / 8) * 8
    width = round(megapixels * 1e6 / height / 8) * 8
    block = np.concatenate([image, image[:, ::-1]], axis=1)
    block = np.concatenate([block, block[::-1]])
    times = (-(-height // block.shape[0]), -(-width // block.shape[1]), 1)
    return np.ascontiguousarray(np.tile(block, times)[:height, :width])


def inspected(arguments: argparse.Namespace, megapixels: float, memory: int | None) -> dict[str, Any]:
    """Return seconds, memory and map of a picture."""
    from riad_anomalib.deploy.inference import infer_requests, load_model
    from riad_anomalib.deploy.large import Limits, infer_within

    def fail(name: str, problem: str) -> None:
        raise ValueError(name + problem)

    limits = Limits(memory) if memory else None
    prepare = limits.prepare if limits else None
    model = load_model(arguments.model, "CPU", "latency", "f32", arguments.threads, prepare)
    requests = infer_requests(model, "latency")
    image, before, seconds = tiled(arguments.picture, megapixels), process_memory("VmRSS"), []
    for _ in range(1 + arguments.repeats):
        start = time.perf_counter()
        (result,) = infer_within(limits, requests, iter([("picture", image)]), fail)
        seconds.append(time.perf_counter() - start)
    return {
        "seconds": float(np.median(seconds[1:])),
        "MiB": peak_memory() - before,
        "map": result.anomaly_map,
        "score": result.pred_score,
        "size": image.shape,
    }


def cuts(arguments: argparse.Namespace) -> None:
    """Print how far maps of strips differ from that of one pass."""
    import torch

    from riad_anomalib import Ssae
    from riad_anomalib.components.batching import in_strips

    model: Any = Ssae.load_from_checkpoint(arguments.checkpoint).eval()
    image = torch.from_numpy(tiled(arguments.picture, 1)[..., ::-1].copy()).permute(2, 0, 1)[None] / 255
    network = model.model.networks[0]
    with torch.no_grad():
        whole = model.model.dissimilarity_map(image)
        smooth = model.model.smooth(whole)
        print(row(["overlap", "largest difference", "95 of 100 cut rows", "smoothed"]))
        print(row(["---"] * 4))
        for overlap in OVERLAPS:
            rows = 2 * overlap + 64
            made = in_strips(network, image, rows, 8, overlap)
            found = (image - made).square().mean(dim=1, keepdim=True)
            peaks = (found - whole).abs().amax(dim=-1).flatten().numpy() / whole.max().item()
            smoothed = (model.model.smooth(found) - smooth).abs().max() / smooth.max()
            print(row([f"{overlap}", f"{peaks.max():.1e}", f"{np.quantile(peaks, 0.95):.1e}", f"{smoothed:.1e}"]))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--picture", type=Path, required=True)
    parser.add_argument("--megapixels", type=float, nargs="+", default=[1, 5, 20])
    parser.add_argument("--memory", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    print(environment())
    if arguments.model:
        print(row(["megapixels", "height x width", "seconds", "MiB", "seconds in strips", "MiB", "difference"]))
        print(row(["---"] * 7))
        for megapixels in arguments.megapixels:
            whole, strips = (
                in_a_process("spawn", inspected, arguments, megapixels, memory) for memory in (None, arguments.memory)
            )
            extent = np.ptp(whole["map"])
            cells = [f"{megapixels:g}", "x".join(map(str, whole["size"][:2]))]
            cells += [
                f"{each[name]:.{digits}f}" for each in (whole, strips) for name, digits in (("seconds", 2), ("MiB", 0))
            ]
            print(row([*cells, f"{np.abs(whole['map'] - strips['map']).max() / extent:.1e}"]), flush=True)
    if arguments.checkpoint:
        cuts(arguments)


if __name__ == "__main__":
    multiprocessing.freeze_support()
    main()
