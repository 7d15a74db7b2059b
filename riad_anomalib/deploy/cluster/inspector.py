"""What an actor does with a block of pictures."""

import os
import posixpath
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import openvino
import pyarrow as pa
from pyarrow.fs import FileSystem

from riad_anomalib.deploy.inference import Result, infer, infer_requests, judged, load_model, reason, usable
from riad_anomalib.deploy.output import draw
from riad_anomalib.deploy.sources import Frame, decode
from riad_anomalib.report import jpeg

from .places import Place
from .table import COLUMNS

READERS = 8
"""Threads of an actor that wait for files while pictures are inspected."""


class Inspector:
    """What an actor does: inspects blocks of pictures with a model that it compiles once.

    Args:
        model: The files of the model by their names; the first is the one to load.
        files: The file system of the pictures.
        overlays: The folder of overlays, None for none.
        threshold: The user's own threshold, None for the model's verdicts.
        options: What :func:`load_model` takes.
        pixel_threshold: The user's own threshold of the map, None for the model's masks.
    """

    def __init__(
        self,
        model: dict[str, bytes],
        files: FileSystem,
        overlays: Place | None,
        threshold: float | None,
        options: dict[str, Any],
        pixel_threshold: float | None = None,
    ) -> None:
        self.pixel_threshold = pixel_threshold
        self.files, self.overlays, self.threshold = files, overlays, threshold
        self._model, self._options = model, options

    @cached_property
    def model(self) -> openvino.CompiledModel:
        """The compiled model; not made with the actor, because Ray tells nobody why it cannot make one."""
        cv2.utils.logging.setLogLevel(0)  # of files that OpenCV cannot read, the table tells
        with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            paths = [Path(folder, name) for name in self._model]
            for path, data in zip(paths, self._model.values(), strict=True):
                path.write_bytes(data)
            return load_model(paths[0], **self._options)

    @cached_property
    def requests(self) -> list[openvino.InferRequest]:
        """The model's requests."""
        return infer_requests(self.model, self._options["mode"])

    def __call__(self, block: pa.Table) -> pa.Table:
        """Return rows of ``COLUMNS``.

        Args:
            block: Names and paths.

        Returns:
            A row for each picture; or a single one without a name, with the reason to end the run. Raised, it would
            come to the driver within Ray's own messages.
        """
        try:
            rows = self._rows(block["name"].to_pylist(), block["path"].to_pylist())
        except (OSError, RuntimeError, ValueError, pa.ArrowException) as error:
            rows = [{"reason": reason(error)}]
        return pa.Table.from_pylist(rows, COLUMNS)

    def _rows(self, names: list[str], paths: list[bytes]) -> list[dict[str, object]]:
        rows: list[dict[str, object]] = []

        def skip(name: str, problem: str) -> None:
            rows.append({"name": name, "reason": problem})

        with ThreadPoolExecutor(READERS) as readers:
            frames = usable(
                self._frames(names, readers.map(self._read, paths), skip), self.model.input(0).partial_shape, skip
            )
            for result in judged(infer(self.requests, frames), self.threshold, self.pixel_threshold):
                row = {"name": result.name, "score": result.pred_score, "verdict": result.verdict}
                rows.append(row | {"reason": self._draw(result)})
        return rows

    def _read(self, path: bytes) -> bytes | Exception:
        try:
            return Place(self.files, os.fsdecode(path)).read()
        except (OSError, ValueError, pa.ArrowException) as error:  # ValueError: a name with a zero byte
            return error

    @staticmethod
    def _frames(
        names: list[str], contents: Iterable[bytes | Exception], skip: Callable[[str, str], None]
    ) -> Iterator[Frame]:
        for name, data in zip(names, contents, strict=True):
            if isinstance(data, Exception):  # not to be taken for a damaged picture: a network may be better tomorrow
                skip(name, f"cannot be read: {reason(data)}")
            else:
                yield name, decode(data)

    def _draw(self, result: Result) -> str | None:
        """Write the picture's overlay if that is asked for, and return why there is none."""
        if self.overlays:
            try:
                (self.overlays / overlay_name(result.name)).write(jpeg(draw(result)))
            except cv2.error as error:
                return f"not drawn: {reason(error)}"
        return None


def overlay_name(name: str) -> str:
    """Return where a picture's overlay lies in the folder of overlays, of which no name leads out."""
    return posixpath.normpath(f"/{name.replace('://', '/')}.jpg").lstrip("/")
