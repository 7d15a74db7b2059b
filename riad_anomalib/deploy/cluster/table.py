"""Rows of results into files of Parquet."""

# ruff: noqa: T201  # a command prints

import sys
from dataclasses import dataclass, field

import pyarrow as pa
from pyarrow import parquet

from riad_anomalib.report.names import readable

from .places import Place

COLUMNS = pa.schema([("name", pa.string()), ("score", pa.float32()), ("verdict", pa.string()), ("reason", pa.string())])
"""Those of ``results.csv``, and why a picture has no score or no overlay."""
PART = 10_000
"""Pictures in a file of the results; what a driver that dies takes along."""


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
                print(readable(f"{what}{row['name']} {row['reason']}"), file=sys.stderr)
        if sum(map(len, self.waiting)) >= PART:
            self.write()

    def skip(self, problems: dict[str, str]) -> None:
        """Take pictures that cannot be used, with what is wrong with each by its name."""
        if problems:
            rows = [{"name": name, "reason": problem} for name, problem in problems.items()]
            self.add(pa.Table.from_pylist(rows, COLUMNS))

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
