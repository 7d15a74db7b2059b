"""Draw image AUROC against time: what a model finds, and what an image costs.

    python benchmarks/tradeoff.py

Made of accuracy.csv and of what throughput.py wrote, both committed beside this file: a point is the mean over seeds
and OpenVINO's time in FP32, the end of the line behind it the time in INT8.
"""

import argparse
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib import pyplot as plt

HERE = Path(__file__).parent
OURS = ("riad", "ssae", "i3ad")
LOWEST = 0.97
"""AUROC below which a model stands at the lower edge, with its value."""


def joined(accuracy: Path, throughput: Path) -> pd.DataFrame:
    """Return a row a model: its AUROC, the source of that, and ms an image in FP32 and INT8 (NaN: it has none).

    Raises:
        ValueError: If a model was timed at another size than its AUROC was measured at, or not at all.
    """
    keys = ["model", "image_size"]
    aurocs = pd.read_csv(accuracy, comment="#").groupby([*keys, "source"], sort=False).mean().reset_index()
    times = pd.read_csv(throughput).pivot_table(index=keys, columns="precision", values="milliseconds").reset_index()
    table = aurocs.merge(times, on=keys, how="left")
    if not_timed := table.model[table.FP32.isna()].tolist():
        msg = f"{throughput.name} has no time in FP32 of {not_timed} at the size that {accuracy.name} gives"
        raise ValueError(msg)
    return table


def draw(table: pd.DataFrame, file: Path) -> None:
    """Draw the models into a picture."""
    mpl.use("Agg")
    figure, axis = plt.subplots(figsize=(7, 3.4), layout="constrained")
    lower = 0
    for row in table.itertuples():
        colour = "tab:red" if row.model.startswith(OURS) else "tab:gray"
        published, is_below = row.source != "RESULTS.md", row.image_auroc < LOWEST
        height = LOWEST if is_below else row.image_auroc
        axis.plot([row.INT8, row.FP32], [height] * 2, color=colour, linewidth=1)
        marker, face = "v" if is_below else "o", "white" if published else colour
        axis.plot(row.FP32, height, marker, color=colour, markerfacecolor=face)
        name = row.model + ", published" * published + f", {row.image_auroc:.3f}" * is_below
        rise = 6 + 11 * lower * is_below  # names at the lower edge stand above each other
        axis.annotate(name, (row.FP32, height), (0, rise), textcoords="offset points", ha="center", fontsize=8)
        lower += is_below
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter("{x:g}")
    axis.set(xlabel="ms an image in OpenVINO, FP32 (line: down to INT8)", ylabel="image AUROC on grid")
    axis.margins(x=0.15, y=0.15)
    axis.grid(alpha=0.3)
    figure.savefig(file, dpi=110)
    plt.close(figure)


def main() -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--accuracy", type=Path, default=HERE / "accuracy.csv")
    parser.add_argument("--throughput", type=Path, default=HERE / "throughput.csv")
    parser.add_argument("--output", type=Path, default=HERE.parent / "docs/tradeoff.png")
    options = parser.parse_args()
    draw(joined(options.accuracy, options.throughput), options.output)


if __name__ == "__main__":
    main()
