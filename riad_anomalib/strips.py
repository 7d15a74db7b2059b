"""A large picture in strips: where they lie, and which rows of each are kept. Standard library only."""

from typing import NamedTuple

OVERLAP = 128
"""Pixels of the network from a cut, on either side, that are seen and not kept."""


class Strip(NamedTuple):
    """Rows ``start`` to ``stop`` of a picture, seen at once, of which ``first`` to ``last`` are kept."""

    start: int
    stop: int
    first: int
    last: int


def strips(height: int, rows: int, multiple: int, overlap: int = OVERLAP) -> list[Strip]:
    """Lay strips over a picture.

    Convention: cuts are half-way through what two strips share, which is at least twice the overlap.

    Args:
        height: Rows of the picture.
        rows: Rows that a strip may have.
        multiple: What each strip's first row is a multiple of, for a network that halves sides again and again.
        overlap: Rows beside a cut that are seen and not kept, at least.

    Raises:
        ValueError: If a strip has room for nothing but its overlaps.

    Example:
        >>> for strip in strips(height=100, rows=50, multiple=8, overlap=10):
        ...     print(*strip)
        0 50 0 37
        24 74 37 65
        56 100 65 100
    """
    if height <= rows:
        return [Strip(0, height, 0, height)]
    step = (rows - 2 * overlap) // multiple * multiple
    if step < multiple:
        msg = (
            f"strips of {rows} rows are too narrow: {2 * overlap + multiple} are needed, of which {2 * overlap} overlap"
        )
        raise ValueError(msg)
    starts = list(range(0, height - rows, step))
    starts.append(-(-(height - rows) // multiple) * multiple)
    stops = [min(start + rows, height) for start in starts]
    cuts = [0, *((stop + after) // 2 for stop, after in zip(stops, starts[1:], strict=False)), height]
    return [Strip(*each) for each in zip(starts, stops, cuts, cuts[1:], strict=False)]
