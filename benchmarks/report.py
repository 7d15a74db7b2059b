"""A report of anomalib's benchmark runs on MVTec AD, beside published figures.

    anomalib benchmark --config configs/benchmark_mvtec.yaml
    python benchmarks/report.py --output report

Takes the newest results.csv of the runner, or those that are named, and writes ``report.md`` and ``report.png`` into a
new folder: image and pixel AUROC and F1 score per category in percent, means over textures, objects and all, times, and
what each RIAD costs. Several seeds give a mean and a standard deviation. What was not run stays empty; a mean is given
only where all of its categories are there. Run it where the benchmark ran: it says which machine and versions.
"""

import argparse
import itertools
import shlex
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import torch
import yaml
from anomalib.models import get_model
from anomalib.utils.config import to_nested_dict
from matplotlib import pyplot as plt
from measuring import environment, gflop, table, without_a_model

from riad_anomalib import Riad

GROUPS = {
    "textures": ["carpet", "grid", "leather", "tile", "wood"],
    "objects": [
        *("bottle", "cable", "capsule", "hazelnut", "metal_nut"),
        *("pill", "screw", "toothbrush", "transistor", "zipper"),
    ],
}
MVTEC = [category for group in GROUPS.values() for category in group]
METRICS = {
    "image_AUROC": "Image AUROC",
    "pixel_AUROC": "Pixel AUROC",
    "image_F1Score": "Image F1 score",
    "pixel_F1Score": "Pixel F1 score",
}
LAMP = 0.9
"""Image AUROC of the mean grey value from which on the lamp tells good from defective pictures."""
BESIDE = ["RIAD (paper)", "PatchCore", "EfficientAd"]


def read_results(files: list[Path]) -> tuple[pd.DataFrame, int]:
    """Return the runs of the files with ``label`` (model, what differs) and ``category``, and how many jobs failed."""
    # As text first: with several kinds of runs a column has gaps, and pandas would make 16.0 of a width of 16.
    runs = pd.concat([pd.read_csv(file, dtype=str) for file in files], ignore_index=True)
    finished = runs.get("reason", pd.Series(index=runs.index)).isna()
    failed = int((~finished).sum())
    runs = runs[finished].reset_index(drop=True)
    if missing := {"model.class_path", "data.class_path", "seed", "image_AUROC"} - set(runs.columns):
        msg = f"{', '.join(map(str, files))}: no column {sorted(missing)}; give results.csv of anomalib benchmark"
        raise ValueError(msg)
    numbers = [name for name in (*METRICS, "fit_duration", "test_duration") if name in runs]
    runs[numbers] = runs[numbers].apply(pd.to_numeric)
    runs["label"] = runs["model.class_path"].str.split(".").str[-1]
    arguments = [name for name in runs.columns if name.startswith("model.init_args")]
    for label, same in runs.groupby("label"):
        differing = [name for name in arguments if len(same[name].unique()) > 1]
        for i, run in same.iterrows():
            settings = [f"{name.split('.')[-1]}={run[name]}" for name in differing if pd.notna(run[name])]
            runs.loc[i, "label"] = ", ".join([str(label), *settings])
    names = [name for name in ("data.init_args.category", "data.init_args.name", "data.class_path") if name in runs]
    runs["category"] = runs[names].bfill(axis=1).iloc[:, 0]
    twice = runs[runs.duplicated(["label", "category", "seed"])]
    if len(twice):
        run = twice.iloc[0]
        msg = (
            f"{run['label']} on {run['category']} with seed {run['seed']} is there twice: give files that differ in "
            "seed, model or data, or report them one by one"
        )
        raise ValueError(msg)
    return runs, failed


def read_published(beside: list[str]) -> pd.DataFrame:
    """Return the published figures of methods whose name contains one of these."""
    published = pd.read_csv(Path(__file__).with_name("published.csv"), comment="#")
    chosen = [any(part in method for part in beside) for method in published["method"]]
    if not any(chosen):
        methods = ", ".join(published["method"].unique())
        msg = f"no published method is called {' or '.join(beside)}: there are {methods}"
        raise ValueError(msg)
    return published[chosen]


def percentages(runs: pd.DataFrame, published: pd.DataFrame, metric: str) -> dict[str, pd.DataFrame]:
    """Return by column one row per category and seed with its percentage; columns without any value are left out."""
    columns: dict[str, pd.DataFrame] = {}
    if metric in runs:
        for label, run in runs.dropna(subset=metric).groupby("label", sort=False):
            percent = 100 * run[metric]
            columns[str(label)] = pd.DataFrame({"category": run["category"], "seed": run["seed"], "percent": percent})
    for method, figures in published[published["metric"] == metric].groupby("method", sort=False):
        columns[str(method)] = figures[["category", "percent"]].assign(seed="published")
    return columns


def cell(values: pd.DataFrame, categories: list[str]) -> str:
    """Return the mean over categories, with the standard deviation over seeds; empty where a category is missing."""
    per_seed = [
        seed["percent"].mean()
        for _, seed in values[values["category"].isin(categories)].groupby("seed")
        if set(seed["category"]) == set(categories)
    ]
    if not per_seed:
        return ""
    spread = f" ± {np.std(per_seed, ddof=1):.1f}" if len(per_seed) > 1 else ""
    return f"{np.mean(per_seed):.1f}{spread}"


def metric_table(columns: dict[str, pd.DataFrame], categories: list[str]) -> str:
    """Return the table of one metric: MVTec AD's categories by group, their means, then other data."""
    rows = {category: [category] for category in MVTEC}
    rows |= {f"*mean of {name}*": group for name, group in GROUPS.items()} | {"*mean of all*": MVTEC}
    rows |= {category: [category] for category in categories if category not in MVTEC}
    return table(
        ["%", *columns],
        [[name, *(cell(values, members) for values in columns.values())] for name, members in rows.items()],
    )


