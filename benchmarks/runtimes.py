"""What packaging for Intel's runtimes costs and changes: Model API beside deploy, benchmark_app beside its throughput.

    python benchmarks/runtimes.py model.xml int8/model.xml --root datasets/MVTecAD/grid

Needs openvino-model-api. Each model is packaged; Model API, with inference precision f32, and deploy score the test
pictures of a folder in MVTec AD's layout, as OpenCV reads them. Images a second are without reading: benchmark_app,
which comes with OpenVINO, runs the packaged model on bytes of noise, deploy's stages the exported one on the pictures.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
from itertools import cycle, takewhile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from measuring import auroc, environment, row, table

from riad_anomalib import deploy


def megabytes(path: Path) -> float:
    """Return the size of a model's two files."""
    return sum(file.stat().st_size for file in (path, path.with_suffix(".bin"))) / 1e6


def benchmark_app(path: Path, shape: tuple[int, ...], seconds: int) -> float:
    """Return images a second in OpenVINO's own benchmark."""
    program = Path(sys.executable).with_name("benchmark_app")
    data_shape = f"[1,{shape[0]},{shape[1]},3]"
    hints = ["-hint", "throughput", "-infer_precision", "f32", "-t", str(seconds)]
    run = subprocess.run(  # noqa: S603
        [program, "-m", path, "-d", "CPU", "-data_shape", data_shape, *hints],
        capture_output=True,
        text=True,
        check=True,
    )
    (rate,) = re.findall(r"Throughput:\s+([\d.]+) FPS", run.stdout)
    return float(rate)


def throughput(path: Path, images: list[tuple[str, Any]], seconds: int) -> float:
    """Return images a second through deploy's stages, several at a time."""
    requests = deploy.infer_requests(deploy.load_model(path, "CPU", "throughput", "f32"), "throughput")
    list(deploy.infer(requests, images[:4]))
    start = time.perf_counter()
    endless = takewhile(lambda _: time.perf_counter() - start < seconds, cycle(images))
    number = sum(1 for _ in deploy.infer(requests, endless))
    return number / (time.perf_counter() - start)


def main() -> None:
    """Print a row for each model."""
    from model_api.adapters import OpenvinoAdapter, create_core
    from model_api.models import Model

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path, help="exported models, .xml")
    parser.add_argument("--root", type=Path, required=True, help="folder in MVTec AD's layout")
    parser.add_argument("--seconds", type=int, default=10, help="how long each throughput is measured")
    arguments = parser.parse_args()
    files = sorted((arguments.root / "test").rglob("*.png"))
    images: list[tuple[str, Any]] = [(str(file), cv2.imread(str(file))) for file in files]
    labels = np.array([file.parent.name != "good" for file in files])
    heads = ["AUROC deploy", "Model API", "largest difference of scores", "other verdicts", "MB", "packaged, MB"]
    print(environment())
    print(table(["model", *heads, "packaging, s", "images/s deploy", "benchmark_app"]))
    for path in arguments.models:
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            packaged = deploy.package(path, "model-api", Path(folder, "packaged"))
            seconds = time.perf_counter() - start
            requests = deploy.infer_requests(deploy.load_model(path, "CPU", "latency", "f32"), "latency")
            own = list(deploy.infer(requests, images))
            hints = {"INFERENCE_PRECISION_HINT": "f32"}
            wrapped = Model.create_model(OpenvinoAdapter(create_core(), str(packaged), plugin_config=hints))
            theirs = [wrapped(image) for _, image in images]
            scores = [np.array([result.pred_score for result in results], np.float32) for results in (own, theirs)]
            other = sum(str(a.pred_label) != b.pred_label for a, b in zip(own, theirs, strict=True))
            rates = [
                throughput(path, images, arguments.seconds),
                benchmark_app(packaged, images[0][1].shape, arguments.seconds),
            ]
            cells = [f"{auroc(each, labels):.4f}" for each in scores]
            cells += [f"{np.abs(scores[0] - scores[1]).max():.1e}", str(other)]
            cells += [f"{megabytes(each):.2f}" for each in (path, packaged)]
            print(row([str(path), *cells, f"{seconds:.2f}", *(f"{rate:.1f}" for rate in rates)]), flush=True)


if __name__ == "__main__":
    main()
