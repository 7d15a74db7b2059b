"""An archive of pictures on a Ray cluster: the same inference on many machines, results in Parquet.

Ray Data keeps an actor with a compiled model for so many cores, hands them blocks of paths and hands out again what a
lost worker or node had. Only the driver, which is this process, writes results: each block comes to it once, so no row
is lost or there twice, whatever was computed twice.
"""

# ruff: noqa: T201  # a command prints

import argparse
import logging
import os
import posixpath
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import openvino
import pyarrow as pa
import ray
from pyarrow import compute, parquet
from pyarrow.fs import FileSelector, FileSystem, FileType, LocalFileSystem
from ray.data import ActorPoolStrategy, DataContext, from_arrow

from riad_anomalib.report import jpeg

from .inference import Result, infer, infer_requests, judged, load_model, model_files, read_model, reason, usable
from .output import draw
from .sources import IMAGE_SUFFIXES, Frame, decode, image_files, no_images, printable

COLUMNS = pa.schema([("name", pa.string()), ("score", pa.float32()), ("verdict", pa.string()), ("reason", pa.string())])
"""Those of ``results.csv``, and why a picture has no score or no overlay."""
BLOCK = 32
"""Most pictures that an actor gets at once, so what is done again after it died."""
PART = 10_000
"""Pictures in a file of the results; what a driver that dies takes along."""
READERS = 8
"""Threads of an actor that wait for files while pictures are inspected."""
PATIENCE = 60
"""Most seconds that a thread of Ray Data gets to end."""


@dataclass(frozen=True)
class Place:
    """A folder or file on a file system that pyarrow knows."""

    files: FileSystem
    path: str

    @classmethod
    def of(cls, text: str) -> "Place":
        """Find a path of this machine or a URI.

        Raises:
            ValueError: If pyarrow knows no such file system.
        """
        if "://" not in text:
            return cls(LocalFileSystem(), str(Path(text).resolve()))
        try:
            files, path = FileSystem.from_uri(text)
        except (OSError, pa.ArrowException) as error:
            msg = f"{text} is on no file system that pyarrow reads: give a path or a URI such as s3:// ({error})"
            raise ValueError(msg) from error
        return cls(files, path.rstrip("/"))

    def __truediv__(self, name: str) -> "Place":
        """Return what lies in this folder."""
        return Place(self.files, f"{self.path}/{name}")

    @property
    def kind(self) -> FileType:
        """Whether it is a file, a folder or nothing.

        Raises:
            ValueError: If the file system does not say.
        """
        try:
            return self.files.get_file_info(self.path).type
        except OSError as error:
            msg = f"{self.path} cannot be reached: is the address right and access permitted? ({reason(error)})"
            raise ValueError(msg) from error

    def read(self) -> bytes:
        """Return all of a file."""
        if isinstance(self.files, LocalFileSystem):  # pyarrow cannot open names that are not UTF-8
            return Path(self.path).read_bytes()
        with self.files.open_input_stream(self.path) as stream:
            data: bytes = stream.read()
            return data

    def write(self, data: bytes) -> None:
        """Write a file and the folder that it lies in."""
        self.files.create_dir(posixpath.dirname(self.path), recursive=True)
        with self.files.open_output_stream(self.path) as stream:
            stream.write(data)


def find_pictures(source: str) -> tuple[FileSystem, dict[str, str]]:
    """Return the source's file system and the path of each picture by its name.

    Args:
        source: A folder, sub-folders included, whose pictures are named by their path in it; or a list that ends in
            ``.txt``, with a path or URI a line, which is the name. There, a path counts from the list's folder.

    Raises:
        ValueError: If there is no such source, or nothing in it, or a picture twice.
    """
    place = Place.of(source)
    try:
        if place.kind is FileType.Directory:
            return place.files, dict(_folder(place))
        if place.kind is FileType.File and source.lower().endswith(".txt"):
            # Names in other encodings are bytes to Linux.
            lines = place.read().decode("utf-8-sig", "surrogateescape").splitlines()
            return _listed(source, place, [line.strip() for line in lines if line.strip()])
    except OSError as error:
        msg = f"source {source} cannot be read: {reason(error)}"
        raise ValueError(msg) from error
    msg = f"source {source} is neither a folder nor a list that ends in .txt: --cluster takes one of them, or its URI"
    raise ValueError(msg)


def _folder(folder: Place) -> Iterator[tuple[str, str]]:
    if isinstance(folder.files, LocalFileSystem):
        root = Path(folder.path)
        yield from ((printable(file.relative_to(root).as_posix()), str(file)) for file in image_files(root))
        return
    found = [
        file.path
        for file in folder.files.get_file_info(FileSelector(folder.path, recursive=True))
        if file.type is FileType.File and posixpath.splitext(file.path)[1].lower() in IMAGE_SUFFIXES
    ]
    if not found:
        raise ValueError(no_images(folder.path))
    yield from ((posixpath.relpath(path, folder.path), path) for path in sorted(found))


