"""The page: what it is told of each picture, the files beside it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath

import jinja2
import numpy as np
from numpy.typing import NDArray

from .drawing import Image, heat_over, jpeg, outline, shrunk
from .folder import FILES, RunFolder

LARGE, THUMBNAIL = 1600, 192
"""Most pixels a side."""
VIEWS = ("Map", "Picture", "Ground truth")
"""What can be seen of a picture; the last one only where somebody drew a mask."""


@dataclass(slots=True)
class Row:
    """A picture: what the model says, whether it is known to be defective, how many of ``VIEWS`` there are."""

    name: str
    score: float
    is_anomalous: bool | None
    is_defective: bool | None
    views: int = 0


class Report:
    """Gathers results and writes ``report.html``, which needs nothing but the folder beside it.

    Pictures are numbered there, so that no file name gets into a link.

    Args:
        folder: Where the page goes. One of an earlier run stays until this one is written, with its pictures.
        heading: What the page shows.
        command: How to run again, up to the threshold.
        threshold: The run's threshold, if it is known.
        good: Sub-folder of good pictures; those in other sub-folders are defective.
    """

    def __init__(
        self,
        folder: Path,
        heading: str,
        command: str,
        threshold: float | None = None,
        good: str | None = None,
    ) -> None:
        self.folder, self.heading, self.command, self.threshold, self.good = folder, heading, command, threshold, good
        self.rows: list[Row] = []
        self.notes: list[str] = []
        self.table: tuple[str, Sequence[str], Sequence[Sequence[str]]] | None = None
        """A heading, names of columns and rows of text, to stand above the pictures."""
        self.started = datetime.now().astimezone()
        self.run = RunFolder(folder)

    def add(self, name: str, score: float, is_anomalous: bool | None, is_defective: bool | None = None) -> None:
        """Take the result of the next picture.

        Args:
            name: What :func:`.names.name_of` makes of its path, of which all but the last part is its sub-folder.
            score: Its score.
            is_anomalous: The verdict, None where there is none: then the page has no threshold.
            is_defective: The truth, if it is known otherwise than by ``good``.
        """
        folders = PurePosixPath(name).parts[:-1]
        if self.good and folders:
            is_defective = self.good not in folders
        self.rows.append(Row(name, score, is_anomalous, is_defective))

    def show(
        self,
        image: Image,
        anomaly_map: NDArray[np.float32],
        pred_mask: NDArray[np.bool_],
        gt_mask: NDArray[np.bool_] | None = None,
    ) -> None:
        """Write what can be seen of the picture that was added last.

        Raises:
            cv2.error: If OpenCV cannot draw it.
            OSError: If it cannot be written.
        """
        image = shrunk(image, LARGE)
        overlay = heat_over(image, anomaly_map, pred_mask)
        pictures = [overlay, image]
        if gt_mask is not None:
            pictures.append(outline(image.copy(), gt_mask, (80, 255, 80)))
        files = {str(number): jpeg(picture) for number, picture in enumerate(pictures)}
        files["thumbnail"] = jpeg(shrunk(overlay, THUMBNAIL))
        for kind, data in files.items():
            self.run.picture(f"{len(self.rows) - 1}.{kind}.jpg", data)
        self.rows[-1].views = len(pictures)

    def adopt(self, other: "Report", number: int) -> None:
        """Take over a picture of another report, and its files, which that one then has no more.

        Args:
            other: Of another process, in a folder that this one reaches.
            number: Which of its pictures.
        """
        self.rows.append(other.rows[number])
        for file in other.run.files.glob(f"{number}.*.jpg"):
            file.replace(self.run.files / f"{len(self.rows) - 1}{file.name.removeprefix(str(number))}")

    def write(self) -> Path:
        """Write the page and return its path.

        Raises:
            OSError: If it cannot be written; the page of an earlier run then stays.
        """
        notes = list(self.notes)
        if self.good and all(row.is_defective is not False for row in self.rows):
            notes.append(f"No picture is in a sub-folder {self.good}: what is good is not known.")
            for row in self.rows:
                row.is_defective = None
        data = {
            "heading": self.heading,
            "command": self.command,
            "threshold": threshold_of(self.rows) if self.threshold is None else self.threshold,
            "started": self.started.isoformat(timespec="seconds"),
            "files": FILES,
            "views": VIEWS,
            "notes": notes,
            "rows": [
                (
                    row.name,
                    row.score if math.isfinite(row.score) else None,
                    row.is_anomalous,
                    row.is_defective,
                    row.views,
                )
                for row in self.rows
            ],
        }
        template = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
        # tojson leaves neither < nor > nor & nor any letter beyond ASCII: no name can end the script or be no text.
        page = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(template)
        return self.run.finish(page.render(data=data, table=self.table))


def threshold_of(rows: list[Row]) -> float | None:
    """Return a threshold that gives the verdicts of a run: anomalib's 0.5 if it does. None if there are no verdicts.

    Example:
        >>> threshold_of([Row("a", 0.2, False, None), Row("b", 0.7, True, None)])
        0.5
        >>> threshold_of([Row("a", 3.25, False, None), Row("b", 7.5, True, None)])
        3.25
    """
    if any(row.is_anomalous is None for row in rows):
        return None
    scored = [row for row in rows if math.isfinite(row.score)]
    if all((row.score > 0.5) == row.is_anomalous for row in scored):  # noqa: PLR2004  # where normalised scores part
        return 0.5
    normal = [row.score for row in scored if not row.is_anomalous]
    return max(normal) if normal else math.nextafter(min(row.score for row in scored), -math.inf)
