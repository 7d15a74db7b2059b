"""What the model says of pictures, in the order in which they come."""

import mmap
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray
from openvino import opset13

from riad_anomalib.report import Image

from .sources import NO_MEMORY, Frame

OUTPUTS = ("pred_score", "pred_label", "anomaly_map", "pred_mask")
"""What anomalib's graphs with a post-processor return."""


@dataclass
class Result:
    """What the model says of a picture; map, in [0, 1], and mask are ``(H, W)`` in the model's own size."""

    name: str
    image: Image
    pred_score: float
    pred_label: bool
    anomaly_map: NDArray[np.float32]
    pred_mask: NDArray[np.bool_]
    averaged_score: float | None = None
    """The mean over this frame and those before it, which the verdict is then on."""

    @property
    def scores(self) -> list[float]:
        """The scores that there are, the one that the verdict is on last."""
        return [self.pred_score] if self.averaged_score is None else [self.pred_score, self.averaged_score]

    @property
    def verdict(self) -> str:
        """The label in words."""
        return "anomalous" if self.pred_label else "normal"


def model_files(path: Path) -> list[Path]:
    """Return the files of an exported model: an ``.xml`` with the ``.bin`` beside it, or an ``.onnx`` and its data.

    Raises:
        ValueError: If it is neither, or a file is missing.
    """
    if path.suffix not in {".xml", ".onnx"}:
        msg = f"model {path} is neither .xml nor .onnx: give the one that anomalib export wrote"
        raise ValueError(msg)
    if path.suffix == ".xml":
        files = [path, path.with_suffix(".bin")]
    else:
        files = [path, *(path.parent / name for name in _external_data(path))]
    for file in files:
        if not file.is_file():
            msg = f"model file {file} does not exist: give an .xml with its .bin beside it, or an .onnx with its data"
            raise ValueError(msg)
    return files


def _external_data(path: Path) -> list[str]:
    """Return the names of the files that hold an ONNX model's weights, by their path in its folder.

    Read from the bytes, for without the onnx package nothing tells: a tensor has a field 13 (``external_data``) with a
    key ``location`` and a value [onnx.proto], each of them after its length in one or two bytes.

    Raises:
        ValueError: If a file lies outside the model's folder.
    """
    number = rb"([\x80-\xff]?[\x00-\x7f])"
    entry = re.compile(rb"\x6a" + number + rb"\x0a\x08location\x12" + number, re.DOTALL)
    if not path.is_file() or not path.stat().st_size:
        return []
    names: dict[str, None] = {}
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for found in entry.finditer(data):
            whole, length = (sum((byte & 127) << 7 * i for i, byte in enumerate(digits)) for digits in found.groups())
            if whole == len(found[0]) - 1 - len(found[1]) + length:  # else these bytes are weights
                names[data[found.end() : found.end() + length].decode(errors="surrogateescape")] = None
    for name in names:
        if ".." in Path(name).parts or Path(name).is_absolute():
            msg = f"{path} has its weights in {name}, outside its folder: export the model again"
            raise ValueError(msg)
    return list(names)


def read_model(path: Path, core: openvino.Core) -> openvino.Model:
    """Read an exported model.

    Raises:
        ValueError: If a file is missing or the model gives no verdict on pictures.
    """
    model_files(path)
    try:
        model = core.read_model(path)
    except RuntimeError as error:
        msg = f"OpenVINO cannot read {path}: export the model again ({reason(error)})"
        raise ValueError(msg) from error
    if model.has_rt_info(["model_info", "embedded_processing"]):
        msg = f"{path} is packaged for another runtime already: give the file that anomalib exported"
        raise ValueError(msg)
    names = {name for output in model.outputs for name in output.names}
    if missing := [name for name in OUTPUTS if name not in names]:
        # Without a post-processor there is no threshold, hence no verdict, and no scale for the colours of the map.
        msg = f"{path} has no {', '.join(missing)}: give a model that anomalib exported with its post-processor"
        raise ValueError(msg)
    shapes = [node.partial_shape for node in model.inputs]
    if len(shapes) != 1 or not shapes[0].compatible(openvino.PartialShape([1, 3, -1, -1])):
        msg = f"{path} takes {' and '.join(map(str, shapes))}, not [1,3,H,W]: give a model that anomalib exported"
        raise ValueError(msg)
    return model


