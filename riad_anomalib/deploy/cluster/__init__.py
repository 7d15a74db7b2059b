"""An archive of pictures on a Ray cluster: the same inference on many machines, results in Parquet.

Ray Data keeps an actor with a compiled model for so many cores, hands them blocks of paths and hands out again what a
lost worker or node had. Only the driver, which is this process, writes results: each block comes to it once, so no row
is lost or there twice, whatever was computed twice.
"""

from .driver import connected, inspect, main, num_actors
from .inspector import Inspector
from .pictures import find_pictures
from .places import Place
from .table import COLUMNS, Table

__all__ = [
    "COLUMNS",
    "Inspector",
    "Place",
    "Table",
    "connected",
    "find_pictures",
    "inspect",
    "main",
    "num_actors",
]
