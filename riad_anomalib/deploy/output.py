"""Where results go: overlays, a table, a page, the terminal and a window."""

# ruff: noqa: T201  # a command prints

import csv
import errno
import sys
from pathlib import Path
from typing import Any, TextIO

import cv2

from riad_anomalib.report import Image, Report, heat_over, jpeg

from .inference import Result, reason
from .window import Window


def draw(result: Result) -> Image:
    """Return the image under the map's colours (blue 0, red 1) with the mask's outline, score and verdict."""
    overlay = heat_over(result.image, result.anomaly_map, result.pred_mask)
    width = result.image.shape[1]
    scale, line, white = width / 500, 1 + width // 500, (255, 255, 255)
    overlay[: int(40 * scale)] //= 3  # a dark strip, for the text to stand out
    text, place = f"{result.scores[-1]:.3f} {result.verdict}", (int(10 * scale), int(28 * scale))
    cv2.putText(overlay, text, place, cv2.FONT_HERSHEY_SIMPLEX, scale, white, line, cv2.LINE_AA)
    return overlay


def open_output(output: Path, source: str, is_averaged: bool = False, **page: Any) -> tuple[TextIO, Report]:  # noqa: ANN401
    """Make the output folder, begin its ``results.csv`` and gather for its page.

    Args:
        output: The folder.
        source: Where the pictures come from.
        is_averaged: Whether the table has a column more, for averaged scores.
        page: What :class:`Report` is to know.

    Raises:
        ValueError: If the folder lies in the source or cannot be written.
    """
    if output.resolve().is_relative_to(Path(source).resolve()):
        msg = f"output {output} lies in the source, where the next run would take overlays for pictures: move it"
        raise ValueError(msg)
    try:
        report = Report(output, **page)
        table = (output / "results.csv").open("w", newline="", encoding="utf-8", buffering=1)  # a line at a time
    except OSError as error:
        msg = f"output {output} cannot be written ({error.strerror}): give another folder"
        raise ValueError(msg) from error
    csv.writer(table).writerow(["name", "score", *["averaged_score"] * is_averaged, "verdict", "reason"])
    return table, report


def present_skipped(name: str, problem: str, table: TextIO | None, scores: int) -> None:
    """Print that a picture cannot be used and why, and write it where that is asked for.

    Args:
        name: The picture.
        problem: What is wrong with it.
        table: Gets a row with a reason in the place of scores and verdict.
        scores: How many columns of them the table has.

    Raises:
        OSError: If it cannot be written.
    """
    print(f"skipped: {name} {problem}", file=sys.stderr)
    if table:
        csv.writer(table).writerow([name, *[""] * scores, "", problem])


def present(result: Result, table: TextIO | None, report: Report | None, window: Window | None) -> bool:
    """Print a result, and write and show it where that is asked for.

    Returns:
        False if the picture could not be drawn, encoded or written by its name. The result stands all the same.

    Raises:
        OSError: If nothing can be written.
    """
    print(result.name, *(f"{score:.3f}" for score in result.scores), result.verdict, sep="  ", flush=True)
    if table:
        csv.writer(table).writerow([result.name, *(f"{score:.6f}" for score in result.scores), result.verdict, ""])
    if report:
        report.add(result.name, result.scores[-1], result.pred_label)
    if not (report or window):
        return True
    try:
        overlay = draw(result)
        if window:
            window.show(overlay)
        if report:
            report.show(result.image, result.anomaly_map, result.pred_mask)
            path = report.folder / f"{result.name}.jpg"  # after the old suffix: there may be an a.png and an a.jpg
            picture = jpeg(overlay)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture)
    except (OSError, MemoryError, cv2.error) as error:
        if ends_all(error):
            raise
        print(f"not drawn: {result.name} {reason(error)}", file=sys.stderr)
        return False
    return True


def ends_all(error: Exception) -> bool:
    """Tell whether an error of one picture's overlay will be the next one's too: that of a full or failing disk."""
    return isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}
