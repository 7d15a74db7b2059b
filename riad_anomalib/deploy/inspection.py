"""Sub-command ``inspect``: its arguments, the way of the pictures through the stages, the summary."""

import argparse
import math
import shlex
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import TypeVar

import cv2

from riad_anomalib.report.names import name_of, readable

from . import thresholds
from .endings import ERROR, Ending, ending, say
from .inference import (
    average,
    infer_requests,
    judged,
    load_model,
    noted,
    reason,
    score_threshold,
    usable,
)
from .large import Limits, infer_within
from .output import OVERLAYS, Output, open_output, present, present_skipped
from .sources import Frame, open_source
from .window import Window

Item = TypeVar("Item")


@dataclass
class Summary:
    """What a run did; ``results`` in seconds contain ``reading``, because results are what frames are read for."""

    seconds: dict[str, float] = field(default_factory=lambda: {"reading": 0.0, "results": 0.0, "total": 0.0})
    skipped: list[str] = field(default_factory=list)
    """Pictures that cannot be used, and why."""
    problem: str = ""
    """What ended the source early."""
    frames: int = 0
    anomalous: int = 0
    undrawn: int = 0
    threshold: str = ""
    """What threshold holds, where it is not the model's own."""

    def skip(self, name: str, problem: str, output: Output | None, scores: int) -> None:
        """Report a picture that cannot be used, see :func:`present_skipped`."""
        self.skipped.append(f"{name} {problem}")
        present_skipped(name, problem, output, scores)

    def until_it_fails(self, frames: Iterator[Frame]) -> Iterator[Frame]:
        """Pass on frames until the source fails, so that what was begun with them is finished."""
        try:
            yield from frames
        except (OSError, RuntimeError, cv2.error) as error:
            self.problem = reason(error)

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
        epilog="Exit status: 0 all done, 1 some pictures were skipped or not drawn, 2 an error, 130 stopped by Ctrl-C, "
        "143 by SIGTERM, 129 by a terminal that was closed. Besides inspect, which needs not be said, there are the "
        "sub-commands package, stress and thresholds: each with --help.",
    )
    add = parser.add_argument
    add("model", type=Path, help="the exported model, .xml (with its .bin beside it) or .onnx")
    sources = "folder of images, image, video, a stream's URL, or a camera's number or device (./0 for a file named 0)"
    add("source", help=sources)
    add("--output", metavar="DIR", help="write DIR/report.html, results.csv and a picture of every map")
    kept = (
        "of which pictures to write map and picture, for DIR and the page (default: all; with --cluster none, where "
        "--overlays alone means all, and they go to DIR/overlays)"
    )
    add("--overlays", choices=OVERLAYS, help=kept)
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
    budget = (
        "MiB that the model may take for a picture in its own size, which is seen in overlapping strips where that is "
        "not enough for all of it (default: as much as it takes)"
    )
    add("--memory", type=partial(_number_of, "MiB"), metavar="MIB", help=budget)
    precisions = "f32 as the thresholds were found (default); auto: OpenVINO's choice, bf16 on some CPUs"
    add("--precision", choices=("f32", "bf16", "auto"), default="f32", help=precisions)
    cluster = parser.add_argument_group(
        "on a Ray cluster",
        "The source is a folder or a list of pictures, .txt with a path a line, or the URI of one, such as s3://; "
        "results go to DIR/results as Parquet.",
    )
    add = cluster.add_argument
    add("--cluster", metavar="ADDRESS", help="Ray's name of the cluster, auto on its machines; local for this machine")
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


def _output(parser: argparse.ArgumentParser, arguments: argparse.Namespace, threshold: float | None) -> Output | None:
    if arguments.cores > 1:
        msg = "--cores is for --cluster: leave it out, one machine takes all its cores"
        raise ValueError(msg)
    if not arguments.output:
        for option in ("good", "overlays"):
            if getattr(arguments, option):
                msg = f"--{option} is for the report: give --output too"
                raise ValueError(msg)
        return None
    return open_output(
        Path(arguments.output),
        arguments.source,
        is_averaged=arguments.past_frames > 1,
        overlays=arguments.overlays or "all",
        heading=f"Inspection of {readable(arguments.source)}",
        command=_again(parser, arguments),
        threshold=threshold,
        good=arguments.good and name_of(arguments.good),
    )


