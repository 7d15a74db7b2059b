"""Inspect pictures, a video or a camera with an exported model, on a machine without torch and anomalib.

    python -m riad_anomalib.deploy weights/openvino/model.xml pictures --output inspected

The data go source -> frames -> requests -> results -> overlays -> files, window and summary. Needs numpy, openvino and
OpenCV, headless or not: OpenCV only decodes, draws and encodes, the window is tkinter's. Nothing here is RIAD's own:
any image model that ``anomalib export`` writes with its post-processor will do.
"""

# ruff: noqa: T201  # a command prints

import argparse
import csv
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from itertools import count, takewhile
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import cv2
import numpy as np
import openvino
from numpy.typing import NDArray

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

IMAGE_SUFFIXES = {".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
"""The files that anomalib reads as images."""
OUTPUTS = ("pred_score", "pred_label", "anomaly_map", "pred_mask")
"""What anomalib's graphs with a post-processor return."""
PATIENCE = 5.0
"""Seconds without an answer after which a request is asked whether it failed."""
ERROR, INTERRUPTED = 2, 130
"""Exit statuses; 1 is for pictures that were skipped or not drawn."""

Item = TypeVar("Item")
Answer = dict[str, NDArray[Any]]
Image = NDArray[Any]
"""What OpenCV reads: uint8, ``(H, W, 3)``, blue first."""
Frame = tuple[str, Image | None]
"""A picture of the source by its name; None where it cannot be read."""


@dataclass
class Result:
    """What the model says of a picture; map, in [0, 1], and mask are ``(H, W)`` in the model's own size."""

    name: str
    image: Image
    pred_score: float
    pred_label: bool
    anomaly_map: NDArray[np.float32]
    pred_mask: NDArray[np.bool_]

    @property
    def verdict(self) -> str:
        """The label in words."""
        return "anomalous" if self.pred_label else "normal"


def open_source(source: str) -> Iterator[Frame]:
    """Find out what the source is and return its frames, named by their path in the folder or by their number.

    Args:
        source: A camera's number, or the path of an image, a video or a folder of images, sub-folders included.

    Raises:
        ValueError: If there is no such source, or nothing in it.
    """
    path = Path(source)
    if source.isdecimal():
        return _stream(int(source), f"camera {source} cannot be opened: is it connected, permitted and not in use?")
    if path.is_dir():
        paths = sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file())
        if not paths:
            msg = f"no images in {source}: it needs files that end in {', '.join(sorted(IMAGE_SUFFIXES))}"
            raise ValueError(msg)
        return (_read(file, path) for file in paths)
    if not path.is_file():
        msg = f"source {source} does not exist: give a folder, an image, a video or a camera's number"
        raise ValueError(msg)
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return iter([_read(path, path.parent)])
    return _stream(source, f"source {source} is neither an image nor a video that OpenCV can open: convert it")


def _read(path: Path, folder: Path) -> Frame:
    # A name in another encoding than the system's has surrogates, which cannot be printed.
    name = path.relative_to(folder).as_posix().encode(errors="replace").decode()
    # Unlike imread, imdecode refuses a JPEG that breaks off, and Windows' paths may have any letter. The camera's note
    # on orientation is ignored, as anomalib does. 16 bits become 8, where anomalib makes white of them.
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
        return name, cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except (OSError, cv2.error):  # the latter for an empty file
        return name, None


def _stream(source: str | int, problem: str) -> Iterator[Frame]:
    capture = cv2.VideoCapture(source)
    if not capture.isOpened():
        raise ValueError(problem)
    is_camera = isinstance(source, int)
    if is_camera:
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # or a model slower than the camera gets pictures of some frames ago

    def frames() -> Iterator[Frame]:
        for number in count():
            is_read, image = capture.read()
            # A video ends after its last frame; a camera, or a video with no frame at all, is broken.
            if is_read or is_camera or number == 0:
                yield f"{number:06}", image if is_read else None
            if not is_read:
                capture.release()
                return

    return frames()


