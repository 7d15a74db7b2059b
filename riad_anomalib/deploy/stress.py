"""Sub-command stress: how much of a line's changes an exported model bears, before it goes to the line."""

# ruff: noqa: T201  # a command prints

import argparse
import csv
import io
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from riad_anomalib.report import Image, Report
from riad_anomalib.report.folder import replace

from . import thresholds
from .changes import CHANGES
from .endings import ERROR
from .inference import Result, infer, infer_requests, judged, load_model, reason, usable
from .sources import open_source

INTERRUPTED, HEADER = 130, ("change", "strength", "false alarms", "found")
AS_IS = ("as is", None)

Setting = tuple[str, float | None]
"""A change by its name, and its strength; None of the pictures as they are."""


@dataclass
class Row:
    """What the model says of all pictures under one setting: anomalous ones, and how many there are."""

    false_alarms: int = 0
    good: int = 0
    found: int = 0
    defective: int = 0

    def add(self, is_anomalous: bool, is_good: bool) -> None:
        """Take a verdict."""
        if is_good:
            self.good, self.false_alarms = self.good + 1, self.false_alarms + is_anomalous
        else:
            self.defective, self.found = self.defective + 1, self.found + is_anomalous

    @property
    def rate(self) -> float:
        """Share of good pictures that are called anomalous."""
        return self.false_alarms / self.good if self.good else 0.0


@dataclass
class Table:
    """A row for each setting, and the rate of false alarms that a line bears."""

    most: float
    rows: dict[Setting, Row] = field(default_factory=lambda: {setting: Row() for setting in settings()})

    def limits(self) -> list[tuple[str, str]]:
        """Return of each change the first strength with more false alarms than the line bears, in words."""
        found = []
        for change in CHANGES:
            beyond = [s for s in change.strengths if self.rows[change.name, s].rate > self.most]
            found.append((change.name, f"from {beyond[0]:g} {change.unit} on" if beyond else "never"))
        return found

    def lines(self) -> list[list[str]]:
        """Return the table in words: change, strength, false alarms, found."""
        units = {change.name: change.unit for change in CHANGES}
        return [
            [
                name,
                "" if strength is None else f"{strength:g} {units[name]}",
                f"{row.rate:.2f} ({row.false_alarms} of {row.good})",
                f"{row.found / row.defective:.2f} ({row.found} of {row.defective})" if row.defective else "",
            ]
            for (name, strength), row in self.rows.items()
        ]


def settings() -> list[Setting]:
    """Return all settings: pictures as they are, and every change at its strengths from mild to strong."""
    return [AS_IS, *((change.name, strength) for change in CHANGES for strength in change.strengths)]


def changed(image: Image) -> Iterator[tuple[Setting, Image]]:
    """Return a picture under all settings, in their order."""
    yield AS_IS, image
    for change in CHANGES:
        for strength in change.strengths:
            yield (change.name, strength), change.apply(image, strength)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m riad_anomalib.deploy stress",
        description="Change pictures as a line will: lamp, position, optics and camera, 13 changes at three strengths "
        "each. Says of each how many good pictures an exported model then calls anomalous, and how many defective ones "
        "it still finds. Any model that anomalib exported.",
    )
    add = parser.add_argument
    add("model", type=Path, help="the model's .xml or .onnx")
    add("source", help="a folder of pictures; whichever the model was not trained on")
    add("--good", metavar="NAME", help="sub-folder of good pictures, the others are defective; without, all are good")
    add("--output", type=Path, metavar="DIR", help="write stress.csv and report.html there")
    rates = "share of good pictures that a line may lose (default: %(default)s)"
    add("--false-alarms", type=_share, default=0.1, metavar="SHARE", help=rates)
    units = (
        "call pictures with a score above X anomalous (default: the model's own, or what sub-command thresholds found)"
    )
    add("--threshold", type=float, metavar="X", help=units)
    add("--device", default="CPU", help="OpenVINO's name of it (default: %(default)s)")
    add("--precision", choices=("f32", "bf16", "auto"), default="f32", help="as for inspect (default: %(default)s)")
    return parser


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1:
        msg = f"{text} is no share of pictures in [0, 1)"
        raise argparse.ArgumentTypeError(msg)
    return value