def _listed(source: str, place: Place, lines: list[str]) -> tuple[FileSystem, dict[str, str]]:
    if not lines:
        msg = f"list {source} is empty: write the path of a picture on each line"
        raise ValueError(msg)
    files, start = place.files, ""
    if "://" in lines[0]:
        # One file system for all: to ask for each picture's own may mean a request over the network.
        first = Place.of(lines[0])
        if not lines[0].endswith(first.path):
            msg = f"list {source}: {lines[0]} is more than a path: write URIs without ? and %"
            raise ValueError(msg)
        files, start = first.files, lines[0].removesuffix(first.path)
    folder = "" if start else posixpath.dirname(place.path)
    pictures: dict[str, str] = {}
    for line in lines:
        if not line.startswith(start) or ("://" in line and not start):
            msg = f"list {source}: {line} is on another file system than {lines[0]}: make a list for each"
            raise ValueError(msg)
        name = printable(line)
        if name in pictures:
            msg = f"list {source} has {name} twice: leave one of them"
            raise ValueError(msg)
        pictures[name] = posixpath.join(folder, line.removeprefix(start))
    return files, pictures


class Inspector:
    """What an actor does: inspects blocks of pictures with a model that it compiles once.

    Args:
        model: The files of the model by their names; the first is the one to load.
        files: The file system of the pictures.
        overlays: The folder of overlays, None for none.
        threshold: The user's own threshold, None for the model's verdicts.
        options: What :func:`load_model` takes.
    """

    def __init__(
        self,
        model: dict[str, bytes],
        files: FileSystem,
        overlays: Place | None,
        threshold: float | None,
        options: dict[str, Any],
    ) -> None:
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
            for result in judged(infer(self.requests, frames), self.threshold):
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
                (self.overlays / _overlay(result.name)).write(jpeg(draw(result)))
            except cv2.error as error:
                return f"not drawn: {reason(error)}"
        return None


def _overlay(name: str) -> str:
    """Return where a picture's overlay lies in the folder of overlays, of which no name leads out."""
    return posixpath.normpath(f"/{name.replace('://', '/')}.jpg").lstrip("/")


@dataclass
class Table:
    """Writes rows into numbered files, each of which is there when it is whole, and counts them."""

    folder: Place
    waiting: list[pa.Table] = field(default_factory=list)
    pictures: int = 0
    anomalous: int = 0
    skipped: int = 0
    undrawn: int = 0
    parts: int = 0

    def add(self, rows: pa.Table) -> None:
        """Take the rows of a block."""
        self.waiting.append(rows)
        for row in rows.to_pylist():
            is_scored = row["verdict"] is not None
            self.pictures += is_scored
            self.anomalous += row["verdict"] == "anomalous"
            self.skipped += not is_scored
            self.undrawn += is_scored and row["reason"] is not None
            if row["reason"] is not None:
                what = "skipped: " * (not is_scored)
                print(f"{what}{row['name']} {row['reason']}", file=sys.stderr)
        if sum(map(len, self.waiting)) >= PART:
            self.write()

    def write(self) -> None:
        """Write the rows that wait."""
        if not self.waiting:
            return
        sink = pa.BufferOutputStream()
        parquet.write_table(pa.concat_tables(self.waiting), sink)
        name = f"{self.parts:06}.parquet"
        unfinished = self.folder / f"_{name}"  # readers of Parquet pass over names that begin like this
        unfinished.write(sink.getvalue())
        unfinished.files.move(unfinished.path, (self.folder / name).path)
        self.parts += 1
        self.waiting = []
        print(self, flush=True)

    def __str__(self) -> str:
        """Return the numbers so far."""
        undrawn = f", {self.undrawn} not drawn" if self.undrawn else ""
        return f"{self.pictures} pictures, {self.anomalous} anomalous, {self.skipped} skipped{undrawn}"


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Connect to a cluster; ``local`` starts one of this machine alone and ends it.

    Raises:
        ValueError: If there is none.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it is the user who may send statistics, not this program
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # it calls an error what only might become one
    host, _, port = address.rpartition(":")
    try:
        if port.isdecimal() and "://" not in address:  # Ray would try for minutes
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:
        msg = f"no Ray cluster at {address}: start one with ray start, or say local for this machine ({reason(error)})"
        raise ValueError(msg) from error
    threads = set(threading.enumerate())
    try:
        context = DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what it raises is told once
        yield
    finally:
        # Ray Data does not wait for its threads, and one that asks for a block after shutdown ends the process. Its
        # prefetcher never ends, but asks for nothing where nothing is prefetched.
        for thread in set(threading.enumerate()) - threads:
            if thread.daemon and thread.name != "Prefetcher":
                thread.join(PATIENCE)
        ray.shutdown()