def load_model(path: Path, device: str, mode: str, precision: str) -> openvino.CompiledModel:
    """Compile an exported model.

    Args:
        path: The model's ``.xml``, with its ``.bin`` beside it, or ``.onnx``.
        device: OpenVINO's name of a device, for example ``"CPU"``.
        mode: ``"latency"`` or ``"throughput"``.
        precision: ``"f32"``, ``"bf16"``, or ``"auto"`` for OpenVINO's choice.

    Raises:
        ValueError: If a file is missing, the model gives no verdict on pictures, or the device cannot run it.
    """
    if path.suffix not in {".xml", ".onnx"}:
        msg = f"model {path} is neither .xml nor .onnx: give the one that anomalib export wrote"
        raise ValueError(msg)
    for file in (path, path.with_suffix(".bin") if path.suffix == ".xml" else path):
        if not file.is_file():
            msg = f"model file {file} does not exist: give an .xml with its .bin beside it, or an .onnx"
            raise ValueError(msg)
    core = openvino.Core()
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
    config = {"PERFORMANCE_HINT": mode.upper()}
    if precision != "auto":
        config["INFERENCE_PRECISION_HINT"] = precision
    try:
        return core.compile_model(model, device, config)
    except RuntimeError as error:
        msg = f"cannot run {path} on {device}: this machine has {core.available_devices} ({reason(error)})"
        raise ValueError(msg) from error


def reason(error: Exception) -> str:
    """Return the last line of a message; OpenVINO's begin with places in its source."""
    return (str(error).strip() or repr(error)).splitlines()[-1]


def usable(frames: Iterable[Frame], shape: openvino.PartialShape, skipped: list[str]) -> Iterator[tuple[str, Image]]:
    """Pass on the frames that the model can take, and report the others.

    Args:
        frames: Frames of a source.
        shape: The model's input ``(N, 3, H, W)``; H and W are fixed if it was exported with an input size.
        skipped: Grows by the name of every other frame.
    """
    for name, image in frames:
        if image is None:
            problem = "cannot be read: it is damaged, no image or not permitted, or the camera has stopped"
        elif not shape.compatible(openvino.PartialShape([1, 3, *image.shape[:2]])):
            problem = f"is {image.shape}, the model takes {shape}: resize it, or export without an input size"
        else:
            yield name, image
            continue
        print(f"skipped: {name} {problem}", file=sys.stderr)
        skipped.append(name)


def as_input(image: Image) -> NDArray[np.float32]:
    """Return an image as anomalib hands it to its graphs, to the bit: RGB in [0, 1], ``(1, 3, H, W)``."""
    planes = image[..., ::-1].transpose(2, 0, 1)[None]  # (1, 3, H, W)
    return planes.astype(np.float32, order="C") / np.float32(255)


def infer(queue: openvino.AsyncInferQueue, images: Iterable[tuple[str, Image]], ahead: int) -> Iterator[Result]:
    """Run the model on images.

    Args:
        queue: The model's requests.
        images: Names and images of a size that the model takes.
        ahead: How many more images are started before a result is handed out. With 0 no result waits for the next
            image; with as many as there are requests, all of them work while a result is drawn.

    Returns:
        Results, in the order of the images.

    Raises:
        RuntimeError: If OpenVINO fails.
    """
    queue.set_callback(_hand_over)
    pending: deque[tuple[str, Image, Future[Answer]]] = deque()
    try:
        for name, image in images:
            answer: Future[Answer] = Future()
            queue.start_async({0: as_input(image)}, answer)  # waits until a request is free
            pending.append((name, image, answer))
            if len(pending) > ahead:
                yield _result(queue, *pending.popleft())
        while pending:
            yield _result(queue, *pending.popleft())
    finally:
        queue.wait_all()


