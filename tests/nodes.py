"""What the tests of clusters share: two nodes of Ray on this machine, and who works there."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

OPTIONS: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
"""Of a node; the least memory for objects that Ray takes."""


@contextmanager
def two_nodes() -> Iterator[Any]:
    """Two nodes with a core each."""
    from ray.cluster_utils import Cluster  # noqa: PLC0415  # the search for doctests imports this file without Ray too

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        made = Cluster(initialize_head=True, head_node_args=OPTIONS)
        made.add_node(**OPTIONS)
        yield made
        made.shutdown()


def workers(node: Any, name: str) -> list[int]:
    """Return the processes of a node that run what Ray calls by this name; Linux alone tells."""
    raylet = node.all_processes["raylet"][0].process.pid
    children = Path(f"/proc/{raylet}/task/{raylet}/children").read_text().split()
    return [int(child) for child in children if f"ray::{name}".encode() in Path(f"/proc/{child}/cmdline").read_bytes()]