def riad_gflop(run: "pd.Series[Any]") -> str:
    """Return what an image costs RIAD at inference, counted; empty for other models."""
    if run["model.class_path"].split(".")[-1] != "Riad":
        return ""
    given = run[[name for name in run.index if name.startswith("model.init_args")]].dropna()
    # An interpolation, such as those of configs/benchmark.yaml, is left to get_model.
    arguments = {name: value if value.startswith("${") else yaml.safe_load(value) for name, value in given.items()}
    model = get_model(to_nested_dict(arguments | {"model.class_path": "Riad"})["model"])
    assert isinstance(model, Riad)  # noqa: S101
    network = model.model.eval().to("meta")
    return f"{gflop(network.dissimilarity_map, torch.empty(1, 3, *network.image_size, device='meta')):.3g}"


def runs_table(runs: pd.DataFrame) -> str:
    """Return what was run, how long it took and what it costs."""
    rows = []
    for label, group in runs.groupby("label", sort=False):
        times = [f"{group[name].mean():.0f}" for name in ("fit_duration", "test_duration")]
        counts = [", ".join(sorted(group["seed"].unique())), str(group["category"].nunique())]
        rows.append([str(label), *counts, *times, riad_gflop(group.iloc[0])])
    return table(["", "seeds", "categories", "training, s", "test, s", "GFLOP an image"], rows)


def draw(per_metric: dict[str, dict[str, pd.DataFrame]], categories: list[str], file: Path) -> None:
    """Draw bars of image and pixel AUROC, category by category."""
    shown = {metric: per_metric[metric] for metric in ("image_AUROC", "pixel_AUROC") if per_metric.get(metric)}
    mpl.use("Agg")
    size = (4 + 0.8 * len(categories), 1 + 3 * len(shown))
    figure, axes = plt.subplots(len(shown), squeeze=False, figsize=size, layout="constrained")
    colours = {label: f"C{i}" for i, label in enumerate(dict.fromkeys(itertools.chain(*shown.values())))}
    for axis, (metric, columns) in zip(axes[:, 0], shown.items(), strict=True):
        width = 0.8 / len(columns)
        lowest = 100.0
        for i, (label, values) in enumerate(columns.items()):
            seeds = values.groupby("category")["percent"]
            means, spread = seeds.mean().reindex(categories), seeds.std().reindex(categories)
            places = np.arange(len(categories)) + (i - (len(columns) - 1) / 2) * width
            axis.bar(places, means, width, yerr=spread.fillna(0), label=label, color=colours[label])
            lowest = min(lowest, means.min())
        axis.set_ylim(min(90, 10 * (lowest // 10)), 100)
        axis.set_xticks(range(len(categories)), categories)
        axis.set_ylabel(f"{METRICS[metric]}, %")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper left", frameon=False)
    figure.savefig(file, dpi=100)
    plt.close(figure)


def baselines(root: Path | None, categories: list[str]) -> str:
    """Return what can be told without any model, as a section; empty where the pictures are not here."""
    if root is None:
        return ""
    figures = {
        category: without_a_model(root / category) for category in categories if (root / category / "test").is_dir()
    }
    if not figures:
        return ""
    rows = [[category, *(f"{100 * value:.1f}" for value in values)] for category, values in figures.items()]
    told = [category for category, (mean_grey, _) in figures.items() if mean_grey >= LAMP]
    names = ["category", "mean grey value", "high-pass maximum"]
    return f"## Image AUROC without a model\n\n{table(names, rows)}\n\n" + (
        f"{', '.join(told)}: the lamp tells good from defective pictures; judge by pixels.\n\n" * bool(told)
    )


def main() -> None:
    """Write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="*", type=Path, help="results.csv of the runner; without, the newest of runs/")
    parser.add_argument("--output", type=Path, required=True, help="a new folder")
    parser.add_argument("--root", type=Path, help="MVTec AD's folder, for what can be told without a model")
    parser.add_argument("--beside", nargs="*", default=BESIDE, help="published methods by a part of their name")
    arguments = parser.parse_args()
    files = arguments.results or sorted(Path("runs/benchmark").glob("*/results.csv"))[-1:]
    if not files:
        parser.error("no results.csv in runs/benchmark: run anomalib benchmark here, or name the files")
    if arguments.output.exists():
        parser.error(f"{arguments.output} is there already: name a new folder")
    try:
        (runs, failed), published = read_results(files), read_published(arguments.beside)
    except ValueError as error:
        parser.error(str(error))
    per_metric = {metric: percentages(runs, published, metric) for metric in METRICS}
    present = [category for category in MVTEC if category in set(runs["category"])]
    categories = present + sorted(set(runs["category"]) - set(MVTEC))
    tables = [
        f"## {title}\n\n{metric_table(per_metric[metric], categories)}"
        for metric, title in METRICS.items()
        if metric in runs and runs[metric].notna().any()
    ]
    text = (
        f"# Benchmark\n\n`{shlex.join(['python', *sys.argv])}` of {', '.join(map(str, files))}\n\n{environment()}\n\n"
        f"{runs_table(runs)}\n\n"
        + f"{failed} jobs failed and are left out.\n\n" * bool(failed)
        + "![Image and pixel AUROC](report.png)\n\n"
        + baselines(arguments.root, categories)
        + "\n\n".join(tables)
        + "\n"
    )
    arguments.output.mkdir(parents=True)
    (arguments.output / "report.md").write_text(text, encoding="utf-8")
    draw(per_metric, categories, arguments.output / "report.png")
    print(text)


if __name__ == "__main__":
    main()