def load_model(
    path: Path,
    device: str,
    mode: str,
    precision: str,
    threads: int | None = None,
    prepare: Callable[[openvino.Model], object] | None = None,
) -> openvino.CompiledModel:
    """Compile an exported model, for one picture at a time.

    Args:
        path: The model's ``.xml``, with its ``.bin`` beside it, or ``.onnx``.
        device: OpenVINO's name of a device, for example ``"CPU"``.
        mode: ``"latency"`` or ``"throughput"``.
        precision: ``"f32"``, ``"bf16"``, or ``"auto"`` for OpenVINO's choice.
        threads: How many threads of a CPU to use; None for OpenVINO's choice, which is all of them.
        prepare: What is done to the model before, in place.

    Raises:
        ValueError: If :func:`read_model` cannot read it or the device cannot run it.
    """
    core = openvino.Core()
    model = read_model(path, core)
    config: dict[str, str | int] = {"PERFORMANCE_HINT": mode.upper()}
    if precision != "auto":
        config["INFERENCE_PRECISION_HINT"] = precision
    if threads and device == "CPU":
        config["INFERENCE_NUM_THREADS"] = threads
    try:
        # Pictures come one by one, and OpenVINO fuses operations of known sizes alone.
        shape = model.input().partial_shape
        shape[0] = 1
        model.reshape(shape)
        if prepare:
            prepare(model)
        return core.compile_model(model, device, config)
    except RuntimeError as error:
        msg = f"cannot run {path} on {device}: this machine has {core.available_devices} ({reason(error)})"
        raise ValueError(msg) from error


def score_threshold(path: Path) -> float:
    """Return the score above which an exported model says anomalous, a constant of the graph.

    Raises:
        ValueError: If the model decides in another way.
    """
    threshold = threshold_in(openvino.Core().read_model(path), "pred_label")
    if threshold is None:
        msg = f"{path} does not compare its score with a number, so means cannot be judged: give --threshold"
        raise ValueError(msg)
    return threshold


def threshold_in(model: openvino.Model, output: str) -> float | None:
    """Return the number above which a graph's ``pred_label`` or ``pred_mask`` is true; None if it decides otherwise."""
    decision = _decision(model, output)
    return float(decision[1].get_data().item()) if decision else None


def judge_by(model: openvino.Model, output: str, threshold: float) -> bool:
    """Make a graph's ``pred_label`` or ``pred_mask`` true above another number; False if it decides otherwise."""
    decision = _decision(model, output)
    if decision:
        limit = decision[0].input(1)
        limit.replace_source_output(opset13.constant(threshold, limit.get_element_type()).output(0))
    return decision is not None


def _decision(model: openvino.Model, output: str) -> tuple[openvino.Node, openvino.Node] | None:
    """Return where a graph compares, and the constant that it compares with."""

    def first(node: openvino.Node, wanted: str) -> openvino.Node | None:
        while node.get_type_name() != wanted and node.get_input_size():
            node = node.input_value(0).get_node()  # through conversions of type and shape
        return node if node.get_type_name() == wanted else None

    verdict = first(model.output(output).get_node(), "Greater")
    constant = first(verdict.input_value(1).get_node(), "Constant") if verdict else None
    return (verdict, constant) if verdict and constant else None


def noted(frames: Iterable[Frame], read: deque[str]) -> Iterator[Frame]:
    """Pass on frames, and note their names: of those that are lost on the way there will be no result."""
    for name, image in frames:
        read.append(name)
        yield name, image


def average(results: Iterable[Result], past_frames: int, read: deque[str] | None = None) -> Iterator[Result]:
    """Give results the mean over their own score and those of the frames before it.

    A frame without a result is missing from the means that it belongs to, as in training: no older one takes its place.

    Args:
        results: In the order of the frames; those of another folder are another video, which begins anew.
        past_frames: Over how many frames a score is averaged, its own the last; the first ones average what there is.
            1 leaves results as they are.
        read: Names of all frames by now, of which those up to a result's are taken away. Without it the frames of a
            stream tell what is missing by their numbers, which are their names.
    """
    recent: deque[float | None] = deque(maxlen=past_frames)
    before = ""
    for result in results:
        lost = _lost(before, result.name, read)
        if past_frames == 1:
            yield result
            continue
        if result.name.rpartition("/")[0] != before.rpartition("/")[0]:
            recent.clear()
        recent.extend([None] * min(lost, past_frames))
        recent.append(result.pred_score)
        scores = [score for score in recent if score is not None]
        before = result.name
        yield replace(result, averaged_score=sum(scores) / len(scores))


def _lost(before: str, name: str, read: deque[str] | None) -> int:
    """Return how many frames were lost between these two."""
    if read is None:
        return int(name) - int(before) - 1 if before.isdecimal() and name.isdecimal() else 0
    lost = 0
    while read and read.popleft() != name:
        lost += 1
    return lost


