"""The folder of a run: what an earlier run left there stays whole until this one has ended, and then goes."""

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from .names import folded

PAGE, TABLE, FILES = "report.html", "results.csv", "report_files"
UNFINISHED = ".part"
"""Ends the name of what takes another's place when it is whole."""
OVERLAYS = "overlays.txt"
"""The overlays that a run wrote, a path a line, beside its page's pictures."""

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EIO}
"""How a write ends that has begun."""


def write(path: Path, data: bytes) -> None:
    """Write a file and its folder, and leave no part of it where that fails.

    Raises:
        OSError: If it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.write_bytes(data)
    except OSError as error:
        if error.errno in FULL:
            with suppress(OSError):
                path.unlink(missing_ok=True)
        raise


def replace(path: Path, data: bytes) -> None:
    """Put a file in the place of another one, which stays whole where that fails.

    Raises:
        OSError: If it cannot be written.
    """
    part = path.with_name(path.name + UNFINISHED)
    write(part, data)
    try:
        with part.open("rb+") as file:
            synchronize(file)
        part.replace(path)
    except OSError:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def synchronize(file: BinaryIO) -> None:
    """Wait until a file is on the disk; some file systems say only then that it is full."""
    file.flush()
    os.fsync(file.fileno())


class RunFolder:
    """Pictures, overlays and page of a run.

    Where there is a page already, the new one's pictures wait in a folder of their own. :meth:`finish` puts page and
    pictures in their places and removes the overlays that an earlier run wrote and this one did not: those that it
    listed, and nothing else.

    Args:
        path: The folder.

    Raises:
        OSError: If it cannot be written, or has folders where files will be.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        for name in (PAGE, TABLE):
            if (path / name).is_dir():
                raise IsADirectoryError(None, f"{name} is a folder there", str(path / name))
        waiting = path / (FILES + UNFINISHED)
        self._earlier = {*_listed(path / FILES), *_listed(waiting)}
        self._written: dict[str, str] = {}
        _clear(waiting)  # of a run that was killed
        self.files = waiting if (path / PAGE).exists() else path / FILES
        _clear(self.files)
        self.files.mkdir(parents=True, exist_ok=True)
        self._list(self._earlier)  # as long as they are there

    def picture(self, name: str, data: bytes) -> None:
        """Write a picture of the page."""
        write(self.files / name, data)

    def overlay(self, path: str, data: bytes) -> None:
        """Write an overlay and remember it.

        Args:
            path: Where it lies below the folder, as :class:`~.names.Overlays` says.
            data: The file's content.
        """
        self._list([path])
        self._written[folded(path)] = path
        write(self.path / path, data)

    def _list(self, paths: Iterable[str]) -> None:
        lines = "".join(f"{path}\n" for path in paths)
        if lines:
            with (self.files / OVERLAYS).open("a", encoding="utf-8") as file:
                file.write(lines)

    def finish(self, page: str) -> Path:
        """Write the page, put it and its pictures in the place of an earlier one's, and return its path.

        Raises:
            OSError: If that cannot be; then the earlier page stays as it is, and this one's pictures go.
        """
        target, final = self.path / PAGE, self.path / FILES
        part = target.with_name(PAGE + UNFINISHED)
        try:
            replace(part, page.encode())
            if self.files != final:
                old = self.path / f"{FILES}.old"
                _give_back(old, final)
                if final.exists():
                    final.replace(old)
                self.files.replace(final)
                self.files = final
                part.replace(target)
                _give_back(old, final)
            else:
                part.replace(target)
        except OSError:
            with suppress(OSError):
                part.unlink(missing_ok=True)
                if self.files != final:
                    _clear(self.files)
            raise
        self._remove_earlier()
        return target

    def discard(self) -> None:
        """Leave the earlier page alone."""
        with suppress(OSError):
            _clear(self.files)

    def _remove_earlier(self) -> None:
        for path in self._earlier - {*self._written.values()}:
            overlay = self.path / path
            same = self._written.get(folded(path))
            with suppress(OSError):
                if not overlay.parent.resolve().is_relative_to(self.path.resolve()):
                    continue
                if same and overlay.samefile(self.path / same):  # where A is a
                    continue
                overlay.unlink(missing_ok=True)
                for folder in overlay.parents:
                    if folder == self.path:
                        break
                    folder.rmdir()  # unless there is something else in it
        if self._earlier:
            with suppress(OSError):
                (self.files / OVERLAYS).unlink(missing_ok=True)
                self._list(self._written.values())


def _listed(files: Path) -> Iterator[str]:
    """Return the overlays that a run listed; of a list that somebody changed, what can be one."""
    try:
        lines = (files / OVERLAYS).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return
    for line in lines:
        path = Path(line)
        if line.endswith(".jpg") and not path.is_absolute() and ".." not in path.parts:
            yield line


def _clear(files: Path) -> None:
    """Remove a folder of pictures, but nothing that a run does not write there."""
    if files.is_dir():
        for file in [*files.glob("*.jpg"), files / OVERLAYS]:
            if file.name == OVERLAYS or file.name.partition(".")[0].isdecimal():
                file.unlink(missing_ok=True)
        with suppress(OSError):
            files.rmdir()


def _give_back(old: Path, files: Path) -> None:
    """Remove a folder of pictures that another one took the place of; what a user put there goes into that."""
    _clear(old)
    if old.is_dir():
        for file in old.iterdir():
            file.replace(files / file.name)
        old.rmdir()