def _results(arguments: argparse.Namespace, table: Table, skipped: dict[str, str]) -> Iterator[Result]:
    """Judge all pictures under all settings, fill the table, and pass on the results of the unchanged ones."""
    source = open_source(arguments.source)
    threshold = arguments.threshold
    if threshold is None and (found := thresholds.read(arguments.model)):
        threshold = found.score
    model = load_model(arguments.model, arguments.device, "throughput", arguments.precision)
    images = usable(source, model.input(0).partial_shape, skipped.__setitem__)
    order = settings()
    # Numbered, because one that fails on its way has no result.
    frames = ((f"{i}/{name}", shown) for name, image in images for i, (_, shown) in enumerate(changed(image)))
    requests = infer_requests(model, "throughput")
    for result in judged(infer(requests, frames, skipped.__setitem__), threshold):
        number, _, result.name = result.name.partition("/")
        setting = order[int(number)]
        is_good = not arguments.good or arguments.good in PurePosixPath(result.name).parts[:-1]
        table.rows[setting].add(result.pred_label, is_good)
        if setting == AS_IS:
            yield result


def _report(arguments: argparse.Namespace) -> Report:
    if arguments.output.resolve().is_relative_to(Path(arguments.source).resolve()):
        msg = f"output {arguments.output} lies in the source, where the next run would read it: move it"
        raise ValueError(msg)
    command = shlex.join(["python", "-m", "riad_anomalib.deploy", str(arguments.model), arguments.source])
    return Report(arguments.output, f"Stress of {arguments.source}", command, arguments.threshold, arguments.good)


def _check(arguments: argparse.Namespace, table: Table, skipped: dict[str, str]) -> None:
    """Refuse a table that says nothing.

    Raises:
        ValueError: If there is no good picture.
    """
    as_is = table.rows[AS_IS]
    if as_is.good:
        return
    if as_is.defective:
        msg = f"no picture lies in a sub-folder {arguments.good} of {arguments.source}: name that of the good ones"
    else:
        name, problem = next(iter(skipped.items()), ("every picture", "is missing"))
        msg = f"no picture of {arguments.source} can be used: {name} {problem}"
    raise ValueError(msg)


def _write(arguments: argparse.Namespace, table: Table, report: Report) -> None:
    names = ("change", "strength", "unit", "good", "false_alarms", "defective", "found")
    units = {change.name: change.unit for change in CHANGES}
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(names)
    for (name, strength), row in table.rows.items():
        writer.writerow([name, strength, units.get(name), row.good, row.false_alarms, row.defective, row.found])
    replace(arguments.output / "stress.csv", text.getvalue().encode())
    report.table = ("Under a line's changes", HEADER, table.lines())
    report.write()


def _print(arguments: argparse.Namespace, table: Table) -> None:
    lines = [list(HEADER), *table.lines()]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEADER))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    print(f"\nMore than {arguments.false_alarms:g} of the good pictures are lost:")
    for name, limit in table.limits():
        print(f"  {name.ljust(widths[0])}  {limit}")


def main(argv: Sequence[str]) -> int:
    """Stress a model from the command line and return the exit status."""
    arguments = _parser().parse_args(argv)
    table, skipped = Table(arguments.false_alarms), dict[str, str]()
    try:
        report = _report(arguments) if arguments.output else None
        for result in _results(arguments, table, skipped):
            print(f"\r{result.name[-60:]:60}", end="", file=sys.stderr, flush=True)
            if report:
                report.add(result.name, result.pred_score, result.pred_label)
                report.show(result.image, result.anomaly_map, result.pred_mask)
        print(file=sys.stderr)
        _check(arguments, table, skipped)
        if report:
            report.notes += [f"Skipped: {name} {problem}." for name, problem in skipped.items()]
            _write(arguments, table, report)
    except KeyboardInterrupt:
        return INTERRUPTED
    except (ValueError, OSError, RuntimeError) as error:
        print(f"error: {reason(error)}", file=sys.stderr)
        return ERROR
    _print(arguments, table)
    for name, problem in skipped.items():
        print(f"skipped: {name} {problem}", file=sys.stderr)
    return int(bool(skipped))
