"""Where results go: overlays, a table, a page, the terminal and a window."""

# ruff: noqa: T201  # a command prints

import csv
import errno
import io
import os
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2

from riad_anomalib.report import Image, Report, heat_over, jpeg
from riad_anomalib.report.folder import FILES, PAGE, TABLE, UNFINISHED, synchronize
from riad_anomalib.report.names import Overlays, cell, readable

from .inference import Result, reason
from .window import Window

OVERLAYS = ("all", "anomalous", "none")
"""Of which pictures there are overlays, and pictures on the page."""


def draw(result: Result) -> Image:
    """Return the image under the map's colours (blue 0, red 1) with the mask's outline, score and verdict."""
    overlay = heat_over(result.image, result.anomaly_map, result.pred_mask)
    width = result.image.shape[1]
    scale, line, white = width / 500, 1 + width // 500, (255, 255, 255)
    overlay[: int(40 * scale)] //= 3  # a dark strip, for the text to stand out
    text, place = f"{result.scores[-1]:.3f} {result.verdict}", (int(10 * scale), int(28 * scale))
    cv2.putText(overlay, text, place, cv2.FONT_HERSHEY_SIMPLEX, scale, white, line, cv2.LINE_AA)
    return overlay


class Table:
    """``results.csv``, which grows by a line a picture; beside the one of an earlier run, until it takes its place.

    Args:
        folder: Where it goes.
        columns: Their names.

    Raises:
        OSError: If it cannot be written.
    """

    def __init__(self, folder: Path, *columns: str) -> None:
        self.final = folder / TABLE
        self.path = folder / (TABLE + UNFINISHED) if self.final.exists() else self.final
        self._size = 0
        self._file = self.path.open("wb")
        try:
            self.row(*columns)
        except OSError:
            self.remove()
            raise

    def row(self, *cells: str) -> None:
        """Write a line.

        Raises:
            OSError: If it cannot be written; then no part of it is there.
        """
        line = io.StringIO(newline="")
        csv.writer(line).writerow(cells)
        data = line.getvalue().encode()
        try:
            self._file.write(data)
            self._file.flush()
        except OSError:
            self.close()
            with suppress(OSError):
                os.truncate(self.path, self._size)
            raise
        self._size += len(data)

    def close(self) -> None:
        """Close it, whatever is in it."""
        with suppress(OSError):
            self._file.close()

    def finish(self) -> None:
        """Put it in its place.

        Raises:
            OSError: If that cannot be.
        """
        if not self._file.closed:
            synchronize(self._file)
        self.close()
        if self.path != self.final:
            self.path.replace(self.final)

    def remove(self) -> None:
        """Leave the earlier one alone."""
        self.close()
        with suppress(OSError):
            self.path.unlink(missing_ok=True)


@dataclass
class Output:
    """The output folder of a run."""

    table: Table
    report: Report
    overlays: str = "all"
    """One of ``OVERLAYS``."""
    paths: Overlays = field(default_factory=lambda: Overlays((PAGE, TABLE, FILES)))

    def finish(self, problem: str, *, is_early: bool) -> str:
        """Put page and table in the places of an earlier run's, and return what is wrong.

        Args:
            problem: What ended the run.
            is_early: Whether it ended early; if nothing was done, it then leaves an earlier page and table alone.
        """
        is_again = self.table.path != self.table.final or (self.report.folder / PAGE).exists()
        if is_early and is_again and not self.report.rows:
            self.report.run.discard()
            self.table.remove()
            return problem
        missing = "no page"
        try:
            self.report.write()
            missing = f"no {TABLE}"
            self.table.finish()
        except OSError as error:
            self.table.close()
            missing += f": {reason(error)}" * (reason(error) != problem)
            return f"{problem}; {missing}; what was done stands in {self.table.path}".removeprefix("; ")
        return problem


def check_place(output: Path, source: str) -> None:
    """Refuse an output folder whose overlays would lie among the pictures.

    Raises:
        ValueError: If it is such a one.
    """
    place, folder = output.resolve(), Path(source)
    if folder.is_dir():
        origin = folder.resolve()
        is_among = place.is_relative_to(origin)
        # The source lies in the output folder, where an overlay of what it has by its own path would lie in the source.
        is_among |= origin.is_relative_to(place) and (origin / origin.relative_to(place)).exists()
    else:
        is_among = folder.is_file() and place in {folder.parent.resolve(), folder.resolve().parent}
    if is_among:
        msg = f"output {output} lies in the source, where the next run would take overlays for pictures: move it"
        raise ValueError(msg)


def open_output(
    output: Path,
    source: str,
    is_averaged: bool = False,
    overlays: str = "all",
    **page: Any,  # noqa: ANN401
) -> Output:
    """Make the output folder, begin its ``results.csv`` and gather for its page.

    Args:
        output: The folder.
        source: Where the pictures come from.
        is_averaged: Whether the table has a column more, for averaged scores.
        overlays: One of ``OVERLAYS``.
        page: What :class:`Report` is to know.

    Raises:
        ValueError: If the folder lies in the source or cannot be written.
    """
    check_place(output, source)
    try:
        report = Report(output, **page)
        table = Table(output, "name", "score", *["averaged_score"] * is_averaged, "verdict", "reason")
    except OSError as error:
        msg = f"output {output} cannot be written ({error.strerror}): give another folder"
        raise ValueError(msg) from error
    return Output(table, report, overlays)


def present_skipped(name: str, problem: str, output: Output | None, scores: int) -> None:
    """Print that a picture cannot be used and why, and write it where that is asked for.

    Args:
        name: The picture.
        problem: What is wrong with it.
        output: Its table gets a row with a reason in the place of scores and verdict.
        scores: How many columns of them the table has.

    Raises:
        OSError: If it cannot be written.
    """
    print(readable(f"skipped: {name} {problem}"), file=sys.stderr)
    if output:
        output.table.row(cell(name), *[""] * scores, "", readable(problem))


def present(result: Result, output: Output | None, window: Window | None) -> bool:
    """Print a result, and write and show it where that is asked for.

    Returns:
        False if the picture could not be drawn, encoded or given a file. The result stands all the same.

    Raises:
        OSError: If nothing can be written.
    """
    print(result.name, *(f"{score:.3f}" for score in result.scores), result.verdict, sep="  ", flush=True)
    if output:
        output.table.row(cell(result.name), *(f"{score:.6f}" for score in result.scores), result.verdict, "")
        output.report.add(result.name, result.scores[-1], result.pred_label)
    is_kept = output and (output.overlays == "all" or (output.overlays == "anomalous" and result.pred_label))
    if not (is_kept or window):
        return True
    try:
        overlay = draw(result)
        if window:
            window.show(overlay)
        if output and is_kept:
            output.report.show(result.image, result.anomaly_map, result.pred_mask)
            output.report.run.overlay(output.paths.of(result.name), jpeg(overlay))
    except (OSError, MemoryError, cv2.error) as error:
        if ends_all(error):
            raise
        print(f"not drawn: {result.name} {readable(reason(error))}", file=sys.stderr)
        return False
    return True


def ends_all(error: Exception) -> bool:
    """Tell whether an error of one picture's overlay will be the next one's too: that of a full or failing disk."""
    return isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}