def judged(
    results: Iterable[Result], threshold: float | None, pixel_threshold: float | None = None
) -> Iterator[Result]:
    """Pass on results, with verdicts and masks by the user's own thresholds where there are any."""
    for result in results:
        if threshold is not None:
            result.pred_label = result.scores[-1] > threshold
        if pixel_threshold is not None:
            result.pred_mask = result.anomaly_map > pixel_threshold
        yield result


def reason(error: Exception) -> str:
    """Return the last line of a message; OpenVINO's begin with places in its source."""
    return (str(error).strip() or repr(error)).splitlines()[-1]


def usable(
    frames: Iterable[Frame], shape: openvino.PartialShape, skip: Callable[[str, str], None]
) -> Iterator[tuple[str, Image]]:
    """Pass on the frames that the model can take, and report the others.

    Args:
        frames: Frames of a source.
        shape: The model's input ``(N, 3, H, W)``; H and W are fixed if it was exported with an input size.
        skip: Told the name of every other frame and what is wrong with it.
    """
    for name, image in frames:
        if isinstance(image, str):
            problem = image
        elif not shape.compatible(openvino.PartialShape([1, 3, *image.shape[:2]])):
            problem = f"is {image.shape}, the model takes {shape}: resize it, or export without an input size"
        else:
            yield name, image
            continue
        skip(name, problem)


def as_input(image: Image) -> NDArray[np.float32]:
    """Return an image as anomalib hands it to its graphs, to the bit: RGB in [0, 1], ``(1, 3, H, W)``."""
    planes = image[..., ::-1].transpose(2, 0, 1)[None].astype(np.float32, order="C")  # (1, 3, H, W)
    planes /= np.float32(255)
    return planes


def infer_requests(model: openvino.CompiledModel, mode: str) -> list[openvino.InferRequest]:
    """Make what :func:`infer` works with.

    Args:
        model: A compiled model.
        mode: ``"latency"`` for one request; ``"throughput"`` for as many as OpenVINO proposes and one more, so that as
            many are at work while a result is drawn.
    """
    number = 1 if mode == "latency" else 1 + model.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
    return [model.create_infer_request() for _ in range(number)]


def is_of_memory(error: Exception) -> bool:
    """Tell whether an error says that there is not enough memory, as numpy, OpenVINO and OpenCV say it."""
    return isinstance(error, MemoryError) or "alloc" in str(error).lower() or "memory" in str(error).lower()


def infer(
    requests: Iterable[openvino.InferRequest],
    images: Iterable[tuple[str, Image]],
    skip: Callable[[str, str], None] | None = None,
    inputs: Callable[[Image], dict[int, NDArray[Any]]] = lambda image: {0: as_input(image)},
) -> Iterator[Result]:
    """Run the model on images.

    Args:
        requests: Take the images in turn. A result is handed out once all of them are at work, so with one request no
            result waits for the next image.
        images: Names and images of a size that the model takes.
        skip: Told the name of an image that the model needs more memory for than there is, and that this is wrong with
            it; without, that ends the run.
        inputs: From an image, as soon as it came, to what the model takes, by number.

    Returns:
        Results, in the order of the images.

    Raises:
        RuntimeError: If OpenVINO fails.
    """
    # Not an AsyncInferQueue: its threads call back into Python. One that has yet to leave it as the model is deleted
    # waits for the interpreter, which waits for that thread, for ever (OpenVINO 2026.4.1).
    idle = deque(requests)
    started: deque[tuple[str, Image, openvino.InferRequest]] = deque()

    def fail(name: str, error: Exception) -> None:
        if not (skip and is_of_memory(error)):
            raise error
        skip(name, NO_MEMORY)

    def finish() -> Iterator[Result]:
        name, image, request = started.popleft()
        idle.append(request)
        try:
            request.wait()
            # Copies: the next image's outputs go into the same memory.
            values = {output: request.get_tensor(output).data.copy() for output in OUTPUTS}
        except (MemoryError, RuntimeError) as error:
            fail(name, error)
            return
        yield Result(
            name,
            image,
            pred_score=values["pred_score"].item(),
            pred_label=bool(values["pred_label"].item()),
            anomaly_map=values["anomaly_map"].squeeze(),
            pred_mask=values["pred_mask"].squeeze(),
        )

    try:
        for name, image in images:
            try:
                idle[0].start_async(inputs(image))
            except (MemoryError, RuntimeError) as error:
                fail(name, error)
                continue
            started.append((name, image, idle.popleft()))
            if not idle:
                yield from finish()
        while started:
            yield from finish()
    finally:
        for _, _, request in started:
            with suppress(RuntimeError):  # nobody asks for these any more
                request.wait()
