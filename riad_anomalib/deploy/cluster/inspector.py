"""What an actor does with a block of pictures."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import openvino
import pyarrow as pa
import ray
from pyarrow.fs import FileSystem

from riad_anomalib.deploy.inference import Result, infer, infer_requests, judged, load_model, reason, usable
from riad_anomalib.deploy.output import draw, ends_all
from riad_anomalib.deploy.sources import NO_MEMORY, Frame, decoded
from riad_anomalib.report import jpeg
from riad_anomalib.report.names import Overlays, file_of

from .places import Place
from .table import COLUMNS

READERS = 8
"""Threads of an actor that wait for files while pictures are inspected."""


TRIES = 2
"""How often a picture may end its worker before it is left alone."""


class Attempts:
    """How often something was begun and not ended; one for all actors, because those die with what they know."""

    def __init__(self) -> None:
        self._begun: Counter[str] = Counter()

    def begin(self, what: str) -> int:
        """Count and return how often this was begun."""
        self._begun[what] += 1
        return self._begun[what]

    def end(self, what: str) -> None:
        """Forget what was ended."""
        del self._begun[what]


@dataclass(frozen=True)
class Overlaid:
    """Where overlays go, and of which pictures there are some."""

    folder: Place
    anomalous_alone: bool
    others: dict[str, str]
    """Where those go whose path :func:`file_of` gives to another picture too."""

    @classmethod
    def of(cls, pictures: Iterable[str], folder: Place, which: str) -> "Overlaid | None":
        """Find out where the overlays of pictures by these names go.

        Args:
            pictures: All of them: actors see blocks alone.
            folder: The folder of overlays.
            which: One of :data:`riad_anomalib.deploy.output.OVERLAYS`.
        """
        if which == "none":
            return None
        overlays = Overlays()
        others = {name: path for name in pictures if (path := overlays.of(name)) != file_of(name)}
        return cls(folder, which == "anomalous", others)

    def place(self, result: Result) -> Place | None:
        """Return where the overlay of a picture goes, None if there is to be none."""
        if self.anomalous_alone and not result.pred_label:
            return None
        return self.folder / (self.others.get(result.name) or file_of(result.name))


class Inspector:
    """What an actor does: inspects blocks of pictures with a model that it compiles once.

    Args:
        model: The files of the model by their paths in its folder; the first is the one to load.
        files: The file system of the pictures.
        overlays: Where overlays go, None for none.
        threshold: The user's own threshold, None for the model's verdicts.
        options: What :func:`load_model` takes.
        attempts: The actor :class:`Attempts`, None for no memory of what was begun.
        pixel_threshold: The user's own threshold of the map, None for the model's masks.
    """

    def __init__(
        self,
        model: dict[str, bytes],
        files: FileSystem,
        overlays: Overlaid | None,
        threshold: float | None,
        options: dict[str, Any],
        attempts: Any = None,  # noqa: ANN401
        pixel_threshold: float | None = None,
    ) -> None:
        self.files, self.overlays, self.attempts = files, overlays, attempts
        self.threshold, self.pixel_threshold = threshold, pixel_threshold
        self._model, self._options = model, options

    @cached_property
    def model(self) -> openvino.CompiledModel:
        """The compiled model; not made with the actor, because Ray tells nobody why it cannot make one."""
        cv2.utils.logging.setLogLevel(0)  # of files that OpenCV cannot read, the table tells
        with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            paths = [Path(folder, name) for name in self._model]
            for path, data in zip(paths, self._model.values(), strict=True):
                path.parent.mkdir(parents=True, exist_ok=True)
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
        names, paths = block["name"].to_pylist(), block["path"].to_pylist()
        try:
            with self._begun(f"block {names[0]}") as number:
                # One by one after a picture has ended a worker, or taken the memory of others: it costs only itself.
                rows = self._rows_or_none(names, paths) if number == 1 else None
                if rows is None:
                    rows = [row for name, path in zip(names, paths, strict=True) for row in self._alone(name, path)]
        except Exception as error:  # noqa: BLE001  # of whatever kind, Ray would wrap it in messages of its own
            rows = [{"reason": reason(error)}]
        return pa.Table.from_pylist(rows, COLUMNS)

    @contextmanager
    def _begun(self, what: str) -> Iterator[int]:
        """Tell how often this was begun and not ended, this time included."""
        if not self.attempts:
            yield 1
            return
        yield ray.get(self.attempts.begin.remote(what))
        self.attempts.end.remote(what)

    def _rows_or_none(self, names: list[str], paths: list[bytes]) -> list[dict[str, object]] | None:
        try:
            return self._rows(names, paths)
        except MemoryError:
            return None

    def _alone(self, name: str, path: bytes) -> list[dict[str, object]]:
        with self._begun(f"picture {name}") as number:
            if number > TRIES:
                problem = f"ended its worker {TRIES} times: it needs more memory than there is, or breaks a decoder"
                return [{"name": name, "reason": problem}]
            return self._rows_or_none([name], [path]) or [{"name": name, "reason": NO_MEMORY}]

    def _rows(self, names: list[str], paths: list[bytes]) -> list[dict[str, object]]:
        rows: list[dict[str, object]] = []

        def skip(name: str, problem: str) -> None:
            rows.append({"name": name, "reason": problem})

        with ThreadPoolExecutor(READERS) as readers:
            contents = readers.map(self._read, paths)
            frames = usable(self._frames(names, contents), self.model.input(0).partial_shape, skip)
            for result in judged(infer(self.requests, frames, skip), self.threshold, self.pixel_threshold):
                row = {"name": result.name, "score": result.pred_score, "verdict": result.verdict}
                rows.append(row | {"reason": self._draw(result)})
        return rows

    def _read(self, path: bytes) -> bytes | str:
        try:
            return Place(self.files, os.fsdecode(path)).read()
        except MemoryError:
            return NO_MEMORY
        except (OSError, ValueError, pa.ArrowException) as error:  # ValueError: a name with a zero byte
            return f"cannot be read: {reason(error)}"

    @staticmethod
    def _frames(names: list[str], contents: Iterable[bytes | str]) -> Iterator[Frame]:
        for name, data in zip(names, contents, strict=True):
            yield name, data if isinstance(data, str) else decoded(data)

    def _draw(self, result: Result) -> str | None:
        """Write the picture's overlay if that is asked for, and return why there is none."""
        if self.overlays and (place := self.overlays.place(result)):
            try:
                place.write(jpeg(draw(result)))
            except (OSError, MemoryError, pa.ArrowException, cv2.error) as error:
                if ends_all(error):
                    raise
                return f"not drawn: {reason(error)}"
        return None
