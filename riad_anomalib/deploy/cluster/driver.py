"""The run: connects to the cluster, hands out blocks of pictures, takes in their results."""

import argparse
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from typing import Any

import openvino
import pyarrow as pa
import ray
from pyarrow import compute
from pyarrow.fs import FileType
from ray.data import ActorPoolStrategy, DataContext, from_arrow

from riad_anomalib.deploy import thresholds
from riad_anomalib.deploy.endings import say
from riad_anomalib.deploy.inference import model_files, read_model, reason

from .inspector import Attempts, Inspector, Overlaid
from .pictures import find_pictures
from .places import Place
from .table import Table

BLOCK = 32
"""Most pictures that an actor gets at once, so what is done again after it died."""
PATIENCE = 60
"""Most seconds that a thread of Ray Data gets to end."""


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
        handler = signal.getsignal(signal.SIGTERM)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        if callable(handler) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray's own ends this process at once
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


def _new(output: str, source: str, overlays: str) -> Place:
    """Return where results will go.

    Raises:
        ValueError: If that lies in the source, or there are results already.
    """
    place = Place.of(output)
    if f"{place.path}/".startswith(f"{Place.of(source).path}/"):
        msg = f"output {output} lies in the source, where the next run would take overlays for pictures: move it"
        raise ValueError(msg)
    for name in ["results", *["overlays"] * (overlays != "none")]:
        if (place / name).kind is not FileType.NotFound:
            msg = f"output {output} has {name} already: give another folder"
            raise ValueError(msg)
    return place


def _inspected(pictures: dict[str, str], actors: int, cores: int, inspector: tuple[object, ...]) -> Generator[pa.Table]:
    """Return the rows of pictures as blocks of them are done.

    Args:
        pictures: The path of each by its name.
        actors: How many there is room for.
        cores: Those of an actor.
        inspector: What an :class:`Inspector` is made with.
    """
    if not pictures:
        return
    # Small enough for all actors to end at about the same time.
    size = max(1, min(BLOCK, len(pictures) // (4 * actors)))
    paths = pa.table({"name": [*pictures], "path": pa.array(map(os.fsencode, pictures.values()), pa.binary())})
    blocks = [paths.slice(start, size) for start in range(0, len(paths), size)]
    inspected = from_arrow(blocks).map_batches(
        Inspector,
        fn_constructor_args=inspector,
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=cores,
        # One is the least: where a node is lost, the others must be able to give room to what it had begun.
        compute=ActorPoolStrategy(min_size=1, initial_size=min(actors, len(blocks))),
    )
    results: Any = inspected.iter_batches(prefetch_batches=0, batch_size=None, batch_format="pyarrow")
    with closing(iter(results)) as parts:
        yield from parts


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
    files, pictures, problems = find_pictures(arguments.source)
    which = arguments.overlays or "none"
    output = _new(arguments.output, arguments.source, which)
    read_model(arguments.model, openvino.Core())
    found = thresholds.read(arguments.model)
    threshold = arguments.threshold
    if found and threshold is None:
        threshold = found.score
        say(found.told(thresholds.file_of(arguments.model)))
    folder = arguments.model.parent
    model = {file.relative_to(folder).as_posix(): file.read_bytes() for file in model_files(arguments.model)}
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
        attempts = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Attempts).remote()
        overlays = Overlaid.of(pictures, output / "overlays", which)
        pixel_threshold = found.pixel if found else None
        inspector = model, files, overlays, threshold, options, attempts, pixel_threshold
        problem = ""
        try:
            try:
                table.skip(problems)
                with closing(_inspected(pictures, actors, arguments.cores, inspector)) as parts:
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
    say(f"{table}; {(table.pictures + table.skipped) / seconds:.1f} pictures/s in {seconds:.1f} s")
    return problem, not (table.skipped or table.undrawn)
