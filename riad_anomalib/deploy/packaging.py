"""Sub-command ``package``: what Intel's runtimes run right, made of an exported model, without torch.

    python -m riad_anomalib.deploy package weights/openvino/model.xml --for model-api --output packaged

An exported graph takes RGB in [0, 1], planes first. Runtimes hand over what cameras and OpenCV give: bytes, blue first,
channels last. The packaged graph takes those, and its own antialiased resize stays the only one.
"""

# ruff: noqa: T201  # a command prints

import argparse
import json
import math
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import openvino
from openvino import opset13
from openvino.preprocess import ColorFormat, PrePostProcessor

from . import thresholds
from .inference import OUTPUTS, judge_by, read_model, reason, threshold_in

LABELS = "Normal Anomaly"
"""Keys hold lists as words; the second is index 1. DL Streamer takes these two words and no others."""
_PASSING = {"Convert", "Reshape", "Squeeze", "Unsqueeze"}
"""Operations that change no value."""


def package(
    model: Path | str,
    runtime: str,
    output: Path | str,
    *,
    size: tuple[int, int] | None = None,
    name: str | None = None,
) -> Path:
    """Write what a runtime runs right: pictures go in as OpenCV reads them, scores come out as anomalib's.

    The exported model stays as it is, and its weights keep their precision. It judges by the thresholds that
    :mod:`.thresholds` found for the exported one, where there are any, else by its own.

    Args:
        model: An exported model with the outputs of its post-processor, ``.xml`` or ``.onnx``, of any precision.
        runtime: ``"model-api"``, ``"model-server"`` or ``"dlstreamer"``.
        output: Folder to make; it must be new or empty. It appears once all of it is written.
        size: Height and width of the only pictures that the packaged model then takes; None for what the exported one
            takes, which is any size unless it was exported with an input size. ``"dlstreamer"`` needs one.
        name: The model's name on a server, for ``"model-server"`` alone; None for that of the exported file.

    Returns:
        The packaged model's ``.xml``.

    Raises:
        ValueError: If the model cannot be packaged for this runtime, its thresholds are those of another export, or the
            folder cannot be written.
    """
    path, folder = Path(model), Path(output).absolute()
    if runtime not in RUNTIMES:
        msg = f"unknown runtime {runtime!r}: give one of {', '.join(RUNTIMES)}"
        raise ValueError(msg)
    if name is not None and runtime != "model-server":
        msg = f"name {name!r} is what a server calls the model: leave it out for {runtime}"
        raise ValueError(msg)
    name = path.stem if name is None else name
    if not re.fullmatch(r"[\w-][\w.-]*", name, flags=re.ASCII):
        msg = f"name {name!r} becomes a folder and part of an address: give letters, digits, '-', '_' and '.' alone"
        raise ValueError(msg)
    graph = read_model(path, openvino.Core())
    try:
        if (found := thresholds.read(path)) is not None:
            _judge(graph, found, path)
        _fix_size(graph, size, path, runtime)
        information = _map_alone(graph, path) if runtime == "dlstreamer" else _four_outputs(graph)
        graph = _taking_pictures(graph)
    except RuntimeError as error:
        msg = f"{path} cannot be packaged for {runtime}: {reason(error)}"
        raise ValueError(msg) from error
    for key, value in information.items():
        graph.set_rt_info(value, ["model_info", key])
    files = Path(name, "1", "model.xml") if runtime == "model-server" else Path("model.xml")
    with _appearing_whole(folder) as making:
        (making / files).parent.mkdir(parents=True, exist_ok=True)
        # FP16 weights are FP16 in the graph already; compression would only make others so.
        openvino.save_model(graph, making / files, compress_to_fp16=False)
        if runtime == "model-server":
            plugin = {"INFERENCE_PRECISION_HINT": "f32"}  # as the thresholds were found
            served = {"config": {"name": name, "base_path": name, "plugin_config": plugin}}
            text = json.dumps({"model_config_list": [served]}, indent=2)
            (making / "config.json").write_text(f"{text}\n", encoding="utf-8")
    return folder / files


