"""What a Ray cluster costs beside the plain loop: time for a picture, memory of a long run.

    python benchmarks/archive.py --model model.xml --source pictures --cores 1 --rounds 2

Each round inspects the source with the plain loop in a process of its own, then on a node of Ray with room for one
actor, both on so many cores. Milliseconds a picture are of wall clock and of processor, the latter for a busy machine.
Ray's are the actor's from its first block to its last, what lies between them included; starting is not. Between blocks
the actor waits for Ray: wall clock that is the cluster's own. The driver takes a share of a core, however many actors
there are. Scores must be the same to the bit. Resident memory is that of the last round, at a tenth, half and all of
the pictures.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from measuring import environment, in_a_process, process_memory, table
from pyarrow import parquet
from ray import cloudpickle
from ray.cluster_utils import Cluster

from riad_anomalib import deploy
from riad_anomalib.deploy import cluster


def plain(model: Path, source: str, cores: int) -> dict[str, Any]:
    """Return scores by name, and seconds a picture of the plain loop but for its first picture."""
    compiled = deploy.load_model(model, "CPU", "latency", "f32", threads=cores)
    frames: Any = deploy.open_source(source)
    results = deploy.infer(deploy.infer_requests(compiled, "latency"), frames)
    first = next(results)
    start = time.perf_counter(), time.process_time()
    scores = {first.name: first.pred_score} | {result.name: result.pred_score for result in results}
    end = time.perf_counter(), time.process_time()
    wall, processor = ((after - before) / (len(scores) - 1) for before, after in zip(start, end, strict=True))
    return {"scores": scores, "wall": wall, "processor": processor}


class Watched:
    """An actor that writes down when it inspected a block, what processor time that took, and its memory."""

    log: Path

    def __init__(self, *arguments: Any) -> None:  # noqa: ANN401
        self.inspector = cluster.Inspector(*arguments)

    def __call__(self, block: pa.Table) -> pa.Table:
        """Return rows."""
        _ = self.inspector.requests  # a model is compiled before the clock starts
        start = time.perf_counter(), time.process_time()
        rows = self.inspector(block)
        end = time.perf_counter(), time.process_time()
        with self.log.open("a", encoding="utf-8") as file:
            file.write(json.dumps([len(block), *start, *end, process_memory("VmRSS")]) + "\n")
        return rows


def on_ray(model: Path, source: str, cores: int, output: Path) -> dict[str, Any]:
    """Return the same of one actor, what the driver takes included, and memory along the way."""
    drivers: list[tuple[float, float, float]] = []
    add = cluster.Table.add

    def mark(self: cluster.Table, rows: pa.Table) -> None:
        add(self, rows)
        drivers.append((time.process_time(), process_memory("VmRSS"), time.perf_counter()))

    for module in (__name__, "measuring"):  # which nodes do not have
        cloudpickle.register_pickle_by_value(sys.modules[module])
    Watched.log = output / "log"
    cluster.Inspector, cluster.Table.add = Watched, mark  # type: ignore[assignment, method-assign, misc]
    node = Cluster(initialize_head=True, head_node_args={"num_cpus": cores})
    options = ["--cluster", node.address, "--cores", str(cores), "--output", str(output / "results")]
    if deploy.main([str(model), source, *options]):
        msg = f"the run on {source} failed: see what it says above"
        raise RuntimeError(msg)
    node.shutdown()
    rows = parquet.read_table(output / "results/results").to_pylist()
    blocks = np.array([json.loads(line) for line in Watched.log.read_text(encoding="utf-8").splitlines()])
    return {
        "scores": {row["name"]: row["score"] for row in rows},
        "wall": (blocks[-1, 3] - blocks[0, 1]) / len(rows),
        "processor": (blocks[-1, 4] - blocks[0, 2]) / len(rows),
        "driver": (drivers[-1][0] - drivers[0][0]) / (drivers[-1][2] - drivers[0][2]),
        "between": (blocks[1:, 1] - blocks[:-1, 3]).sum() / len(rows),
        "memory": np.stack([blocks[:, 0].cumsum(), blocks[:, 5], [mib for _, mib, _ in drivers]], axis=1),
    }


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--source", required=True, help="a folder of pictures without damaged ones")
    parser.add_argument("--cores", type=int, default=1, help="of the loop and of the actor (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    given = arguments.model, arguments.source, arguments.cores
    rows = []
    ratios: dict[str, list[float]] = {"wall": [], "processor": []}
    for i in range(arguments.rounds):
        alone = in_a_process("spawn", plain, *given)
        with tempfile.TemporaryDirectory() as folder:
            on_node = in_a_process("spawn", on_ray, *given, Path(folder))
        if on_node["scores"] != alone["scores"]:
            msg = "the scores on Ray are not those of the plain loop"
            raise RuntimeError(msg)
        cells = [str(i + 1)]
        for kind, found in ratios.items():
            found.append(on_node[kind] / alone[kind])
            cells += [f"{1e3 * alone[kind]:.2f}", f"{1e3 * on_node[kind]:.2f}", f"{found[-1]:.3f}"]
        rows.append([*cells, f"{1e3 * on_node['between']:.2f}", f"{on_node['driver']:.1%}"])
    names = [f"{kind}: {name}" for kind in ratios for name in ("loop, ms", "Ray, ms", "ratio")]
    print(table(["round", *names, "between blocks, ms", "driver of a core"], rows))
    medians = [f"{kind} {statistics.median(found):.3f}" for kind, found in ratios.items()]
    print(f"{len(alone['scores'])} scores the same to the bit; median ratios: {', '.join(medians)}\n")
    marks = on_node["memory"]
    chosen = [next(mark for mark in marks if mark[0] >= share * marks[-1][0]) for share in (0.1, 0.5, 1)]
    print(table(["pictures", "actor, MiB", "driver, MiB"], [[f"{value:.0f}" for value in mark] for mark in chosen]))
    print(environment())


if __name__ == "__main__":
    main()
