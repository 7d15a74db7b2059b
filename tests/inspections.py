"""What the tests of the inspection program share: pictures, videos, models, a run and its table."""

import csv
import json
import os
import re
import warnings
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import openvino
import pytest
import torch
from anomalib.data.utils import read_image
from numpy.typing import NDArray
from openvino import opset13

from riad_anomalib import deploy
from riad_anomalib.report import Report

WIDTH, HEIGHT = 56, 40
NAMES = ["a.jpg", "a.png", "grey.tif", "line 2/large.png", "line 2/turned.JPG", "line 2/ä/palette.png"]


def picture(number: int) -> NDArray[Any]:
    """A smooth picture with so many patches of noise."""
    rng = np.random.default_rng(number)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    pixels = np.stack([2 * columns, 3 * rows, columns + rows], axis=2).astype(np.uint8)
    for _ in range(number):
        row, column = rng.integers(0, HEIGHT - 12), rng.integers(0, WIDTH - 12)
        pixels[row : row + 12, column : column + 12] = rng.integers(0, 256, (12, 12, 3))
    return pixels


def write_video(path: Path, number: int) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (WIDTH, HEIGHT))
    for i in range(number):
        writer.write(picture(i % 12)[..., ::-1])
    writer.release()
    return path


def other_model(path: Path, shape: list[int], names: tuple[str, ...]) -> Path:
    """A model whose every output is its input, brought to 8x8 pixels: other sizes fail while it runs."""
    image = opset13.parameter(shape, np.float32, "input")
    same = opset13.reshape(image, np.array([1, 3, 8, 8]), special_zero=False)
    model = openvino.Model([opset13.relu(same) for _ in names], [image])
    for output, name in zip(model.outputs, names, strict=True):
        output.get_tensor().set_names({name})
    openvino.save_model(model, path)
    return path


def export(
    model: Any, pictures: Path, folder: Path, ranges: dict[str, tuple[float, float]], export_type: str = "openvino"
) -> Path:
    """Export a model that has seen the pictures once, with thresholds amid their scores and maps."""
    with torch.no_grad():
        images = [model.pre_processor(torch.as_tensor(read_image(pictures / name, as_tensor=True))) for name in NAMES]
        model.model(torch.stack(images))  # in training mode: Riad exports no network whose batch norm saw nothing
        scored: Any = model.eval().model(torch.stack(images))
    for kind, values in (("image", scored.pred_score), ("pixel", scored.anomaly_map)):
        low, high = ranges[kind]
        for name, value in ((f"_{kind}_threshold", values.quantile(0.5)), (f"{kind}_min", low), (f"{kind}_max", high)):
            getattr(model.post_processor, name).fill_(value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.onnx and OpenVINO warn about themselves
        if export_type == "onnx":
            return Path(model.to_onnx(folder))
        return Path(model.to_openvino(folder, onnx_kwargs={"opset_version": 18}))


def model_api(path: Path, plugin_config: dict[str, str] | None = None) -> Any:
    """A packaged model in Model API, which needs Python 3.11."""
    adapters, models = (pytest.importorskip(f"model_api.{name}") for name in ("adapters", "models"))
    plugin_config = {"INFERENCE_PRECISION_HINT": "f32"} if plugin_config is None else plugin_config
    adapter = adapters.OpenvinoAdapter(openvino.Core(), str(path), device="CPU", plugin_config=plugin_config)
    return models.Model.create_model(adapter)


def rows(output: Path) -> list[dict[str, str]]:
    with (output / "results.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def page(output: Path) -> Any:
    """What report.html is told, a dict for each picture."""
    text = (output / "report.html").read_text(encoding="utf-8")
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, flags=re.DOTALL)
    told = json.loads(data)
    names = ("name", "score", "is_anomalous", "is_defective", "views")
    return told | {"rows": [dict(zip(names, row, strict=True)) for row in told["rows"]]}


def run(*arguments: object) -> int:
    return deploy.main([str(argument) for argument in arguments])


HOSTILE = [
    "</script><script>window.owned = 1</script>.png",
    "<img src=x onerror='window.owned = 2'>/\"quoted\" 'names'.png",
    "<!--<script>.png",
    "a b/100% #1?x=1&amp;.png",
    "{{ data }} ${alert(1)} `\\u003c.png",
    "line\nbreak\u2028\x00.png",
    "ä/日本/\N{WAVING HAND SIGN}.png",
    os.fsdecode(b"latin \xe4.png"),
    '=HYPERLINK("http://example.org"),x.png',
    "a;\uff1d1.png",
]
"""Names that are more than letters to HTML, scripts, addresses, templates or tables."""


def hostile(folder: Path) -> Report:
    """A report of pictures by such names, the last the worst."""
    report = Report(folder, HOSTILE[0], f"python '{HOSTILE[1]}'")
    for number, name in enumerate(HOSTILE):
        report.add(name, number / 9, number > 4)
        report.show(np.full((30, 40, 3), 20 * number, np.uint8), np.eye(8, dtype=np.float32), np.eye(8) > 0)
    report.notes.append(HOSTILE[2])
    report.write()
    return report