def _judge(graph: openvino.Model, found: thresholds.Thresholds, path: Path) -> None:
    """Put thresholds in the place of the graph's own."""
    judged = [judge_by(graph, "pred_label", found.score), judge_by(graph, "pred_mask", found.pixel)]
    if not all(judged):
        msg = (
            f"{path} does not compare its score and map with numbers, so {thresholds.file_of(path)} cannot take their "
            "place: delete it to package the model with its own"
        )
        raise ValueError(msg)


def _fix_size(graph: openvino.Model, size: tuple[int, int] | None, path: Path, runtime: str) -> None:
    shape = graph.input().partial_shape
    if size is not None:
        if len(size) != 2 or any(isinstance(side, bool) or not isinstance(side, int) or side < 1 for side in size):  # noqa: PLR2004
            msg = f"size is {size}: give height and width in pixels, for example (1080, 1920)"
            raise ValueError(msg)
        fixed = openvino.PartialShape([shape[0], shape[1], *size])
        if not shape.compatible(fixed):
            msg = f"{path} was exported for pictures of {shape[2]}x{shape[3]}, not {size[0]}x{size[1]}: leave size out"
            raise ValueError(msg)
        graph.reshape(fixed)
    elif runtime == "dlstreamer" and (shape[2].is_dynamic or shape[3].is_dynamic):
        # It takes a dynamic size for 0 and inserts a resize to that, which OpenVINO refuses to build.
        msg = (
            f"{path} takes pictures of any size, DL Streamer needs to know it: give the camera's height and width, "
            "for example --size 1080 1920, and nothing but this model's own antialiased resize will touch its frames"
        )
        raise ValueError(msg)


def _taking_pictures(graph: openvino.Model) -> openvino.Model:
    """Return the graph with an input of bytes, blue first, channels last; layouts are written down with it."""
    processor = PrePostProcessor(graph)
    picture = processor.input()
    picture.tensor().set_element_type(openvino.Type.u8).set_layout(openvino.Layout("NHWC"))
    picture.tensor().set_color_format(ColorFormat.BGR)
    picture.model().set_layout(openvino.Layout("NCHW"))
    steps = picture.preprocess()
    steps.convert_element_type(openvino.Type.f32).convert_color(ColorFormat.RGB).scale(255.0)
    return processor.build()


def _four_outputs(graph: openvino.Model) -> dict[str, str]:
    """Drop what other outputs there are, which Model API refuses; return the keys that it reads."""
    for result in graph.get_results():
        if not result.input_value(0).get_names().intersection(OUTPUTS):
            graph.remove_result(result)
    return {"task": "segmentation", **_for_all(graph)}


def _for_all(graph: openvino.Model) -> dict[str, str]:
    """Return the keys of every packaged model; pictures go in raw, so sizes are only what they are said to become."""
    sides = zip(("orig_height", "orig_width"), [*graph.output("anomaly_map").partial_shape][-2:], strict=True)
    return {
        "model_type": "AnomalyDetection",
        "labels": LABELS,
        "embedded_processing": "True",
        **{name: str(side.get_length()) for name, side in sides if side.is_static},
    }