def _hand_over(request: openvino.InferRequest, answer: "Future[Answer]") -> None:
    # Copies: the next image's outputs go into the same memory.
    answer.set_result({name: request.get_tensor(name).data.copy() for name in OUTPUTS})


def _result(queue: openvino.AsyncInferQueue, name: str, image: Image, answer: "Future[Answer]") -> Result:
    if not wait([answer], PATIENCE).done:
        queue.wait_all()  # a request that failed never calls back; this raises what was wrong
    values = answer.result(timeout=0)
    return Result(
        name,
        image,
        pred_score=values["pred_score"].item(),
        pred_label=bool(values["pred_label"].item()),
        anomaly_map=values["anomaly_map"].squeeze(),
        pred_mask=values["pred_mask"].squeeze(),
    )


def draw(result: Result) -> Image:
    """Return the image under the map's colours (blue 0, red 1) with the mask's outline, score and verdict."""
    height, width = result.image.shape[:2]
    heat = (cv2.resize(result.anomaly_map, (width, height)).clip(0, 1) * 255).astype(np.uint8)
    overlay: Image = cv2.addWeighted(result.image, 0.6, cv2.applyColorMap(heat, cv2.COLORMAP_JET), 0.4, 0)
    mask = cv2.resize(result.pred_mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
    outlines, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    scale, line, white = width / 500, 1 + width // 500, (255, 255, 255)
    cv2.drawContours(overlay, outlines, -1, white, line)
    overlay[: int(40 * scale)] //= 3  # a dark strip, for the text to stand out
    text, place = f"{result.pred_score:.3f} {result.verdict}", (int(10 * scale), int(28 * scale))
    cv2.putText(overlay, text, place, cv2.FONT_HERSHEY_SIMPLEX, scale, white, line, cv2.LINE_AA)
    return overlay


def _jpeg(image: Image) -> bytes:
    is_encoded, data = cv2.imencode(".jpg", image)
    if not is_encoded:
        height, width = image.shape[:2]
        msg = f"is {height}x{width}, of which OpenCV makes no JPEG: it has at most 65500 pixels a side"
        raise cv2.error(msg)
    return data.tobytes()


class Window:
    """A window with one picture, which its user closes as usual or by q or Escape.

    It has a process of its own, because the X library ends the process that loses its display.

    Raises:
        ValueError: If there is no tkinter or no display.
    """

    def __init__(self) -> None:
        context = get_context("spawn")  # a fork would share the threads and files of the run
        self._pipe, its_end = context.Pipe()
        self._process = context.Process(target=_serve, args=(its_end,), daemon=True)
        self._process.start()
        its_end.close()  # or the pipe would outlive the process
        try:
            problem, self._screen = self._pipe.recv()
        except EOFError:
            problem = "the window of --show ended before it opened: use --output instead"
        if problem:
            raise ValueError(problem)

    def close(self) -> None:
        """Close the window, whatever it is doing."""
        self._process.terminate()
        self._process.join()

    @property
    def is_open(self) -> bool:
        """Whether pictures can still be seen."""
        return self._process.is_alive()

    @property
    def is_lost(self) -> bool:
        """Whether something else than its user closed it."""
        return self._process.exitcode not in {None, 0}

    def show(self, overlay: Image) -> None:
        """Show a picture, smaller where the screen is; one that is closed shows nothing."""
        height, width = overlay.shape[:2]
        scale = min(1, 0.9 * self._screen[0] / height, 0.9 * self._screen[1] / width)  # room for title and task bar
        size = max(1, round(scale * width)), max(1, round(scale * height))  # a narrow strip stays visible
        _, picture = cv2.imencode(".ppm", cv2.resize(overlay, size, interpolation=cv2.INTER_AREA))
        try:
            self._pipe.send_bytes(picture.tobytes())
            self._pipe.recv()  # it is on the screen: the window does not lag behind
        except (EOFError, OSError):
            self._process.join()


def _serve(pipe: "Connection[object, object]") -> None:
    """Open the window, send a problem or the screen's size, then show and acknowledge what comes until it is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the run, which closes the window
    try:
        import tkinter as tk  # noqa: PLC0415  # only --show needs it, and not every Python has it
    except ImportError:
        msg = "--show needs tkinter: install it (Debian, Ubuntu: apt install python3-tk), or use --output instead"
        pipe.send((msg, None))
        return
    try:
        root = tk.Tk()
    except tk.TclError as error:
        pipe.send((f"--show needs a display ({error}): use --output instead", None))
        return
    is_open = True

    def close(_: object = None) -> None:
        nonlocal is_open
        is_open = False

    root.title("RIAD")
    root.protocol("WM_DELETE_WINDOW", close)
    root.bind("<q>", close)
    root.bind("<Escape>", close)
    photo = tk.PhotoImage(master=root)
    tk.Label(root, image=photo).pack()
    pipe.send(("", (root.winfo_screenheight(), root.winfo_screenwidth())))
    try:
        while is_open:
            root.update()
            if pipe.poll(0.02):
                photo.configure(data=pipe.recv_bytes())
                root.update()
                if is_open:
                    pipe.send(None)
    except (tk.TclError, EOFError, OSError):  # another program destroyed the window, or the run is gone
        sys.exit(1)


def open_table(output: Path, source: str) -> TextIO:
    """Make the output folder and begin its ``results.csv``.

    Raises:
        ValueError: If the folder lies in the source or cannot be written.
    """
    if output.resolve().is_relative_to(Path(source).resolve()):
        msg = f"output {output} lies in the source, where the next run would take overlays for pictures: move it"
        raise ValueError(msg)
    try:
        output.mkdir(parents=True, exist_ok=True)
        table = (output / "results.csv").open("w", newline="", encoding="utf-8", buffering=1)  # a line at a time
    except OSError as error:
        msg = f"output {output} cannot be written ({error.strerror}): give another folder"
        raise ValueError(msg) from error
    csv.writer(table).writerow(("name", "score", "verdict"))
    return table


def present(result: Result, output: Path | None, table: TextIO | None, window: Window | None) -> bool:
    """Print a result, and write and show it where that is asked for.

    Returns:
        False if OpenCV could not draw or encode the picture. The result stands all the same.

    Raises:
        OSError: If it cannot be written.
    """
    print(f"{result.name}  {result.pred_score:.3f}  {result.verdict}", flush=True)
    if table:
        csv.writer(table).writerow((result.name, f"{result.pred_score:.6f}", result.verdict))
    if not (output or window):
        return True
    try:
        overlay = draw(result)
        if window:
            window.show(overlay)
        if output:
            path = output / f"{result.name}.jpg"  # after the old suffix: there may be an a.png and an a.jpg
            picture = _jpeg(overlay)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture)
    except cv2.error as error:
        print(f"not drawn: {result.name} {reason(error)}", file=sys.stderr)
        return False
    return True


@dataclass
class Summary:
    """What a run did; ``results`` in seconds contain ``reading``, because results are what frames are read for."""

    seconds: dict[str, float] = field(default_factory=lambda: {"reading": 0.0, "results": 0.0, "total": 0.0})
    skipped: list[str] = field(default_factory=list)
    frames: int = 0
    anomalous: int = 0
    undrawn: int = 0

    def __str__(self) -> str:
        """Return numbers and rate, and the shares of the main loop's time, which add up to all of it."""
        reading, results, total = self.seconds.values()
        undrawn = f", {self.undrawn} not drawn" if self.undrawn else ""
        return (
            f"{self.frames} frames, {self.anomalous} anomalous, {len(self.skipped)} skipped{undrawn}; "
            f"{self.frames / total:.1f} frames/s in {total:.1f} s\n"
            f"time: {reading / total:.0%} capture, {(results - reading) / total:.0%} preparing and awaiting inference, "
            f"{(total - results) / total:.0%} drawing and output"
        )


def timed(items: Iterator[Item], seconds: dict[str, float], stage: str) -> Iterator[Item]:
    """Pass on items and add the time that they took to ``seconds[stage]``."""
    while True:
        start = time.perf_counter()
        item = next(items, None)
        seconds[stage] += time.perf_counter() - start
        if item is None:
            return
        yield item


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C into an event, so that all can end in good order; the second one ends at once."""
    interrupted = threading.Event()

    def interrupt(*_: object) -> None:
        interrupted.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m riad_anomalib.deploy",
        description="Inspect pictures with a model that anomalib exported to OpenVINO.",
        epilog="Exit status: 0 all done, 1 some pictures were skipped or not drawn, 2 an error, 130 stopped by Ctrl-C.",
    )
    add = parser.add_argument
    add("model", type=Path, help="the exported model, .xml (with its .bin beside it) or .onnx")
    add("source", help="folder of images, image, video, or a camera's number (./0 for a file of that name)")
    add("--output", type=Path, metavar="DIR", help="write DIR/results.csv and a picture of every map")
    add("--show", action="store_true", help="show the pictures in a window; q or Escape ends")
    modes = "one picture at a time, or as many as OpenVINO proposes (default: %(default)s)"
    add("--mode", choices=("latency", "throughput"), default="latency", help=modes)
    add("--device", default="CPU", help="OpenVINO's name of it (default: %(default)s)")
    precisions = "f32 as the thresholds were found (default); auto: OpenVINO's choice, bf16 on some CPUs"
    add("--precision", choices=("f32", "bf16", "auto"), default="f32", help=precisions)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Inspect pictures from the command line and return the exit status."""
    arguments = _arguments(argv)
    cv2.utils.logging.setLogLevel(0)  # of files that OpenCV cannot read, usable tells
    with _interruptible() as interrupted, ExitStack() as files:
        try:
            source = open_source(arguments.source)
            window = files.enter_context(closing(Window())) if arguments.show else None
            model = load_model(arguments.model, arguments.device, arguments.mode, arguments.precision)
            table = files.enter_context(open_table(arguments.output, arguments.source)) if arguments.output else None
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            return ERROR

        def is_wanted(_: object = None) -> bool:
            return not (interrupted.is_set() or (window and not window.is_open))

        one_at_a_time = arguments.mode == "latency"
        queue = openvino.AsyncInferQueue(model, 1 if one_at_a_time else 0)  # 0: as many as OpenVINO proposes
        summary = Summary()
        frames = takewhile(is_wanted, timed(source, summary.seconds, "reading"))
        images = usable(frames, model.input(0).partial_shape, summary.skipped)
        results = infer(queue, images, ahead=0 if one_at_a_time else len(queue))
        problem, start = "", time.perf_counter()
        try:
            for result in timed(results, summary.seconds, "results"):
                summary.undrawn += not present(result, arguments.output, table, window)
                summary.frames += 1
                summary.anomalous += result.pred_label
            if window and window.is_lost:
                problem = "the window is gone, perhaps with its display: use --output instead"
        except (OSError, RuntimeError, cv2.error) as error:
            problem = reason(error)
        summary.seconds["total"] = time.perf_counter() - start
        if problem:
            print(f"error: stopped after {summary.frames} frames: {problem}", file=sys.stderr)
        try:
            print(summary, flush=True)
        except OSError:  # such as a pipe that head has closed
            print(summary, file=sys.stderr)
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python fails again when it exits
        if problem:
            return ERROR
        while window and summary.frames and is_wanted():  # the last picture stays
            time.sleep(0.02)
        return INTERRUPTED if interrupted.is_set() else int(bool(summary.skipped or summary.undrawn))


if __name__ == "__main__":
    sys.exit(main())
