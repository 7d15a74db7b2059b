"""Which pictures a source has: a folder's, or those of a list."""

import posixpath
from collections.abc import Iterator
from pathlib import Path

from pyarrow.fs import FileSelector, FileSystem, FileType, LocalFileSystem

from riad_anomalib.deploy.inference import reason
from riad_anomalib.deploy.sources import IMAGE_SUFFIXES, image_files, no_images, other_kind
from riad_anomalib.report.names import name_of

from .places import Place


def find_pictures(source: str) -> tuple[FileSystem, dict[str, str], dict[str, str]]:
    """Return the source's file system, the path of each picture by its name, and why others cannot be used.

    Args:
        source: A folder, sub-folders included, whose pictures are named by their path in it; or a list that ends in
            ``.txt``, with a path or URI a line, which is the name. There, a path counts from the list's folder.

    Raises:
        ValueError: If there is no such source, or nothing in it, or a picture twice.
    """
    place = Place.of(source)
    try:
        if place.kind is FileType.Directory:
            files, found = place.files, list(_folder(place))
        elif place.kind is FileType.File and source.lower().endswith(".txt"):
            # Names in other encodings are bytes to Linux.
            text = place.read().decode("utf-8-sig", "surrogateescape")
            lines = [line.strip(" \t\r") for line in text.split("\n")]  # other ends of lines may be in names
            files, found = _listed(source, place, [line for line in lines if line])
        else:
            wanted = "--cluster takes one of them, or its URI"
            msg = f"source {source} is neither a folder nor a list that ends in .txt: {wanted}"
            raise ValueError(msg)
    except OSError as error:
        msg = f"source {source} cannot be read: {reason(error)}"
        raise ValueError(msg) from error
    usable = {name: path for name, path, problem in found if not problem}
    return files, usable, {name: problem for name, _, problem in found if problem}


def _suffix(path: str) -> str:
    return posixpath.splitext(path)[1].lower()


def _folder(folder: Place) -> Iterator[tuple[str, str, str]]:
    """Return name, path and problem of each picture."""
    if isinstance(folder.files, LocalFileSystem):
        root = Path(folder.path)
        for file, problem in image_files(root).items():
            yield name_of(file.relative_to(root).as_posix()), str(file), problem
        return
    found = [
        (file.path, other_kind(_suffix(file.path)))
        for file in folder.files.get_file_info(FileSelector(folder.path, recursive=True))
        if file.type is FileType.File
    ]
    pictures = [(path, problem) for path, problem in found if problem or _suffix(path) in IMAGE_SUFFIXES]
    if not pictures:
        raise ValueError(no_images(folder.path))
    yield from ((name_of(posixpath.relpath(path, folder.path)), path, problem) for path, problem in sorted(pictures))


def _listed(source: str, place: Place, lines: list[str]) -> tuple[FileSystem, list[tuple[str, str, str]]]:
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
        name = name_of(line)
        if name in pictures:
            msg = f"list {source} has {name} twice: leave one of them"
            raise ValueError(msg)
        pictures[name] = posixpath.join(folder, line.removeprefix(start))
    return files, [(name, path, other_kind(_suffix(path))) for name, path in pictures.items()]
