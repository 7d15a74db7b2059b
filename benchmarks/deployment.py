"""What exporting costs and changes: parity with torch, time, size, memory and AUROC of every export.

    python benchmarks/deployment.py --checkpoint model.ckpt --root datasets/MVTecAD/grid      # parity and AUROC
    python benchmarks/deployment.py --base-width 64 --image-size 256 --beside                 # time and memory
    python benchmarks/deployment.py --config configs/riad_small.yaml configs/ssae_small.yaml  # of several models
    python benchmarks/deployment.py --reading --repeats 30                             # time to read a picture

With a checkpoint of any of the package's models and a folder in MVTec AD's layout: the trained model on its test
images. Without: untrained networks on noise, whose time and memory are the same, RIAD of some widths or what files
describe. Every row of times is measured in a process of its own, but for reading, whose two readers take turns.
"""

import argparse
import inspect
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from measuring import Array, auroc, in_a_process, peak_memory, row, table, test_set

OUTPUTS = ("anomaly_map", "pred_score")
EXPORTS: dict[str, tuple[Any, Any, str]] = {  # format, compression, and precision of inference by the name of the row
    "torch fp32": ("torch", None, "f32"),
    "torch bf16": ("torch", None, "bf16"),
    "ONNX Runtime": ("onnx", None, "f32"),
    "OpenVINO FP32": ("openvino", None, "f32"),
    "OpenVINO bf16": ("openvino", None, "bf16"),
    "OpenVINO FP16": ("openvino", "fp16", "f32"),
    "OpenVINO INT8": ("openvino", "int8", "f32"),
    "OpenVINO INT8_PTQ": ("openvino", "int8_ptq", "f32"),
}

# torch, anomalib and OpenVINO are imported where they are used: they would count as memory of the other's rows.


def torch_runner(path: Path, precision: str) -> Callable[[Array], dict[str, Array]]:
    """Return a function that runs a model exported to torch."""
    import torch

    model = torch.load(path, weights_only=False)["model"].eval()

    def run(images: Array) -> dict[str, Array]:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            result = model(torch.from_numpy(images))
        return {name: getattr(result, name).float().numpy() for name in OUTPUTS}

    return run