def num_actors(cores: int) -> int:
    """Return how many actors of so many cores the cluster has room for.

    Raises:
        ValueError: If there is none.
    """
    nodes = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    number = sum(node // cores for node in nodes)
    if not number:
        msg = (
            f"no node of the cluster has {cores} cores, the largest has {max(nodes)}: give --cores {max(nodes)} or less"
        )
        raise ValueError(msg)
    return number


def _check(arguments: argparse.Namespace) -> None:
    refused = {
        "--show": (arguments.show, "workers have no window"),
        "--good": (arguments.good, "there is no report"),
        "--past-frames": (arguments.past_frames > 1, "results come in any order"),
    }
    for option, (is_given, why) in refused.items():
        if is_given:
            msg = f"{option} means nothing with --cluster, {why}: leave it out"
            raise ValueError(msg)
    if not arguments.output:
        msg = "--cluster writes results to --output: give a folder or a URI"
        raise ValueError(msg)


def _new(output: str, source: str) -> Place:
    """Return where results will go.

    Raises:
        ValueError: If that lies in the source, or there are results already.
    """
    place = Place.of(output)
    if f"{place.path}/".startswith(f"{Place.of(source).path}/"):
        msg = f"output {output} lies in the source, where the next run would take overlays for pictures: move it"
        raise ValueError(msg)
    if (place / "results").kind is not FileType.NotFound:
        msg = f"output {output} has results already: give another folder"
        raise ValueError(msg)
    return place


def inspect(arguments: argparse.Namespace, interrupted: threading.Event) -> tuple[Table, str]:
    """Inspect an archive as the command's arguments say.

    Args:
        arguments: Those of the command.
        interrupted: Ends the run in good order.

    Returns:
        What was done, and what ended it early.

    Raises:
        ValueError: If an argument is wrong.
    """
    _check(arguments)
    files, pictures = find_pictures(arguments.source)
    output = _new(arguments.output, arguments.source)
    if arguments.overlays and len({*map(_overlay, pictures)}) < len(pictures):
        msg = f"list {arguments.source} has paths that differ only by ..: their overlays would be one, write them out"
        raise ValueError(msg)
    read_model(arguments.model, openvino.Core())
    model = {file.name: file.read_bytes() for file in model_files(arguments.model)}
    names = ("device", "mode", "precision")
    options = {name: getattr(arguments, name) for name in names} | {"threads": arguments.cores}
    with connected(arguments.cluster):
        actors = num_actors(arguments.cores)
        try:
            output.files.create_dir(output.path, recursive=True)
        except OSError as error:
            msg = f"output {arguments.output} cannot be written ({reason(error)}): give another folder"
            raise ValueError(msg) from error
        table = Table(output / "results")
        # Small enough for all actors to end at about the same time.
        size = max(1, min(BLOCK, len(pictures) // (4 * actors)))
        paths = pa.table({"name": [*pictures], "path": pa.array(map(os.fsencode, pictures.values()), pa.binary())})
        blocks = [paths.slice(start, size) for start in range(0, len(paths), size)]
        inspected = from_arrow(blocks).map_batches(
            Inspector,
            fn_constructor_args=(
                model,
                files,
                output / "overlays" if arguments.overlays else None,
                arguments.threshold,
                options,
            ),
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=arguments.cores,
            # One is the least: where a node is lost, the others must be able to give room to what it had begun.
            compute=ActorPoolStrategy(min_size=1, initial_size=min(actors, len(blocks))),
        )
        results: Any = inspected.iter_batches(prefetch_batches=0, batch_size=None, batch_format="pyarrow")
        problem = ""
        try:
            try:
                with closing(iter(results)) as parts:
                    for rows in parts:
                        failed = rows.filter(compute.field("name").is_null())
                        problem = failed["reason"][0].as_py() if len(failed) else ""
                        if problem or interrupted.is_set():
                            break
                        table.add(rows)
            finally:
                table.write()
            if not (problem or interrupted.is_set()):
                (table.folder / "_SUCCESS").write(f"{table}\n".encode())
        except (OSError, RuntimeError, ray.exceptions.RayError) as error:
            problem = reason(error)
    return table, problem


def main(arguments: argparse.Namespace, interrupted: threading.Event) -> tuple[str, bool]:
    """Inspect an archive, print what was done and return what ended it early, and whether all pictures were."""
    start = time.perf_counter()
    table, problem = inspect(arguments, interrupted)
    if problem:
        problem = f"stopped after {table.pictures + table.skipped} pictures: {problem}"
    seconds = time.perf_counter() - start
    print(f"{table}; {(table.pictures + table.skipped) / seconds:.1f} pictures/s in {seconds:.1f} s", flush=True)
    return problem, not (table.skipped or table.undrawn)
