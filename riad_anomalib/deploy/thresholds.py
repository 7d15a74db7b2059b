"""Sub-command ``thresholds``: another threshold, from good pictures of the running line, in a file beside the model."""

# ruff: noqa: T201  # a command prints

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import cv2

from riad_anomalib.false_alarms import Promise, check_rate, threshold
from riad_anomalib.report.folder import replace
from riad_anomalib.report.names import readable

from .endings import ERROR
from .inference import infer, infer_requests, load_model, model_files, reason, score_threshold, usable
from .sources import open_source


@dataclass(frozen=True)
class Thresholds:
    """Thresholds in the place of an exported model's own, and where they are from."""

    score: float
    """Score above which a picture is anomalous."""
    pixel: float
    """Value of the map above which a pixel is."""
    asked: float
    pictures: int
    above: int
    source: str
    made: str
    model: str
    """Digest of the model's files: of another export scores are others."""

    @property
    def promise(self) -> Promise:
        """What the good pictures promise."""
        return Promise(self.asked, self.pictures, self.above)

    def told(self, file: Path) -> str:
        """Say which threshold holds, why, and how to be rid of it."""
        return (
            f"threshold {self.score:.4g} in the place of the model's own, from {self.promise} "
            f"({self.source}, {self.made}); delete {file} to go back"
        )


def file_of(model: Path) -> Path:
    """Return where the thresholds of an exported model lie: beside it."""
    return model.with_suffix(".thresholds.json")


def _digest(model: Path) -> str:
    digest = hashlib.sha256()
    for file in model_files(model):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def read(model: Path) -> Thresholds | None:
    """Return the thresholds that were found for an exported model, None if there are none.

    Raises:
        ValueError: If they cannot be read or are those of another export.
    """
    file = file_of(model)
    try:
        found = Thresholds(**json.loads(file.read_text(encoding="utf-8")))
        check_rate("asked", found.asked)
        f"{found.score:.4g} {found.pixel:.4g} {found.promise}"  # numbers
    except FileNotFoundError:
        return None
    except (OSError, TypeError, ValueError) as error:
        msg = f"{file} has no thresholds ({reason(error)}): find them again, or delete it"
        raise ValueError(msg) from error
    if found.model != _digest(model):
        msg = f"{file} has the thresholds of another export than {model}: find them again, or delete it"
        raise ValueError(msg)
    return found


def _write(found: Thresholds, file: Path) -> None:
    try:
        replace(file, (json.dumps(asdict(found), indent=2) + "\n").encode())
    except OSError as error:
        msg = f"{file} cannot be written ({error.strerror}): it belongs beside the model, so make that folder writable"
        raise ValueError(msg) from error


def _rate(text: str) -> float:
    try:
        return check_rate("--false-alarms", float(text))
    except ValueError:
        msg = f"{text!r} is no share of good pictures in (0, 1): give for example 0.01"
        raise argparse.ArgumentTypeError(msg) from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m riad_anomalib.deploy thresholds",
        description="Find the thresholds of an exported model anew, from good pictures of the running line.",
        epilog="They lie in model.thresholds.json beside the model, where inspect finds them; delete it to go back. "
        "Exit status: 0 all done, 1 some pictures were skipped, 2 an error: then nothing is changed.",
    )
    add = parser.add_argument
    add("model", type=Path, help="the exported model, .xml (with its .bin beside it) or .onnx")
    add("--good", required=True, metavar="DIR", help="pictures of normal products, not those of training")
    rate = "share of good pictures that may be called anomalous (default: %(default)s)"
    add("--false-alarms", type=_rate, default=0.01, metavar="RATE", help=rate)
    add("--device", default="CPU", help="OpenVINO's name of it (default: %(default)s)")
    precisions = "as the model will run (default: f32)"
    add("--precision", choices=("f32", "bf16", "auto"), default="f32", help=precisions)
    return parser


def _find(arguments: argparse.Namespace, skipped: list[str]) -> Thresholds:
    def skip(name: str, problem: str) -> None:
        print(readable(f"skipped: {name} {problem}"), file=sys.stderr)
        skipped.append(name)

    source = open_source(arguments.good)
    model = load_model(arguments.model, arguments.device, "throughput", arguments.precision)
    images = usable(source, model.input(0).partial_shape, skip)
    scores, peaks = [], []
    for result in infer(infer_requests(model, "throughput"), images, skip):
        scores.append(result.pred_score)
        peaks.append(float(result.anomaly_map.max()))
    try:
        score, promise = threshold(scores, arguments.false_alarms)
        pixel, _ = threshold(peaks, arguments.false_alarms)
    except ValueError as error:
        msg = f"no threshold from {arguments.good}: {error}"
        raise ValueError(msg) from error
    if score >= 1:  # anomalib's scale ends there
        at_end = sum(value >= 1 for value in scores)
        msg = (
            f"no threshold from {arguments.good}: {at_end} of {len(scores)} pictures have the highest score that the "
            "model can give, above which nothing is; train again with good pictures of this line"
        )
        raise ValueError(msg)
    return Thresholds(
        score,
        pixel,
        **asdict(promise),
        source=str(arguments.good),
        made=datetime.now().astimezone().isoformat(timespec="seconds"),
        model=_digest(arguments.model),
    )


def main(argv: Sequence[str]) -> int:
    """Find thresholds from the command line and return the exit status."""
    arguments = _parser().parse_args(argv)
    cv2.utils.logging.setLogLevel(0)  # of files that OpenCV cannot read, usable tells
    skipped: list[str] = []
    try:
        found = _find(arguments, skipped)
        file = file_of(arguments.model)
        _write(found, file)
    except (ValueError, RuntimeError, OSError) as error:
        print(f"error: {reason(error)}", file=sys.stderr)
        return ERROR
    try:
        own = f"{score_threshold(arguments.model):.4g}"
    except ValueError:
        own = "unknown"
    print(f"threshold {found.score:.4g}, the model's own is {own}; of pixels {found.pixel:.4g}")
    print(f"from {found.promise}")
    print(f"written to {file}, where inspect finds it; delete it to go back")
    return int(bool(skipped))