def _write(output: Output | None, summary: Summary, problem: str, *, is_cut_short: bool) -> str:
    """Write the page, which says what is missing, and return what is wrong."""
    if not output:
        return problem
    is_early, notes = bool(problem) or is_cut_short, output.report.notes
    if is_early:
        notes.append(f"The run ended early, after {summary.frames} pictures{': ' * bool(problem)}{problem}.")
    if output.overlays != "all":
        notes.append(f"--overlays {output.overlays}: other pictures are not shown.")
    if summary.threshold:
        notes.append(f"{summary.threshold[0].upper()}{summary.threshold[1:]}.")
    notes += [f"Skipped: {picture}" for picture in summary.skipped]
    return output.finish(problem, is_early=is_early)


def _on_a_cluster(arguments: argparse.Namespace, asked: Ending) -> int:
    if arguments.memory:
        say("error: --memory is for one machine: leave it out, or cut pictures before", is_error=True)
        return ERROR
    try:
        from . import cluster  # noqa: PLC0415  # Ray is for those who have a cluster
    except ImportError as error:
        say(f"error: --cluster needs Ray: pip install 'riad-anomalib[cluster]' ({error})", is_error=True)
        return ERROR
    try:
        problem, is_all = cluster.main(arguments, asked)
    except ValueError as error:
        problem = str(error)
    if problem:
        say(f"error: {problem}", is_error=True)
        return ERROR
    return asked.status or int(not is_all)


def _on_this_machine(parser: argparse.ArgumentParser, arguments: argparse.Namespace, asked: Ending) -> int:
    with ExitStack() as files:
        try:
            source = open_source(arguments.source)
            window = files.enter_context(closing(Window())) if arguments.show else None
            limits = Limits(arguments.memory) if arguments.memory else None
            prepare = limits.prepare if limits else None
            model = load_model(arguments.model, arguments.device, arguments.mode, arguments.precision, prepare=prepare)
            threshold, pixel_threshold, told = _thresholds(arguments)
            output = _output(parser, arguments, threshold)
        except ValueError as error:
            say(f"error: {error}", is_error=True)
            return ERROR

        if output:
            files.callback(output.table.close)

        def is_wanted(_: object = None) -> bool:
            return not (asked.is_set() or (window and not window.is_open))

        summary = Summary(threshold=told)
        skip = partial(summary.skip, output=output, scores=1 + (arguments.past_frames > 1))
        read: deque[str] = deque()
        frames = noted(takewhile(is_wanted, timed(summary.until_it_fails(source), summary.seconds, "reading")), read)
        images = usable(frames, model.input(0).partial_shape, skip)
        requests = infer_requests(model, arguments.mode)
        own_results = infer_within(limits, requests, images, skip)
        results = judged(average(own_results, arguments.past_frames, read), threshold, pixel_threshold)
        problem, start = "", time.perf_counter()
        try:
            for result in timed(results, summary.seconds, "results"):
                summary.undrawn += not present(result, output, window)
                summary.frames += 1
                summary.anomalous += result.pred_label
            problem = summary.problem
            if window and window.is_lost and not asked.is_set():  # a signal may be for its process too
                problem = "the window is gone, perhaps with its display: use --output instead"
        except (OSError, RuntimeError, MemoryError, cv2.error) as error:
            problem = reason(error)
        summary.seconds["total"] = time.perf_counter() - start
        problem = _write(output, summary, problem, is_cut_short=not is_wanted())
        if problem:
            say(f"error: stopped after {summary.frames} frames: {problem}", is_error=True)
        say(str(summary))
        if problem:
            return ERROR
        while window and summary.frames and is_wanted():  # the last picture stays
            time.sleep(0.02)
        return asked.status or int(bool(summary.skipped or summary.undrawn))


def main(argv: Sequence[str]) -> int:
    """Inspect pictures from the command line and return the exit status."""
    parser = _parser()
    # Alone, it means all, as it did before it took a word; argparse would take the next one.
    words = [
        f"{word}=all" if word == "--overlays" and following not in OVERLAYS else word
        for word, following in zip(argv, [*argv[1:], ""], strict=True)
    ]
    arguments = parser.parse_args(words)
    cv2.utils.logging.setLogLevel(0)  # of files that OpenCV cannot read, usable tells
    with ending() as asked:
        if arguments.cluster:
            return _on_a_cluster(arguments, asked)
        return _on_this_machine(parser, arguments, asked)