def _map_alone(graph: openvino.Model, path: Path) -> dict[str, str]:
    """Leave one output, the map in the units of the score, whose maximum it is; return the keys of thresholds.

    anomalib scales scores and maps by ranges and thresholds of their own. A runtime that sees the map alone can give
    anomalib's score and verdict only if the map is scaled as the score.
    """
    score = graph.output("pred_score").get_node().input_value(0)
    shown = graph.output("anomaly_map").get_node().input_value(0)
    refusal = f"{path}: DL Streamer takes the maximum of the map for the score, and"
    scale, offset, reduced = _line_to(score, None)
    if reduced.get_node().get_type_name() != "ReduceMax" or scale <= 0:
        others = {"ReduceMean": "the mean of its map (train with image_score: max)"}
        other = others.get(reduced.get_node().get_type_name(), "no such maximum")
        msg = f"{refusal} this model's score is {other}: use it in Model API or Model Server"
        raise ValueError(msg)
    raw = reduced
    while raw.get_partial_shape() != shown.get_partial_shape() and raw.get_node().get_type_name() in {
        "ReduceMax",
        *_PASSING,
    }:
        raw = raw.get_node().input_value(0)
    pixel_scale, pixel_offset, drawn = _line_to(shown, raw)
    is_map = raw.get_partial_shape().compatible(openvino.PartialShape([-1, 1, -1, -1]))
    if drawn != raw or pixel_scale <= 0 or not is_map:
        msg = f"{refusal} this model's score is the maximum of something else: use it in Model API or Model Server"
        raise ValueError(msg)

    kind = raw.get_element_type()
    moved = opset13.add(opset13.multiply(raw, opset13.constant(scale, kind)), opset13.constant(offset, kind)).output(0)
    image_threshold, pixel_threshold = threshold_in(graph, "pred_label"), threshold_in(graph, "pred_mask")
    if image_threshold is None or pixel_threshold is None:
        msg = f"{path} does not compare its score and map with numbers, which DL Streamer needs: use it in Model API"
        raise ValueError(msg)
    for result in graph.get_results():
        result.input_value(0).get_tensor().set_names(set())
        graph.remove_result(result)
    result = opset13.result(moved)
    moved.get_tensor().set_names({"anomaly_map"})
    graph.add_results([result])
    return {
        "task": "classification",  # DL Streamer knows no other
        "image_threshold": f"{image_threshold:.9g}",
        "pixel_threshold": f"{scale * (pixel_threshold - pixel_offset) / pixel_scale + offset:.9g}",
        "normalization_scale": "1.0",  # scores are anomalib's already
        **_for_all(graph),
    }


def _line_to(output: openvino.Output, source: openvino.Output | None) -> tuple[float, float, openvino.Output]:
    """Follow the last operations of a graph backwards, as long as they are a straight line, clipped to [0, 1].

    Args:
        output: Where to begin.
        source: Where to end; None for the first operation that is no part of a line.

    Returns:
        ``scale``, ``offset`` and where it ended, ``x``: the output is ``scale * x + offset``, clipped or not. Runtimes
        clip for themselves.
    """
    scale, offset = 1.0, 0.0
    while source is None or output != source:
        node = output.get_node()
        step = _step(node, is_last=(scale, offset) == (1, 0))
        if step is None:
            break
        factor, summand, position = step
        scale, offset = scale * factor, scale * summand + offset
        output = node.input_value(position)
    return scale, offset, output


def _step(node: openvino.Node, is_last: bool) -> tuple[float, float, int] | None:
    """Return an operation as ``factor * x + summand`` and which of its inputs ``x`` is; None if it is no such thing.

    Clipping to [0, 1] counts as no change where nothing comes after it.
    """
    kind = node.get_type_name()
    numbers = [_number(value) for value in node.input_values()]
    if kind in _PASSING or (kind == "Clamp" and is_last and _limits(node) == (0, 1)):
        return 1.0, 0.0, 0
    if kind == "Select" and numbers[0] is not None:  # anomalib's, of what is known when it exports
        return 1.0, 0.0, 1 if numbers[0] else 2
    if len(numbers) != 2 or (numbers[0] is None) == (numbers[1] is None):  # noqa: PLR2004
        return None
    position = 0 if numbers[0] is None else 1
    number: float = numbers[1 - position]  # type: ignore[assignment]  # the other is None
    lines = {
        "Add": (1.0, number),
        "Multiply": (number, 0.0),
        "Subtract": (-1.0, number) if position else (1.0, -number),
    }
    if number and not position:
        lines["Divide"] = 1 / number, 0.0
    if is_last and number in {0, 1}:
        lines["Minimum" if number else "Maximum"] = 1.0, 0.0
    return (*lines[kind], position) if kind in lines else None


