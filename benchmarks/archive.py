"""What a Ray cluster costs beside the plain loop: time for a picture, memory of a long run.

    python benchmarks/archive.py --model model.xml --source pictures --cores 1 --rounds 2

Each round inspects the source with the plain loop in a process of its own, then on a node of Ray with room for one
actor, both on so many cores. Milliseconds a picture are of wall clock and of processor, the latter for a busy machine.
Ray's are from the first block to the last, the processor's of actor and driver; what passed before stands apart. Scores
must be the same to the bit. Resident memory is that of the last round, at a tenth, half and all of the pictures.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import openvino
import pyarrow as pa
from measuring import environment, in_a_process, table
from pyarrow import parquet
from ray.cluster_utils import Cluster

from riad_anomalib import deploy
from riad_anomalib.deploy import cluster


def plain(model: Path, source: str, cores: int) -> dict[str, Any]:
    """Return scores by name, and seconds a picture of the plain loop but for its first picture."""
    compiled = deploy.load_model(model, "CPU", "latency", "f32", threads=cores)
    frames: Any = deploy.open_source(source)
    results = deploy.infer(openvino.AsyncInferQueue(compiled, 1), frames, ahead=0)
    first = next(results)
    start = time.perf_counter(), time.process_time()
    scores = {first.name: first.pred_score} | {result.name: result.pred_score for result in results}
    end = time.perf_counter(), time.process_time()
    wall, processor = ((after - before) / (len(scores) - 1) for before, after in zip(start, end, strict=True))
    return {"scores": scores, "wall": wall, "processor": processor}


def memory(process: str) -> float:
    """Return the resident MiB of a process."""
    status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def processor_time(process: str) -> float:
    """Return the seconds of processor that a process took."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def on_ray(model: Path, source: str, cores: int, output: Path) -> dict[str, Any]:
    """Return the same of one actor, and after each block the pictures and the MiB of actor and driver."""
    marks: list[tuple[float, float, int, float, float]] = []
    add = cluster.Table.add

    def mark(self: cluster.Table, rows: pa.Table) -> None:
        add(self, rows)
        (actor,) = [
            path.parent.name
            for path in Path("/proc").glob("[0-9]*/cmdline")
            if path.read_bytes().startswith(b"ray::MapWorker")
        ]
        processor = processor_time(actor) + processor_time("self")
        marks.append((time.perf_counter(), processor, self.pictures, memory(actor), memory("self")))

    cluster.Table.add = mark  # type: ignore[method-assign]
    node = Cluster(initialize_head=True, head_node_args={"num_cpus": cores})
    start = time.perf_counter()
    options = ["--cluster", node.address, "--cores", str(cores), "--output", str(output)]
    if deploy.main([str(model), source, *options]):
        msg = f"the run on {source} failed: see what it says above"
        raise RuntimeError(msg)
    node.shutdown()
    rows = parquet.read_table(output / "results").to_pylist()
    number = marks[-1][2] - marks[0][2]
    return {
        "scores": {row["name"]: row["score"] for row in rows},
        "wall": (marks[-1][0] - marks[0][0]) / number,
        "processor": (marks[-1][1] - marks[0][1]) / number,
        "before": marks[0][0] - start,
        "memory": [mark[2:] for mark in marks],
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
        rows.append([*cells, f"{on_node['before']:.1f}"])
    names = [f"{kind}: {name}" for kind in ratios for name in ("loop, ms", "Ray, ms", "ratio")]
    print(table(["round", *names, "before the first block, s"], rows))
    medians = [f"{kind} {statistics.median(found):.3f}" for kind, found in ratios.items()]
    print(f"{len(alone['scores'])} scores the same to the bit; median ratios: {', '.join(medians)}\n")
    marks = on_node["memory"]
    chosen = [next(mark for mark in marks if mark[0] >= share * marks[-1][0]) for share in (0.1, 0.5, 1)]
    print(table(["pictures", "actor, MiB", "driver, MiB"], [[f"{value:.0f}" for value in mark] for mark in chosen]))
    print(environment())


if __name__ == "__main__":
    main()
