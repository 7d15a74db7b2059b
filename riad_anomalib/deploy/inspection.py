"""Sub-command ``inspect``: its arguments, the way of the pictures through the stages, the summary."""

# ruff: noqa: T201  # a command prints

import argparse
import math
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import TextIO, TypeVar

import cv2

from riad_anomalib.report import Report

from . import thresholds
from .inference import average, infer, infer_requests, judged, load_model, reason, score_threshold, usable
from .output import open_output, present
from .sources import open_source
from .window import Window

ERROR, INTERRUPTED = 2, 130
"""Exit statuses; 1 is for pictures that were skipped or not drawn."""

Item = TypeVar("Item")


@dataclass
class Summary:
    """What a run did; ``results`` in seconds contain ``reading``, because results are what frames are read for."""

    seconds: dict[str, float] = field(default_factory=lambda: {"reading": 0.0, "results": 0.0, "total": 0.0})
    skipped: list[str] = field(default_factory=list)
    frames: int = 0
    anomalous: int = 0
    undrawn: int = 0
    threshold: str = ""
    """What threshold holds, where it is not the model's own."""

    def skip(self, name: str, problem: str) -> None:
        """Report a picture that cannot be used."""
        print(f"skipped: {name} {problem}", file=sys.stderr)
        self.skipped.append(name)

    def __str__(self) -> str:
        """Return numbers and rate, and the shares of the main loop's time, which add up to all of it."""
        reading, results, total = self.seconds.values()
        undrawn = f", {self.undrawn} not drawn" if self.undrawn else ""
        return (
            f"{self.frames} frames, {self.anomalous} anomalous, {len(self.skipped)} skipped{undrawn}; "
            f"{self.frames / total:.1f} frames/s in {total:.1f} s\n"
            f"time: {reading / total:.0%} capture, {(results - reading) / total:.0%} preparing and awaiting inference, "
            f"{(total - results) / total:.0%} drawing and output{chr(10) * bool(self.threshold)}{self.threshold}"
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


def number(text: str) -> float:
    """Return an argument's value; argparse says what came if it is none."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError
    return value


def _number_of(things: str, text: str) -> int:
    if not (text.isdecimal() and int(text)):
        msg = f"{text!r} is no number of {things}: give 1 or more"
        raise argparse.ArgumentTypeError(msg)
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m riad_anomalib.deploy",
        description="Inspect pictures with a model that anomalib exported to OpenVINO.",
        epilog="Exit status: 0 all done, 1 some pictures were skipped or not drawn, 2 an error, 130 stopped by Ctrl-C.",
    )
    add = parser.add_argument
    add("model", type=Path, help="the exported model, .xml (with its .bin beside it) or .onnx")
    add("source", help="folder of images, image, video, or a camera's number (./0 for a file of that name)")
    add("--output", metavar="DIR", help="write DIR/report.html, results.csv and a picture of every map")
    goods = "with --output: pictures in a sub-folder NAME are good, those in others defective; the report counts errors"
    add("--good", metavar="NAME", help=goods)
    add("--show", action="store_true", help="show the pictures in a window; q or Escape ends")
    units = (
        "call pictures with a score above X anomalous (default: the model's own, or what sub-command thresholds found)"
    )
    add("--threshold", type=number, metavar="X", help=units)
    modes = "one picture at a time, or as many as OpenVINO proposes (default: %(default)s)"
    add("--mode", choices=("latency", "throughput"), default="latency", help=modes)
    add("--device", default="CPU", help="OpenVINO's name of it (default: %(default)s)")
    past = "judge a video's frames by the mean score of N frames, its own the last (default: %(default)s)"
    add("--past-frames", type=partial(_number_of, "frames"), default=1, metavar="N", help=past)
    precisions = "f32 as the thresholds were found (default); auto: OpenVINO's choice, bf16 on some CPUs"
    add("--precision", choices=("f32", "bf16", "auto"), default="f32", help=precisions)
    cluster = parser.add_argument_group(
        "on a Ray cluster",
        "The source is a folder or a list of pictures, .txt with a path a line, or the URI of one, such as s3://; "
        "results go to DIR/results as Parquet.",
    )
    add = cluster.add_argument
    add("--cluster", metavar="ADDRESS", help="Ray's name of the cluster, auto on its machines; local for this machine")
    add("--overlays", action="store_true", help="also write a picture of every map, to DIR/overlays")
    cores = "cores of an actor, which has a model of its own (default: %(default)s)"
    add("--cores", type=partial(_number_of, "cores"), default=1, metavar="N", help=cores)
    return parser


def _again(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> str:
    """Return the command of this run up to the threshold."""
    words = ["python", "-m", "riad_anomalib.deploy"]
    for name, value in vars(arguments).items():
        if name in {"model", "source"}:
            words.append(str(value))
        elif name != "threshold" and value != parser.get_default(name):
            option = f"--{name.replace('_', '-')}"
            words += [option] if value is True else [option, str(value)]
    return shlex.join(words)


def _thresholds(arguments: argparse.Namespace) -> tuple[float | None, float | None, str]:
    """Return the thresholds of scores and of maps to judge by, and what to say of them.

    None is for the verdicts of the model, which are on each frame's own score, and for its masks.
    """
    found = thresholds.read(arguments.model)
    pixel = found.pixel if found else None
    if arguments.threshold is not None:
        return arguments.threshold, pixel, ""
    if found:
        return found.score, pixel, found.told(thresholds.file_of(arguments.model))
    return (score_threshold(arguments.model) if arguments.past_frames > 1 else None), None, ""


def _output(
    parser: argparse.ArgumentParser, arguments: argparse.Namespace, threshold: float | None
) -> tuple[TextIO, Report] | tuple[None, None]:
    if arguments.overlays or arguments.cores > 1:
        msg = "--overlays and --cores are for --cluster: leave them out, --output writes every map and takes all cores"
        raise ValueError(msg)
    if not arguments.output:
        if arguments.good:
            msg = "--good is for the report: give --output too"
            raise ValueError(msg)
        return None, None
    return open_output(
        Path(arguments.output),
        arguments.source,
        is_averaged=arguments.past_frames > 1,
        heading=f"Inspection of {arguments.source}",
        command=_again(parser, arguments),
        threshold=threshold,
        good=arguments.good,
    )


def _write(report: Report | None, summary: Summary, problem: str, *, is_cut_short: bool) -> str:
    """Write the page, which says what is missing, and return what is wrong."""
    if not report:
        return problem
    if problem or is_cut_short:
        report.notes.append(f"The run ended early, after {summary.frames} pictures{': ' * bool(problem)}{problem}.")
    if summary.threshold:
        report.notes.append(f"{summary.threshold[0].upper()}{summary.threshold[1:]}.")
    report.notes += [f"Skipped, because it cannot be read or has another size: {name}" for name in summary.skipped]
    try:
        report.write()
    except OSError as error:
        return problem or f"no page: {error}"
    return problem


def _on_a_cluster(arguments: argparse.Namespace, interrupted: threading.Event) -> int:
    try:
        from . import cluster  # noqa: PLC0415  # Ray is for those who have a cluster
    except ImportError as error:
        print(f"error: --cluster needs Ray: pip install 'riad-anomalib[cluster]' ({error})", file=sys.stderr)
        return ERROR
    try:
        problem, is_all = cluster.main(arguments, interrupted)
    except ValueError as error:
        problem = str(error)
    if problem:
        print(f"error: {problem}", file=sys.stderr)
        return ERROR
    return INTERRUPTED if interrupted.is_set() else int(not is_all)


def _on_this_machine(
    parser: argparse.ArgumentParser, arguments: argparse.Namespace, interrupted: threading.Event
) -> int:
    with ExitStack() as files:
        try:
            source = open_source(arguments.source)
            window = files.enter_context(closing(Window())) if arguments.show else None
            model = load_model(arguments.model, arguments.device, arguments.mode, arguments.precision)
            threshold, pixel_threshold, told = _thresholds(arguments)
            table, report = _output(parser, arguments, threshold)
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            return ERROR

        files.enter_context(table or nullcontext())

        def is_wanted(_: object = None) -> bool:
            return not (interrupted.is_set() or (window and not window.is_open))

        summary = Summary(threshold=told)
        frames = takewhile(is_wanted, timed(source, summary.seconds, "reading"))
        images = usable(frames, model.input(0).partial_shape, summary.skip)
        own_results = infer(infer_requests(model, arguments.mode), images)
        results = judged(average(own_results, arguments.past_frames), threshold, pixel_threshold)
        problem, start = "", time.perf_counter()
        try:
            for result in timed(results, summary.seconds, "results"):
                summary.undrawn += not present(result, table, report, window)
                summary.frames += 1
                summary.anomalous += result.pred_label
            if window and window.is_lost:
                problem = "the window is gone, perhaps with its display: use --output instead"
        except (OSError, RuntimeError, cv2.error) as error:
            problem = reason(error)
        summary.seconds["total"] = time.perf_counter() - start
        problem = _write(report, summary, problem, is_cut_short=not is_wanted())
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


def main(argv: Sequence[str]) -> int:
    """Inspect pictures from the command line and return the exit status."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    cv2.utils.logging.setLogLevel(0)  # of files that OpenCV cannot read, usable tells
    with _interruptible() as interrupted:
        if arguments.cluster:
            return _on_a_cluster(arguments, interrupted)
        return _on_this_machine(parser, arguments, interrupted)
