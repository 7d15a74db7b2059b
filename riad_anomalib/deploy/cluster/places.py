"""Folders and files wherever pyarrow reaches them."""

import posixpath
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from pyarrow.fs import FileSystem, FileType, LocalFileSystem

from riad_anomalib.deploy.inference import reason


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
