"""The report of benchmark runs, and the runs that the configs ask for."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import report
import yaml
from anomalib.pipelines.benchmark.generator import BenchmarkJobGenerator
from lightning.pytorch.utilities.seed import isolate_rng
from PIL import Image

CONFIGS = Path(report.__file__).parents[1] / "configs"


def write(runs: list[dict[str, Any]], file: Path) -> Path:
    """Write results as the runner does."""
    fixed = {"data.class_path": "MVTecAD", "fit_duration": 10.0, "test_duration": 2.0}
    pd.DataFrame([fixed | run for run in runs]).to_csv(file, index=False)
    return file


def riad(category: str, seed: int, image: float, pixel: float | None, **arguments: Any) -> dict[str, Any]:
    settings = {f"model.init_args.{name}": value for name, value in arguments.items()}
    names = {"model.class_path": "Riad", "data.init_args.category": category, "seed": seed}
    return names | settings | {"image_AUROC": image, "pixel_AUROC": pixel}


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["report.py", *map(str, arguments)])
    report.main()


def cells(text: str, title: str) -> dict[str, list[str]]:
    """Return the rows of a table by their first cell."""
    table = text.partition(f"## {title}\n\n")[2].partition("\n\n")[0]
    rows = [[entry.strip() for entry in line.strip("|").split("|")] for line in table.splitlines()]
    return {row[0]: row[1:] for row in rows}


@pytest.mark.parametrize(
    ("method", "metric", "means"),
    [  # as the paper and the READMEs print them
        ("RIAD (paper)", "image_AUROC", (95.1, 89.9, 91.7)),
        ("RIAD (paper)", "pixel_AUROC", (93.9, 94.3, 94.2)),
        ("RIAD K=2 (paper)", "image_AUROC", (None, None, 86.1)),
        ("RIAD K=4 (paper)", "image_AUROC", (None, None, 88.2)),
        ("RIAD K=8 (paper)", "image_AUROC", (None, None, 89.1)),
        ("RIAD K=16 (paper)", "image_AUROC", (None, None, 87.6)),
        ("RIAD n=2 (paper)", "image_AUROC", (None, None, 86.2)),
        ("RIAD n=5 (paper)", "image_AUROC", (None, None, 88.7)),
        ("RIAD without skips (paper)", "image_AUROC", (None, None, 88.6)),
        ("RIAD SSIM score (paper)", "image_AUROC", (None, None, 85.2)),
        ("PatchCore, Wide ResNet-50 (anomalib)", "image_AUROC", (None, None, 98.0)),
        ("PatchCore, Wide ResNet-50 (anomalib)", "pixel_AUROC", (None, None, 98.0)),
        ("PatchCore, Wide ResNet-50 (anomalib)", "image_F1Score", (None, None, 97.6)),
        ("EfficientAd-S (anomalib)", "image_AUROC", (None, None, 98.2)),
        ("EfficientAd-S (anomalib)", "image_F1Score", (None, None, 97.0)),
    ],
)
def test_published_figures_have_the_published_means(
    method: str, metric: str, means: tuple[float | None, float | None, float]
) -> None:
    table = report.read_published([method])
    values = table[(table["metric"] == metric) & (table["method"] == method)].set_index("category")["percent"]
    for categories, mean in zip([*report.GROUPS.values(), report.MVTEC], means, strict=True):
        assert mean is None or np.isclose(values[categories].mean(), mean, atol=0.11)


def test_seeds_give_mean_and_spread_and_what_is_missing_stays_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    textures = [riad(category, 0, 0.9, 0.8) for category in report.GROUPS["textures"]]
    textures[1]["image_AUROC"] = 0.95  # grid
    file = write([*textures, riad("grid", 1, 0.97, None), riad("screws", 0, 0.5, None)], tmp_path / "results.csv")
    run(monkeypatch, file, "--output", tmp_path / "report")
    text = (tmp_path / "report/report.md").read_text()
    image = cells(text, "Image AUROC")
    assert image["%"] == ["Riad", "RIAD (paper)", "PatchCore, Wide ResNet-50 (anomalib)", "EfficientAd-S (anomalib)"]
    assert image["grid"] == ["96.0 ± 1.4", "99.6", "95.9", "100.0"]
    assert image["*mean of textures*"][0] == "91.0"  # of seed 0, the only one with all five
    assert image["bottle"] == ["", "99.9", "100.0", "100.0"]
    assert image["*mean of all*"] == ["", "91.7", "98.0", "98.2"]
    assert image["screws"] == ["50.0", "", "", ""]
    pixel = cells(text, "Pixel AUROC")
    assert pixel["grid"][:2] == ["80.0", "98.8"]
    assert "screws" in pixel
    assert pixel["screws"][0] == ""
    assert (tmp_path / "report/report.png").stat().st_size > 0


def test_runs_are_told_apart_by_what_differs_and_riads_cost_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {"base_width": "16", "image_size": "[128, 128]"}
    runs = [riad("grid", 0, 0.9, 0.9, region_sizes=sizes, **small) for sizes in ("[2, 4, 8, 16]", "[8]")]
    other = {"model.class_path": "Patchcore", "data.init_args.category": "grid", "seed": 0, "image_AUROC": 1.0}
    file = write([*runs, other], tmp_path / "results.csv")
    whole = riad("grid", 1, 0.9, 0.9) | {"model.init_args": "${oc.create:{base_width: 16, image_size: [128, 128]}}"}
    interpolated = write([whole], tmp_path / "interpolated.csv")
    run(monkeypatch, interpolated, "--output", tmp_path / "whole")
    assert "| Riad | 1 | 1 | 10 | 2 | 20.7 |" in (tmp_path / "whole/report.md").read_text()
    run(monkeypatch, file, "--output", tmp_path / "report", "--beside", "K=8")
    text = (tmp_path / "report/report.md").read_text()
    labels = ["Riad, region_sizes=[2, 4, 8, 16]", "Riad, region_sizes=[8]", "Patchcore"]
    assert cells(text, "Image AUROC")["%"] == [*labels, "RIAD K=8 (paper)"]
    costs = {line.split(" | ")[0].strip("| "): line.split(" | ")[-1].strip("| ") for line in text.splitlines()}
    assert [costs[label] for label in labels] == ["20.7", "5.17", ""]  # as benchmarks/RESULTS.md says


def test_what_the_lamp_tells_stands_beside_what_models_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for category, light in (("grid", 100), ("tile", 50)):
        for kind, value in (("good", 50), ("bent", light)):
            (tmp_path / "data" / category / "test" / kind).mkdir(parents=True)
            for number in range(2):
                picture = np.full((8, 8), value, np.uint8)
                Image.fromarray(picture).save(tmp_path / "data" / category / "test" / kind / f"{number}.png")
    file = write([riad("grid", 0, 0.9, 0.8), riad("tile", 0, 0.9, 0.8)], tmp_path / "results.csv")
    run(monkeypatch, file, "--output", tmp_path / "report", "--root", tmp_path / "data")
    text = (tmp_path / "report/report.md").read_text()
    rows = cells(text, "Image AUROC without a model")
    assert rows["category"] == ["mean grey value", "high-pass maximum"]
    assert rows["grid"][0] == "100.0"
    assert rows["tile"] == ["50.0", "50.0"]
    assert "\ngrid: the lamp tells good from defective pictures; judge by pixels." in text


def test_jobs_that_failed_are_left_out_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = {"model.class_path": "Riad", "data.init_args.category": "grid", "seed": 0, "reason": "no such folder"}
    file = write([riad("grid", 0, 0.9, 0.8), failed, riad("grid", 1, 0.9, 0.8)], tmp_path / "results.csv")
    run(monkeypatch, file, "--output", tmp_path / "report")
    text = (tmp_path / "report/report.md").read_text()
    assert "\n\n1 jobs failed and are left out.\n\n" in text
    assert cells(text, "Image AUROC")["grid"][0] == "90.0 ± 0.0"
    file = write([riad("grid", 0, 0.9, 0.8)], tmp_path / "results.csv")
    run(monkeypatch, file, "--output", tmp_path / "whole")
    assert "jobs failed and" not in (tmp_path / "whole/report.md").read_text()


def test_what_cannot_be_told_apart_or_would_be_overwritten_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write([riad("grid", 0, 0.9, 0.9)], tmp_path / "results.csv")
    (tmp_path / "there").mkdir()
    (tmp_path / "other.csv").write_text("a,seed\n1,0\n")
    monkeypatch.chdir(tmp_path)
    for arguments, message in {
        (file, file, "--output", "new"): "Riad on grid with seed 0 is there twice",
        (file, "--output", "there"): "there is there already",
        (file, "--output", "new", "--beside", "YOLO"): "no published method is called YOLO",
        ("other.csv", "--output", "new"): "give results.csv of anomalib benchmark",
        ("--output", "new"): "no results.csv in runs/benchmark",
    }.items():
        with pytest.raises(SystemExit):
            run(monkeypatch, *arguments)
        assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("name", "jobs"),
    [
        ("benchmark_mvtec", 15),
        ("ablations/region_sizes", 10),
        ("ablations/num_disjoint_sets", 8),
        ("ablations/scoring", 12),
        ("ablations/presets", 14),
    ],
)
def test_the_runner_makes_a_model_and_data_of_every_job(
    name: str, jobs: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MVTEC_AD", str(tmp_path))
    text = (CONFIGS / f"{name}.yaml").read_text().replace("base_width: 64", "base_width: 2")
    settings = yaml.safe_load(text)["benchmark"]
    with isolate_rng():
        made = list(BenchmarkJobGenerator(accelerator="cpu").generate_jobs(settings, None))
    assert len(made) == jobs
    models: list[Any] = [(job.model, job.datamodule) for job in made]
    distinct = {(str(model.hparams), str(data.category)) for model, data in models}
    assert len(distinct) == jobs
    assert {data.root for _, data in models} == {tmp_path}
    assert {data.train_batch_size for _, data in models} == {8}
