"""The order of files by the numbers in their names."""

import re
from pathlib import PurePath


def in_order(file: PurePath) -> tuple[list[str], str, str]:
    """Return what sorts files as people count them: 2 before 10, a folder's own files before those of its sub-folders.

    Where numbers are padded with zeros this is the order of names, in which anomalib takes the frames of a video.

    Example:
        >>> [str(file) for file in sorted(map(PurePath, ["a/1.png", "10.png", "2.png", "02.png"]), key=in_order)]
        ['02.png', '2.png', '10.png', 'a/1.png']
    """
    *folders, name = (re.sub("[0-9]+", lambda number: number[0].zfill(20), part) for part in file.parts)
    return folders, name, file.name
