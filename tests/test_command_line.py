"""The stock ``anomalib`` command, in processes of its own, on the demo's pictures."""

import csv
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from anomalib.cli import AnomalibCLI
from anomalib.deploy import OpenVINOInferencer
from inspections import page
from lightning.pytorch.utilities.seed import isolate_rng
from PIL import Image
from torchmetrics.functional.classification import binary_auroc

from riad_anomalib import I3ad, Riad, Ssae
from riad_anomalib.registry import alias

CONFIGS = Path(__file__).parents[1] / "configs"
TINY = "--model.image_size [32,48] --model.base_width 4 --model.region_sizes [2,8]"
COFFEE = "--data MVTecAD --data.root datasets --data.category coffee --data.train_batch_size 2"
CPU = "--trainer.accelerator cpu --trainer.enable_progress_bar false"


def start(arguments: str, folder: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [Path(sys.executable).with_name("anomalib"), *shlex.split(arguments)],
        cwd=folder,
        env={**os.environ, "PYTHONWARNINGS": "ignore", "COLUMNS": "200", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def anomalib(arguments: str, folder: Path, **environment: str) -> str:
    process = start(arguments, folder, **environment)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def anomalib_here(arguments: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the command in this process: each start of another imports for ten seconds what is imported here."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")  # given back after the test
    with isolate_rng():
        AnomalibCLI(args=shlex.split(arguments))


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, small_demo_data: Callable[[Path, int], Path]) -> Path:
    """A folder with few of the demo's pictures, as a user's own would lie there."""
    folder = tmp_path_factory.mktemp("workplace")
    small_demo_data(folder / "datasets", 4)
    return folder


@pytest.fixture(scope="module")
def trained(workplace: Path) -> Path:
    """A checkpoint of ``anomalib train --model riad``."""
    output = anomalib(f"train --model riad {TINY} {COFFEE} --trainer.max_epochs 2 {CPU}", workplace)
    assert "image_AUROC" in output
    assert "pixel_AUROC" in output
    assert [path.name for path in (workplace / "results").iterdir()] == ["Riad"]
    return workplace / "results/Riad/MVTecAD/coffee/v0/weights/lightning/model.ckpt"


def test_train_leaves_a_checkpoint_pictures_and_a_config_with_one_name(trained: Path) -> None:
    run = trained.parents[2]
    assert len(list(run.glob("images/*/*.png"))) == 20
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["model"]["class_path"] == "riad_anomalib.Riad"
    assert config["model"]["init_args"]["lr"] == 1e-4
    torch.load(trained, weights_only=True)


def test_test_and_predict_with_the_checkpoint_by_any_spelling(trained: Path, workplace: Path) -> None:
    page = "--model.visualizer riad_anomalib.ReportVisualizer"
    output = anomalib(f"test --model Riad {TINY} {page} {COFFEE} --ckpt_path {trained} {CPU}", workplace)
    assert "image_AUROC" in output
    assert len(list(workplace.glob("results/Riad/**/report/report.html"))) == 1
    # The image size comes from the checkpoint: the default of 256x256 is not what it was trained with.
    anomalib(
        "predict --model riad_anomalib.Riad --model.base_width 4 --model.region_sizes [2,8] "
        "--model.visualizer riad_anomalib.ReconstructionVisualizer "
        f"--data datasets/coffee/test/stain --ckpt_path {trained} {CPU}",
        workplace,
    )
    for kind in ("images", "reconstructions"):
        assert len(list((workplace / "results/Riad").glob(f"latest/{kind}/**/*.png"))) == 4


def test_export_to_openvino_and_infer_as_torch_does(trained: Path, workplace: Path) -> None:
    anomalib(
        f"export --model riad {TINY} --export_type openvino --export_root exported --ckpt_path {trained} "
        """--onnx_kwargs '{"opset_version": 18}'""",
        workplace,
    )
    exported = workplace / "exported/weights/openvino/model.xml"
    inferencer = OpenVINOInferencer(exported, device="CPU", config={"INFERENCE_PRECISION_HINT": "f32"})
    model = Riad.load_from_checkpoint(trained, map_location="cpu").eval()
    image = np.random.default_rng(0).random((32, 48, 3), dtype=np.float32)
    from_openvino = inferencer.predict(image)
    with torch.no_grad():
        from_torch = model(torch.from_numpy(image).permute(2, 0, 1)[None])
    for name in ("anomaly_map", "pred_score"):
        value = getattr(from_torch, name).squeeze()
        np.testing.assert_allclose(getattr(from_openvino, name).squeeze(), value, atol=1e-4)


def test_a_mistake_ends_in_a_message_that_says_what_to_do(workplace: Path) -> None:
    process = start(f"train --model riad --model.image_size [250,256] {COFFEE}", workplace)
    output, _ = process.communicate(timeout=300)
    assert process.returncode != 0
    assert "set image_size to 240x256 or 256x256" in " ".join(output.split())


def test_after_kill_9_training_goes_on_from_the_last_checkpoint(workplace: Path, tmp_path: Path) -> None:
    recipe = (CONFIGS / "riad.yaml").read_text()
    interval = 'train_time_interval: "0:03:00"'
    assert interval in recipe
    (tmp_path / "riad.yaml").write_text(recipe.replace(interval, 'train_time_interval: "0:00:01"'))
    config = (
        f"fit --config riad.yaml --data {CONFIGS}/mvtec_ad.yaml --data.root {workplace}/datasets "
        f"--data.category coffee --data.num_workers 0 --data.train_batch_size 2 {TINY} {CPU}"
    )
    checkpoint = tmp_path / "results/lightning_logs/version_0/checkpoints/last.ckpt"
    process = start(config, tmp_path)
    while not checkpoint.exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    saved = torch.load(checkpoint, weights_only=True)
    epoch, step = saved["epoch"], saved["global_step"]
    assert step > 2 * epoch  # within an epoch, or at its end
    output = anomalib(f"{config} --ckpt_path {checkpoint} --trainer.max_epochs {epoch + 3}", tmp_path)
    assert "Restored all states from the checkpoint" in output
    assert f"`max_epochs={epoch + 3}` reached" in output
    with (tmp_path / "results/lightning_logs/version_1/metrics.csv").open() as file:
        epochs = [int(row["epoch"]) for row in csv.DictReader(file)]
    assert epoch <= min(epochs) <= epoch + 1
    assert max(epochs) == epoch + 2


NUM_PICTURES = 19
DDP = """
import sys
from pathlib import Path
import torch
from torch.utils.data import DataLoader, Subset
from anomalib.data import MVTecAD, UCSDped
from anomalib.engine import Engine
from lightning.pytorch import Callback, seed_everything
from riad_anomalib import I3ad, ReportVisualizer, Riad, Ssae

class Watch(Callback):
    def on_train_start(self, trainer, model):
        torch.save((torch.rand(8), list(model.parameters())), f"{model.name}/rank{trainer.global_rank}.pt")

    def on_train_end(self, trainer, model):
        items = list(trainer.datamodule.train_data)
        with torch.no_grad():
            values = model.eval().model.dissimilarity_map(torch.stack([torch.as_tensor(item.image) for item in items]))
        weights = list(model.parameters())
        mean = model.model.calibration.normal_mean
        torch.save((weights, values.mean(dim=0), mean), f"{model.name}/trained{trainer.global_rank}.pt")

if __name__ == "__main__":
    for MODEL in (I3ad, Riad, Ssae):
        seed_everything(0)
        data = MVTecAD(root=sys.argv[1], category="coffee", train_batch_size=1, num_workers=0)
        model = MODEL(image_size=(32, 48), base_width=4, lr=0.01, calibration="pixel", visualizer=ReportVisualizer())
        Path(model.name).mkdir(exist_ok=True)
        two = {"accelerator": "cpu", "devices": 2, "strategy": "ddp"}
        engine = Engine(**two, max_epochs=1, callbacks=[Watch()])
        engine.fit(model, datamodule=data)
    bare = {"past_frames": 1, "post_processor": False, "evaluator": False}
    of_frames = Ssae(image_size=(32, 48), base_width=4, **bare)  # the same in both processes
    pictures = Subset(data.test_data, range(NUM_PICTURES))  # an odd number: one comes twice
    engine.test(model, dataloaders=DataLoader(pictures, batch_size=4, collate_fn=data.test_data.collate_fn))
    clips = UCSDped(*sys.argv[2:], num_workers=0, eval_batch_size=3)
    metrics = Engine(**two, default_root_dir="video").test(of_frames, datamodule=clips)
    torch.save(metrics[0], f"metrics{of_frames.global_rank}.pt")
"""


def check_page(folder: Path, pictures: Path) -> None:
    """Every picture of the test stands once on one page, with its files."""
    (path,) = folder.rglob("report.html")
    told = page(path.parent)["rows"]
    assert len(told) == NUM_PICTURES
    assert len({row["name"] for row in told}) == NUM_PICTURES
    assert len(list((path.parent / "report_files").iterdir())) == sum(row["views"] + 1 for row in told)
    assert not list(path.parent.glob("process_*"))
    for number, row in enumerate(told):
        files = path.parent / f"report_files/{number}.1.jpg", pictures / row["name"]
        shown, taken = (np.asarray(Image.open(file).convert("RGB"), int) for file in files)
        difference = shown - taken
        assert np.abs(difference).mean() < 5


def check_videos(folder: Path) -> None:
    """Tables and AUROC are of all frames of every video."""
    tables = sorted(folder.rglob("scores/*.csv"))
    assert [table.stem for table in tables] == ["Test001", "Test002"]
    metrics = [torch.load(folder / f"metrics{rank}.pt") for rank in (0, 1)]
    assert metrics[0] == metrics[1]
    for table in tables:
        with table.open() as file:
            rows = list(csv.DictReader(file))
        assert [int(row["frame"]) for row in rows] == list(range(13))
        scores = torch.tensor([float(row["score"]) for row in rows], dtype=torch.float64)
        labels = torch.tensor([row["gt_label"] in {"1", "True"} for row in rows]).long()
        expected = binary_auroc(scores, labels).item()
        assert metrics[0][f"image_AUROC/{table.stem}"] == pytest.approx(expected)


@pytest.fixture(scope="module")
def two_processes(workplace: Path, footage: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two processes trained one model after the other, and tested the last on pictures and videos."""
    folder = tmp_path_factory.mktemp("two_processes")
    (folder / "ddp.py").write_text(DDP.replace("NUM_PICTURES", str(NUM_PICTURES)))
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "ddp.py", workplace / "datasets", footage.parent, footage.name],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return folder


# I3ad has a discriminator too, and a threshold of its mask.
@pytest.mark.parametrize("model", ["Riad", "Ssae", "I3ad"])
def test_two_processes_train_and_calibrate_one_network(model: str, two_processes: Path) -> None:
    folder = two_processes / model
    (drawn, before), (drawn_there, before_there) = (torch.load(folder / f"rank{i}.pt") for i in (0, 1))
    assert all(map(torch.equal, before, before_there))
    assert not torch.equal(drawn, drawn_there)
    (trained, expected, mean), (trained_there, _, mean_there) = (torch.load(folder / f"trained{i}.pt") for i in (0, 1))
    assert all(map(torch.equal, trained, trained_there))
    # Attention's queries and keys wait for its weight, which begins at 0.
    assert sum(map(torch.equal, trained, before)) <= 4
    assert torch.equal(mean, mean_there)
    torch.testing.assert_close(mean, expected)


def test_two_processes_look_at_all_pictures_and_frames(two_processes: Path, workplace: Path) -> None:
    check_page(two_processes, workplace / "datasets/coffee/test")
    check_videos(two_processes)


@pytest.mark.parametrize(
    "name", ["riad", "riad_small", "riad_fast", "ssae", "ssae_small", "ssae_large", "i3ad", "i3ad_small", "demo"]
)
@pytest.mark.filterwarnings("ignore")  # of Lightning about small data sets, and anomalib about itself
def test_every_config_trains_a_step(
    name: str, workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = "" if name == "demo" else f"--data {CONFIGS}/mvtec_ad.yaml"
    # The paper's width takes seconds a step here: the step is real, the network narrow.
    anomalib_here(
        f"fit --config {CONFIGS}/{name}.yaml {data} --data.root {workplace}/datasets --data.category coffee "
        f"--data.num_workers 0 --model.base_width 4 --trainer.max_steps 1 --trainer.limit_val_batches 1 {CPU}",
        tmp_path,
        monkeypatch,
    )
    check_arguments(name, tmp_path)


def check_arguments(name: str, folder: Path) -> None:
    saved = yaml.safe_load(next(folder.rglob("hparams.yaml")).read_text())
    given = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())["model"]["init_args"]
    for argument in set(given) - {"base_width", "evaluator", "image_size"}:
        assert saved[argument] == given[argument]


@pytest.mark.parametrize("name", ["riad_ped2", "riad_ped2_small"])
@pytest.mark.filterwarnings("ignore")  # of Lightning about small data sets, and anomalib about itself
def test_every_config_of_video_trains_a_step_validates_and_tests(
    name: str, footage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    once = "".join(f" --trainer.limit_{stage}_batches 1" for stage in ("train", "val"))
    anomalib_here(
        f"train --config {CONFIGS}/{name}.yaml --data.root {footage.parent} --data.category {footage.name} "
        f"--data.num_workers 0 --model.base_width 2 --trainer.max_epochs 1 "
        f"--trainer.check_val_every_n_epoch 1{once} {CPU}",
        tmp_path,
        monkeypatch,
    )
    assert "image_F1Score" in capsys.readouterr().out
    check_arguments(name, tmp_path)
    assert len(list(tmp_path.glob("results/Riad/UCSDped/coins/v0/images/Test001/*.png"))) == 13


def test_the_readmes_way_from_own_pictures_to_overlays(workplace: Path, tmp_path: Path) -> None:
    coffee = workplace / "datasets/coffee"
    shutil.copytree(coffee / "train/good", tmp_path / "pictures/good")
    shutil.copytree(coffee / "test/good", tmp_path / "pictures/good/more")
    shutil.copytree(coffee / "test/good", tmp_path / "new_pictures")
    (tmp_path / "configs").symlink_to(CONFIGS)
    readme = (CONFIGS.parent / "README.md").read_text(encoding="utf-8")
    block = readme.partition("## Your own pictures")[2].partition("```\n")[2].partition("```")[0]
    *commands, deploy = block.replace("\\\n", " ").strip().splitlines()
    assert [command.split()[:2] for command in commands] == [
        ["anomalib", name] for name in ("train", "predict", "export")
    ]
    assert commands[0].endswith("--data.root pictures      --data.normal_dir good")  # nothing but good pictures
    small = f" --model.image_size [32,32] --model.base_width 4 {CPU}"
    length = " --trainer.max_epochs 1 --trainer.check_val_every_n_epoch 1 --data.num_workers 0"
    said = [
        " ".join(anomalib(command.partition(" ")[2] + shorter, tmp_path).split())
        for command, shorter in zip(commands, (small + length, small, ""), strict=True)
    ]
    assert "1 of 8 good pictures are held out of training to find the threshold" in said[0]
    assert "1 good picture: at most 50 % false alarms on average" in said[0]
    assert len(list(tmp_path.glob("results/Ssae/latest/images/new_pictures/*.png"))) == 4
    subprocess.run([sys.executable, *shlex.split(deploy)[1:]], cwd=tmp_path, check=True, timeout=300)
    assert len(list((tmp_path / "inspected").glob("*.jpg"))) == 4
    assert (tmp_path / "inspected/report.html").exists()


@pytest.mark.parametrize("model", [Riad, Ssae, I3ad])
def test_the_papers_recipe_is_the_default(model: type[Any]) -> None:
    given: dict[str, Any] = yaml.safe_load((CONFIGS / f"{alias(model.__name__)}.yaml").read_text())["model"][
        "init_args"
    ]
    defaults = dict(model().hparams)
    assert given == {name: list(value) if isinstance(value, tuple) else value for name, value in defaults.items()}


def test_the_benchmark_and_its_report_put_riad_beside_patchcore_and_draem(workplace: Path, tmp_path: Path) -> None:
    config = yaml.safe_load((CONFIGS / "benchmark.yaml").read_text())
    textures = tmp_path / "textures" / "wood"
    textures.mkdir(parents=True)
    shutil.copy(workplace / "datasets/coffee/train/good/000.png", textures)
    small = {
        "Riad": "${oc.create:{base_width: 4, image_size: [32, 32], region_sizes: [2, 8]}}",
        "Patchcore": "${oc.create:{backbone: resnet18, layers: [layer2], pre_trained: false}}",
        "Draem": f"${{oc.create:{{dtd_dir: {textures.parent}}}}}",
    }
    models = config["benchmark"]["model"]["grid"]
    assert [model["class_path"] for model in models] == list(small)
    for model in models:
        model["init_args"] = small[model["class_path"]]
    config["accelerator"] = ["cpu"]
    for path in ("train/good", "test/good", "test/stain", "ground_truth/stain"):  # DRAEM takes seconds an image
        for picture in sorted((workplace / "datasets/coffee" / path).iterdir())[:2]:
            (tmp_path / "datasets/coffee" / path).mkdir(parents=True, exist_ok=True)
            shutil.copy(picture, tmp_path / "datasets/coffee" / path)
    data = config["benchmark"]["data"]["init_args"]
    data.update(category="coffee", num_workers=0, train_batch_size=2)
    (tmp_path / "benchmark.yaml").write_text(yaml.safe_dump(config))
    where = str(tmp_path / "datasets")
    anomalib("benchmark --config benchmark.yaml", tmp_path, PL_TRAINER_MAX_EPOCHS="1", MVTEC_AD=where)
    (results,) = (tmp_path / "runs/benchmark").glob("*/results.csv")
    with results.open() as file:
        rows = {row["model.class_path"]: row for row in csv.DictReader(file)}
    assert set(rows) == set(small)
    for row in rows.values():
        assert 0 <= float(row["image_AUROC"]) <= 1
        assert 0 <= float(row["pixel_AUROC"]) <= 1
    script = str(CONFIGS.parent / "benchmarks/report.py")
    command = [sys.executable, "-W", "ignore", script, "--output", "report"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=300)
    report = (tmp_path / "report/report.md").read_text().splitlines()
    first = next(line for line in report if line.startswith("| coffee |"))
    shown = [cell.strip() for cell in first.split("|")[2:5]]
    assert shown == [f"{100 * float(rows[name]['image_AUROC']):.1f}" for name in small]