def onnx_runner(path: Path, _precision: str) -> Callable[[Array], dict[str, Array]]:
    """Return a function that runs an ONNX model in ONNX Runtime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    return lambda images: dict(zip(OUTPUTS, session.run(OUTPUTS, {"input": images}), strict=True))


def openvino_runner(path: Path, precision: str) -> Callable[[Array], dict[str, Array]]:
    """Return a function that runs an OpenVINO model."""
    import openvino

    hints = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
    model = openvino.Core().compile_model(path, "CPU", hints)

    def run(images: Array) -> dict[str, Array]:
        result = model(images)
        return {name: result[name].copy() for name in OUTPUTS}

    return run


RUNNERS = {".pt": torch_runner, ".onnx": onnx_runner, ".xml": openvino_runner}


def measure(path: Path, precision: str, images: Array, repeats: int) -> dict[str, Any]:
    """Run a model on images one by one; the first run is not timed. Called in a process of its own."""
    warnings.simplefilter("ignore")
    run = RUNNERS[path.suffix](path, precision)
    run(images[:1])
    seconds, results = [], []
    for i in range(max(len(images), repeats)):
        start = time.perf_counter()
        results.append(run(images[i % len(images)][None]))
        seconds.append(time.perf_counter() - start)
    return {
        "milliseconds": 1e3 * statistics.median(seconds),
        "peak_mib": peak_memory(),
        "megabytes": sum(file.stat().st_size for file in path.parent.glob(f"{path.stem}.*")) / 1e6,
        **{name: np.concatenate([result[name] for result in results[: len(images)]]) for name in OUTPUTS},
    }


def export(model: Any, folder: Path, datamodule: Any) -> dict[str, tuple[Path, str]]:  # noqa: ANN401
    """Export what the rows run; return file and inference precision by the name of the row."""
    from anomalib.engine import Engine

    engine = Engine(accelerator="cpu", devices=1, default_root_dir=folder, logger=False)
    rows: dict[str, tuple[Any, str]] = {}
    for name, (kind, compression, precision) in EXPORTS.items():
        if datamodule or compression != "int8_ptq":
            file = engine.export(model, kind, folder / name, compression_type=compression, datamodule=datamodule)
            rows[name] = (file, precision)
    return rows


def print_parity(rows: dict[str, tuple[Path, str]], images: Array) -> None:
    """Print how far each export is from torch in fp32."""
    runs = {name: RUNNERS[path.suffix](path, precision) for name, (path, precision) in rows.items()}
    print(table(["maximum difference from torch fp32", *(f"{n}, batch {b}" for n in OUTPUTS for b in (1, 8))]))
    expected = {batch: runs["torch fp32"](images[:batch]) for batch in (1, 8)}
    for name, run in runs.items():
        actual = {batch: run(images[:batch]) for batch in (1, 8)}
        cells = [f"{np.abs(actual[b][n] - expected[b][n]).max():.1e}" for n in OUTPUTS for b in (1, 8)]
        print(row([name, *cells]))


def print_reading(repeats: int) -> None:
    """Print what it takes to read a picture as anomalib does, with Pillow, beside OpenCV's time for the same file."""
    import cv2

    from riad_anomalib.deploy.sources import decode

    def opencv(data: bytes) -> Any:  # noqa: ANN401
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)

    rng = np.random.default_rng(0)
    print(table(["", "Pillow, ms", "OpenCV, ms", "Pillow by OpenCV, median", "quartiles", "greatest difference"]))
    for megapixels, (height, width) in ((1, (1000, 1000)), (5, (2000, 2500))):
        smooth = cv2.resize(rng.integers(0, 256, (height // 16, width // 16, 3), np.uint8), (width, height))
        image = np.clip(smooth + rng.normal(0, 3, smooth.shape), 0, 255).astype(np.uint8)  # as a sensor's noise
        for suffix in (".jpg", ".png"):
            data = cv2.imencode(suffix, image)[1].tobytes()
            difference = int(np.abs(decode(data).astype(int) - opencv(data)).max())
            seconds = []
            for _ in range(repeats):
                times = [time.perf_counter()]
                for read in (decode, opencv):
                    read(data)
                    times.append(time.perf_counter())
                seconds.append(np.diff(times))
            pillow, other = np.median(seconds, axis=0) * 1e3
            low, middle, high = np.percentile([first / second for first, second in seconds], [25, 50, 75])
            cells = [f"{pillow:.0f}", f"{other:.0f}", f"{middle:.2f}", f"{low:.2f} to {high:.2f}", str(difference)]
            print(row([f"{suffix[1:].upper()}, {megapixels} megapixels", *cells]), flush=True)


def load(checkpoint: Path) -> Any:  # noqa: ANN401
    """Return the model of a checkpoint, which knows its arguments but not its name."""
    import torch

    import riad_anomalib
    from riad_anomalib.plugin import MODELS

    given = set(torch.load(checkpoint, map_location="cpu", weights_only=True)["hyper_parameters"])
    classes = [getattr(riad_anomalib, name) for name in MODELS]
    (model_class,) = [each for each in classes if given <= set(inspect.signature(each).parameters)]
    return model_class.load_from_checkpoint(checkpoint, map_location="cpu")


def untrained(arguments: argparse.Namespace, size: tuple[int, int]) -> dict[str, Any]:
    """Return the models to measure without a checkpoint, by name."""
    from anomalib.models import Draem
    from anomalib.models.components import AnomalibModule

    from riad_anomalib import Riad

    if arguments.config:
        bare = {"model.post_processor": False, "model.calibration": "none"}  # there are no thresholds, no statistics
        models = {file.stem: AnomalibModule.from_config(file, **bare) for file in arguments.config}
    else:
        widths = arguments.base_width
        models = {f"Riad, width {n}": Riad(base_width=n, image_size=size, post_processor=False) for n in widths}
    if arguments.beside:
        pictures = Path(__file__).parents[1] / "docs"  # or it downloads textures, which only training needs
        models["DRAEM"] = Draem(dtd_dir=pictures, post_processor=False)
    return models


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, help="a trained model; without, an untrained one")
    parser.add_argument("--root", type=Path, help="a folder with train/good and test/*, as MVTec AD's categories")
    parser.add_argument("--config", type=Path, nargs="+", default=[], help="files of models to build, untrained")
    parser.add_argument("--base-width", type=int, nargs="+", default=[16], help="of an untrained RIAD")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5, help="images that are timed at least")
    parser.add_argument("--beside", action="store_true", help="DRAEM too")
    parser.add_argument("--reading", action="store_true", help="only the time to read a picture")
    arguments = parser.parse_args()

    if arguments.reading:
        print_reading(arguments.repeats)
        return
    warnings.simplefilter("ignore")
    models: dict[str, Any] = {}
    size = (arguments.image_size, arguments.image_size)
    if arguments.checkpoint:
        model = load(arguments.checkpoint)
        model.post_processor = None  # bare maps and scores, as torch gives them
        models[model.name], size = model, model.image_size
    else:
        models = untrained(arguments, size)
    datamodule, labels, masks = None, np.zeros(0, bool), np.zeros(0, bool)
    if arguments.root:
        datamodule, images, labels, masks = test_set(arguments.root, size)

    for model_name, model in models.items():
        if not arguments.root:
            size = getattr(model, "image_size", size)
            images = np.random.default_rng(0).random((8, 3, *size), dtype=np.float32)
        with tempfile.TemporaryDirectory() as folder:
            rows = export(model, Path(folder), datamodule)
            print(f"\n## {model_name}, {size[0]}x{size[1]}\n")
            if arguments.root:
                print_parity(rows, images)
            measured = {
                name: in_a_process("spawn", measure, *file, images if arguments.root else images[:1], arguments.repeats)
                for name, file in rows.items()
            }
            names = ["", "ms an image", "speed", "size, MB", "peak memory, MiB", "image AUROC", "pixel AUROC"]
            print("\n" + table(names))
            for name, result in measured.items():
                speed = measured["OpenVINO FP32"]["milliseconds"] / result["milliseconds"]
                cells = [f"{result['milliseconds']:.0f}", f"{speed:.2f}", f"{result['megabytes']:.1f}"]
                cells.append(f"{result['peak_mib']:.0f}")
                for output, truth in (("pred_score", labels), ("anomaly_map", masks)):
                    cells.append(f"{auroc(result[output], truth):.4f}" if truth.size else "")
                print(row([name, *cells]), flush=True)


if __name__ == "__main__":
    main()