def _number(output: openvino.Output) -> float | None:
    """Return the value of a constant; None if it is none or has several."""
    node = output.get_node()
    while node.get_type_name() in _PASSING:  # FP16 weights are converted to float32
        node = node.input_value(0).get_node()
    if node.get_type_name() != "Constant" or math.prod(node.get_output_shape(0)) != 1:
        return None
    return float(node.get_data().item())


def _limits(node: openvino.Node) -> tuple[float, float]:
    attributes = node.get_attributes()
    return attributes["min"], attributes["max"]


@contextmanager
def _appearing_whole(folder: Path) -> Iterator[Path]:
    """Give a folder to write to that takes this one's place once all went well; otherwise nothing is left of it."""
    making = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            msg = f"output {folder} exists and is not empty: give a new folder, so that nothing is overwritten or mixed"
            raise ValueError(msg)
        making.mkdir(parents=True)
        yield making
        if folder.exists():
            folder.rmdir()
        making.rename(folder)
    except OSError as error:
        msg = f"output {folder} cannot be written ({error.strerror}): give another folder"
        raise ValueError(msg) from error
    except RuntimeError as error:
        msg = f"OpenVINO cannot write to {folder} ({reason(error)}): is the disk full?"
        raise ValueError(msg) from error
    finally:
        shutil.rmtree(making, ignore_errors=True)


def _for_model_api(file: Path) -> str:
    missing = "" if find_spec("model_api") else "\nModel API is not installed here: pip install openvino-model-api"
    return f"in Python: Model.create_model({str(file)!r}, device='CPU')(cv2.imread('picture.png')){missing}"


def _for_model_server(file: Path) -> str:
    folder, name = shlex.quote(str(file.parents[2])), file.parents[1].name
    return (
        f"serve: docker run -v {folder}:/served -p 8000:8000 openvino/model_server --config_path /served/config.json "
        f"--rest_port 8000\nask: POST http://localhost:8000/v2/models/{name}/infer"
    )


def _for_dlstreamer(file: Path) -> str:
    return (
        "run: gst-launch-1.0 filesrc location=clip.mp4 ! decodebin3 ! gvaclassify inference-region=full-frame "
        f"model={shlex.quote(str(file))} device=CPU pre-process-backend=ie batch-size=1 "
        "ie-config=INFERENCE_PRECISION_HINT=f32 ! "
        "gvametaconvert add-tensor-data=true ! gvametapublish file-format=json-lines file-path=output.json ! fakesink"
    )


RUNTIMES = {"model-api": _for_model_api, "model-server": _for_model_server, "dlstreamer": _for_dlstreamer}
"""What to type next, by the runtime's name."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m riad_anomalib.deploy package",
        description="Make of an exported model what Intel's runtimes run right. The exported model stays as it is.",
        epilog="Exit status: 0 done, 2 an error, after which nothing is left of the folder.",
    )
    add = parser.add_argument
    add("model", type=Path, help="the exported model, .xml (with its .bin beside it) or .onnx")
    add("--for", dest="runtime", choices=RUNTIMES, required=True, help="what will run it")
    add("--output", type=Path, required=True, metavar="DIR", help="folder to make, new or empty")
    sizes = "height and width of the only pictures that it then takes, such as a camera's (default: any)"
    add("--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help=sizes)
    add("--name", help="for model-server: what the server calls it (default: the model file's name)")
    return parser


def main(argv: Sequence[str]) -> int:
    """Package a model from the command line and return the exit status."""
    arguments = _parser().parse_args(argv)
    size = tuple(arguments.size) if arguments.size else None
    try:
        file = package(arguments.model, arguments.runtime, arguments.output, size=size, name=arguments.name)
        found = thresholds.read(arguments.model)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if found is not None:
        print(found.told(thresholds.file_of(arguments.model)))
    print(f"packaged: {file}\n{RUNTIMES[arguments.runtime](file)}")
    return 0
