"""What the model says of pictures, in the order in which they come."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import openvino
from numpy.typing import NDArray

from riad_anomalib.report import Image

from .sources import Frame

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
    """Return the files of an exported model: an ``.xml`` with the ``.bin`` beside it, or an ``.onnx``.

    Raises:
        ValueError: If it is neither, or a file is missing.
    """
    if path.suffix not in {".xml", ".onnx"}:
        msg = f"model {path} is neither .xml nor .onnx: give the one that anomalib export wrote"
        raise ValueError(msg)
    files = [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]
    for file in files:
        if not file.is_file():
            msg = f"model file {file} does not exist: give an .xml with its .bin beside it, or an .onnx"
            raise ValueError(msg)
    return files


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
    path: Path, device: str, mode: str, precision: str, threads: int | None = None
) -> openvino.CompiledModel:
    """Compile an exported model.

    Args:
        path: The model's ``.xml``, with its ``.bin`` beside it, or ``.onnx``.
        device: OpenVINO's name of a device, for example ``"CPU"``.
        mode: ``"latency"`` or ``"throughput"``.
        precision: ``"f32"``, ``"bf16"``, or ``"auto"`` for OpenVINO's choice.
        threads: How many threads of a CPU to use; None for OpenVINO's choice, which is all of them.

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
        return core.compile_model(model, device, config)
    except RuntimeError as error:
        msg = f"cannot run {path} on {device}: this machine has {core.available_devices} ({reason(error)})"
        raise ValueError(msg) from error


def score_threshold(path: Path) -> float:
    """Return the score above which an exported model says anomalous, a constant of the graph.

    Raises:
        ValueError: If the model decides in another way.
    """

    def first(node: openvino.Node, wanted: str) -> openvino.Node | None:
        while node.get_type_name() != wanted and node.get_input_size():
            node = node.input_value(0).get_node()  # through conversions of type and shape
        return node if node.get_type_name() == wanted else None

    verdict = first(openvino.Core().read_model(path).output("pred_label").get_node(), "Greater")
    constant = first(verdict.input_value(1).get_node(), "Constant") if verdict else None
    if constant is None:
        msg = f"{path} does not compare its score with a number, so means cannot be judged: give --threshold"
        raise ValueError(msg)
    return float(constant.get_data().item())


def average(results: Iterable[Result], past_frames: int) -> Iterator[Result]:
    """Give results the mean over their own score and those of the frames before it.

    Args:
        results: In the order of the frames; those of another folder are another video, which begins anew.
        past_frames: Over how many frames a score is averaged, its own the last; the first ones average what there is.
            1 leaves results as they are.
    """
    if past_frames == 1:
        yield from results
        return
    recent: deque[float] = deque(maxlen=past_frames)
    video = None
    for result in results:
        folder = result.name.rpartition("/")[0]
        if folder != video:
            video = folder
            recent.clear()
        recent.append(result.pred_score)
        yield replace(result, averaged_score=sum(recent) / len(recent))


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
        if image is None:
            problem = "cannot be read: it is damaged, no image or not permitted, or the camera has stopped"
        elif not shape.compatible(openvino.PartialShape([1, 3, *image.shape[:2]])):
            problem = f"is {image.shape}, the model takes {shape}: resize it, or export without an input size"
        else:
            yield name, image
            continue
        skip(name, problem)


def as_input(image: Image) -> NDArray[np.float32]:
    """Return an image as anomalib hands it to its graphs, to the bit: RGB in [0, 1], ``(1, 3, H, W)``."""
    planes = image[..., ::-1].transpose(2, 0, 1)[None]  # (1, 3, H, W)
    return planes.astype(np.float32, order="C") / np.float32(255)


def infer_requests(model: openvino.CompiledModel, mode: str) -> list[openvino.InferRequest]:
    """Make what :func:`infer` works with.

    Args:
        model: A compiled model.
        mode: ``"latency"`` for one request; ``"throughput"`` for as many as OpenVINO proposes and one more, so that as
            many are at work while a result is drawn.
    """
    number = 1 if mode == "latency" else 1 + model.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
    return [model.create_infer_request() for _ in range(number)]


def infer(requests: Iterable[openvino.InferRequest], images: Iterable[tuple[str, Image]]) -> Iterator[Result]:
    """Run the model on images.

    Args:
        requests: Take the images in turn. A result is handed out once all of them are at work, so with one request no
            result waits for the next image.
        images: Names and images of a size that the model takes.

    Returns:
        Results, in the order of the images.

    Raises:
        RuntimeError: If OpenVINO fails.
    """
    # Not an AsyncInferQueue: its threads call back into Python. One that has yet to leave it as the model is deleted
    # waits for the interpreter, which waits for that thread, for ever (OpenVINO 2026.4.1).
    idle = deque(requests)
    started: deque[tuple[str, Image, openvino.InferRequest]] = deque()

    def finish() -> Result:
        name, image, request = started.popleft()
        request.wait()
        # Copies: the next image's outputs go into the same memory.
        values = {output: request.get_tensor(output).data.copy() for output in OUTPUTS}
        idle.append(request)
        return Result(
            name,
            image,
            pred_score=values["pred_score"].item(),
            pred_label=bool(values["pred_label"].item()),
            anomaly_map=values["anomaly_map"].squeeze(),
            pred_mask=values["pred_mask"].squeeze(),
        )

    try:
        for name, image in images:
            request = idle.popleft()
            request.start_async({0: as_input(image)})
            started.append((name, image, request))
            if not idle:
                yield finish()
        while started:
            yield finish()
    finally:
        for _, _, request in started:
            with suppress(RuntimeError):  # nobody asks for these any more
                request.wait()
