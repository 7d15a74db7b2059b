"""anomalib's benchmark on a Ray cluster: the same YAML, each job a task of one GPU or of so many cores.

    python benchmarks/cluster.py --config configs/benchmark_mvtec.yaml --address auto
    python benchmarks/report.py --output report

Each result goes into ``results.csv`` as it comes, which is whole at any time. A job whose worker or node dies is run
again, up to three times; one that fails is a row with its ``reason``. A second start with the same output skips what is
done and runs what failed. A job builds its model under its own seed, so it gives the same wherever and after whatever
it runs; in anomalib's runner weights depend on the jobs before. Lightning's variables (``PL_TRAINER_*``) and those that
the YAML asks for go to the workers; the former are columns, and part of what makes jobs the same.
"""

import argparse
import csv
import os
import re
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import ray
import yaml
from anomalib.pipelines.benchmark.generator import BenchmarkJobGenerator
from anomalib.pipelines.components.utils import get_iterator_from_grid_dict
from anomalib.utils.config import flatten_dict
from lightning import seed_everything

from riad_anomalib.deploy.cluster import connected, num_actors
from riad_anomalib.deploy.inference import reason

MAX_RETRIES = 3
"""How often a job is begun again whose worker or node died."""

Row = dict[str, str]


def run_job(accelerator: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Return what anomalib's job returns, or the ``reason`` and ``traceback`` of its failure."""
    try:
        seed_everything(settings["seed"])
        (job,) = BenchmarkJobGenerator(accelerator).generate_jobs(settings, None)
        result: dict[str, Any] = job.run()
    except Exception as error:  # noqa: BLE001  # whatever it is, the other jobs go on
        cause = error
        while isinstance(cause.__cause__, Exception):  # anomalib raises that there was an error
            cause = cause.__cause__
        return {"reason": f"{type(cause).__name__}: {reason(cause)}", "traceback": traceback.format_exc()}
    return result


def expand(config: dict[str, Any], variables: dict[str, str]) -> list[tuple[Row, str, dict[str, Any]]]:
    """Return of each job what the table says of it beforehand, its accelerator and its settings."""
    accelerators = config["accelerator"] if isinstance(config["accelerator"], list) else [config["accelerator"]]
    lightning = {f"env.{name}": value for name, value in variables.items() if name.startswith("PL_TRAINER_")}
    return [
        ({"accelerator": accelerator, **lightning, **as_text(flatten_dict(settings))}, accelerator, settings)
        for accelerator in accelerators
        for settings in get_iterator_from_grid_dict(config["benchmark"])
    ]


def as_text(values: dict[str, Any]) -> Row:
    """Return what a table holds of these values."""
    return {name: str(value) for name, value in values.items()}


def identity(row: Row) -> frozenset[tuple[str, str]]:
    """Return what a job was told, by which it is the same in another run."""
    names, groups = {"accelerator", "seed"}, ("model.", "data.", "env.")
    return frozenset((name, value) for name, value in row.items() if name in names or name.startswith(groups))


def read(file: Path) -> list[Row]:
    """Return the rows of a table, none if there is no such file."""
    if not file.exists():
        return []
    with file.open(encoding="utf-8", newline="") as stream:
        return [{name: value for name, value in row.items() if value} for row in csv.DictReader(stream)]


def write(rows: list[Row], file: Path) -> None:
    """Write a table; whoever reads meanwhile sees the one before."""
    names: Iterable[str] = dict.fromkeys(name for row in rows for name in row if name != "reason")
    unfinished = file.with_suffix(".unfinished")
    with unfinished.open("w", encoding="utf-8", newline="") as stream:
        table = csv.DictWriter(stream, [*names, "reason"], restval="")
        table.writeheader()
        table.writerows(rows)
    unfinished.replace(file)


def run(config: dict[str, Any], variables: dict[str, str], cores: int, file: Path) -> int:
    """Run what the table does not have yet and return how many jobs failed.

    Raises:
        ValueError: If the cluster has no room for a job.
    """
    jobs, rows, failed = expand(config, variables), read(file), 0
    done = {identity(row) for row in rows if "reason" not in row}
    todo = [job for job in jobs if identity(job[0]) not in done]
    print(f"{len(jobs)} jobs, {len(jobs) - len(todo)} of them done")
    num_actors(cores)
    gpus = {accelerator: int(accelerator != "cpu") for _, accelerator, _ in todo}
    if any(gpus.values()) and not ray.cluster_resources().get("GPU"):
        msg = "no node of the cluster has a GPU: write accelerator: [cpu] into the config"
        raise ValueError(msg)
    # A process for each job: what one leaves behind is no other's.
    task = ray.remote(num_cpus=cores, max_retries=MAX_RETRIES, max_calls=1, runtime_env={"env_vars": variables})(
        run_job
    )
    pending: dict[Any, Row] = {
        task.options(num_gpus=gpus[accelerator]).remote(accelerator, settings): row
        for row, accelerator, settings in todo
    }
    while pending:
        (ready,), _ = ray.wait([*pending])
        row = pending.pop(ready)
        try:
            result = ray.get(ready)
        except ray.exceptions.RayError as error:
            result = {"reason": f"{type(error).__name__}: {reason(error)}"}
        print(result.pop("traceback", ""), end="", file=sys.stderr)
        failed += "reason" in result
        rows = [other for other in rows if identity(other) != identity(row)] + [row | as_text(result)]
        write(rows, file)
        print(f"{len(todo) - len(pending)} of {len(todo)}: {row['model.class_path']}", *differing(row, jobs), end=" ")
        print(result.get("reason") or f"image AUROC {result['image_AUROC']:.3f}", flush=True)
    return failed


def differing(row: Row, jobs: list[tuple[Row, str, dict[str, Any]]]) -> list[str]:
    """Return what tells this job from the others."""
    return [value for name, value in row.items() if any(other.get(name) != value for other, *_ in jobs)]


def main() -> int:
    """Run the benchmark and return the exit status: 1 if a job failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="of anomalib benchmark")
    address = "Ray's name of the cluster, auto on its machines (default: %(default)s, a cluster of this machine)"
    parser.add_argument("--address", default="local", help=address)
    parser.add_argument("--cores", type=int, default=1, help="of a job (default: %(default)s)")
    parser.add_argument(
        "--output", type=Path, help="folder of results.csv (default: runs/benchmark/<the config's name>)"
    )
    arguments = parser.parse_args()
    text = arguments.config.read_text(encoding="utf-8")
    wanted = re.findall(r"\$\{oc\.env:(\w+)", text) + [name for name in os.environ if name.startswith("PL_TRAINER_")]
    variables = {name: os.environ[name] for name in wanted if name in os.environ}
    output = arguments.output or Path("runs/benchmark") / arguments.config.stem
    output.mkdir(parents=True, exist_ok=True)
    try:
        with connected(arguments.address):
            failed = run(yaml.safe_load(text), variables, arguments.cores, output / "results.csv")
    except ValueError as error:
        parser.error(str(error))
    print(f"{output / 'results.csv'}" + f", {failed} failed" * bool(failed))
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
