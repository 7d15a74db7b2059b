"""The scripts behind published figures, on tiny networks and pictures: what can be known of their tables is so."""

import csv
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import ablation
import beside
import calibration
import cost
import deployment
import iteration
import measuring
import numpy as np
import pytest
import speed
import thresholds
import throughput
import torch
import tradeoff
import video
import yaml
from anomalib.data import UCSDped
from anomalib.engine import Engine
from lightning.pytorch.utilities.seed import isolate_rng
from PIL import Image
from torchvision.transforms.v2 import Resize

from riad_anomalib import I3ad, Riad
from riad_anomalib.components import calibration as calibration_of
from riad_anomalib.components.smoothing import mean_filter, window_size
from riad_anomalib.demo_data import CATEGORY
from riad_anomalib.host.loaders import with_augmentations
from riad_anomalib.host.video import frame_by_frame

CONFIGS = Path(__file__).parents[1] / "configs"
SIZE = (32, 32)
NUM_GOOD, NUM_BAD = 3, 12  # twelve: three of each defect

# of Lightning, torch.onnx and OpenVINO about themselves
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("export_once")]
Run = Callable[..., str]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a script's command line in this process; return what it prints."""

    def main(script: ModuleType, *arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", [script.__name__, *map(str, arguments)])
        monkeypatch.setenv("PL_GLOBAL_SEED", "0")  # given back after the test
        with isolate_rng():
            script.main()
        return capsys.readouterr().out

    return main


def tables(text: str) -> list[dict[str, list[str]]]:
    """Return each table's cells by the first one of their row."""
    found = []
    for block in re.findall(r"(?:^\| .*\n)+", text, flags=re.MULTILINE):
        rows = [[cell.strip() for cell in line[1:-1].split(" | ")] for line in block.splitlines()]
        assert {len(row) for row in rows} == {len(rows[0])}
        assert rows.pop(1) == ["---"] * len(rows[0])
        found.append({row[0]: row[1:] for row in rows})
    return found


def test_thresholds_count_alarms_and_finds_of_pictures_that_no_network_saw(run: Run, root: Path) -> None:
    small = ("--seeds", 2, "--steps", 1, "--size", 32, "--width", 4, "--share", 0.34, "--shares", 0, 0.34)
    asked, aurocs = tables(run(thresholds, "--root", root, "--rates", 0.1, *small))
    rate, held_out, promised, alarms, interval, found, ours, best = asked[CATEGORY]
    assert (rate, held_out, promised) == ("10 %", "1", "50 % / 90 %")
    counted = [re.fullmatch(r"(\d+), (\d+) of (\d+)", cell) for cell in (alarms, found)]
    assert [match and int(match[3]) for match in counted] == [NUM_GOOD, NUM_BAD]
    assert interval.endswith("%")
    assert 0 <= float(ours) <= float(best) <= 1
    assert aurocs[CATEGORY][0] == "34 %"  # the later of two rows
    assert all(0 <= float(value) <= 1 for value in aurocs[CATEGORY][1].split(", "))


def reference_auroc(scores: Any, labels: Any) -> float:
    """The share of pairs of bad and good that are in order."""
    scores, labels = np.ravel(scores), np.ravel(labels)
    bad, good = scores[labels][:, None], scores[~labels]
    return float(((bad > good) + 0.5 * (bad == good)).mean())


@pytest.fixture(scope="module")
def root(small_demo_data: Callable[[Path, int], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    small_demo_data(folder, NUM_GOOD)
    return folder / CATEGORY


@pytest.fixture(scope="module")
def checkpoint(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a network that saw the training images, with the statistics that bfloat16 gives."""
    folder = tmp_path_factory.mktemp("training")
    with isolate_rng():
        torch.manual_seed(0)
        model = Riad(base_width=2, image_size=SIZE, region_sizes=(4, 8), smoothing_size=0.08, calibration="pixel")
        data, *_ = measuring.test_set(root, SIZE)
        options: dict[str, Any] = {"precision": "bf16-mixed", "logger": False, "enable_progress_bar": False}
        engine = Engine(max_epochs=1, accelerator="cpu", default_root_dir=folder, **options)
        engine.fit(model, datamodule=data)
    engine.trainer.save_checkpoint(folder / "model.ckpt")
    return folder / "model.ckpt"


def scored(checkpoint: Path, root: Path, *, bf16: bool, **other: Any) -> tuple[float, float]:
    """Return the image and pixel AUROC of the model, without any script."""
    model = Riad.load_from_checkpoint(checkpoint, map_location="cpu", **other).eval().model
    _, images, labels, masks = measuring.test_set(root, SIZE)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        results: list[Any] = [model(image) for image in torch.from_numpy(images).split(1)]
    scores, maps = (
        torch.cat([getattr(result, name) for result in results]).numpy() for name in ("pred_score", "anomaly_map")
    )
    return reference_auroc(scores, labels), reference_auroc(maps, masks)


def test_the_test_set_has_masks_where_images_are_anomalous(root: Path) -> None:
    _, images, labels, masks = measuring.test_set(root, SIZE)
    assert images.shape == (NUM_GOOD + NUM_BAD, 3, *SIZE)
    assert labels.sum() == NUM_BAD
    assert (masks.any(axis=(1, 2)) == labels).all()


def test_gflop_of_a_convolution_worked_out_by_hand() -> None:
    convolution = torch.nn.Conv2d(2, 3, 3, padding=1, device="meta")
    images = torch.empty(5, 2, 8, 8, device="meta")
    assert measuring.gflop(convolution, images) == pytest.approx(5 * 3 * 64 * (2 * 9) * 2 / 1e9)


def test_speed_compares_the_same_riad_and_its_ratios_agree(run: Run) -> None:
    text = run(speed, "--base-width", 2, "--image-size", 32, "--rounds", 1, "--device", "cpu")
    differences = re.findall(r"loss (\S+), anomaly map (\S+)", text)
    assert max(map(float, differences[0])) < 1e-5
    work = {name: float(tflop) for name, tflop in re.findall(r"^(\w+).*, (\S+) TFLOP$", text, flags=re.MULTILINE)}
    # Three passes in a training step, of which the backward ones count twice; one per set and region size at inference.
    assert work["Inference"] == pytest.approx(4 / 3 * work["Training"], rel=0.01)
    for table in tables(text):
        names = ["straightforward", "NCHW, fp32", "fp32", "bf16", "U-Net alone, fp32", "U-Net alone, bf16"]
        assert list(table)[1:] == names
        rates = {name: float(table[name][1]) for name in names}
        for name in names:
            seconds, rate, as_fast, beside_bare, share = table[name]
            assert float(seconds) * float(rate) == pytest.approx(1, abs=0.0006 * float(rate))
            # Of rates before they were rounded to hundredths, a few of them a second.
            expected = rates[name] / rates["straightforward"]
            assert float(as_fast.split()[0]) == pytest.approx(expected, rel=5e-3, abs=0.006)
            assert len(set(re.findall(r"[\d.]+", as_fast))) == 1  # one round: median and extremes are one
            if name == "straightforward" or "alone" in name:
                assert beside_bare == ""
            else:
                bare = rates["U-Net alone, bf16" if name == "bf16" else "U-Net alone, fp32"]
                assert float(beside_bare.split()[0]) == pytest.approx(bare / rates[name], rel=5e-3, abs=0.006)
            assert share.endswith("%")


# Each row is measured in a process of its own, which imports all there is: what any model has, with one of them.
COSTS: dict[str, dict[str, tuple[float, float]]] = {
    "Riad": {"batch_size 2": (2, 2), "image_size 64": (4, 4), "region_sizes (8,)": (1 / 4, 1)},
    "Ssae": {"objective ensemble": (2, 2)},
}


@pytest.mark.parametrize("model", COSTS)
def test_cost_counts_what_a_row_changes(run: Run, monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    factors = COSTS[model]
    small = {"base_width": 2, "image_size": SIZE[0]}
    monkeypatch.setitem(cost.BASE, model, cost.BASE[model] | small)
    rows = {", ".join(f"{key} {value}" for key, value in row.items()): row for row in cost.ROWS[model]}
    rows["image_size 64"] = {"image_size": 64}
    monkeypatch.setitem(cost.ROWS, model, [{}, *(rows[name] for name in factors)])
    (table,) = tables(run(cost, "--model", model, "--repeats", 1, "--device", "cpu"))
    (base, *others) = list(table.values())[1:]
    assert list(table)[2:] == list(factors)
    assert (base[4], base[8]) == ("1.00", "1.00")
    inference, training = float(base[2]), float(base[6])
    # Three passes; RIAD's step is of one region size, not four.
    assert training == pytest.approx((3 / 4 if model == "Riad" else 3) * inference, rel=0.01)
    for row, factor in zip(others, factors.values(), strict=True):
        assert (float(row[2]) / inference, float(row[6]) / training) == pytest.approx(factor, rel=0.01)
        assert min(float(row[4]), float(row[8])) > 0
    for row in (base, *others):
        assert float(row[5]) > 100  # MiB, of torch alone
        assert float(row[9]) > 100


def test_deployment_says_how_good_and_how_close_each_export_is(
    run: Run, checkpoint: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["torch fp32", "OpenVINO FP32", "OpenVINO INT8_PTQ"]
    monkeypatch.setattr(deployment, "EXPORTS", {name: deployment.EXPORTS[name] for name in names})
    parity, table = tables(run(deployment, "--checkpoint", checkpoint, "--root", root, "--repeats", 1))
    assert list(parity)[1:] == list(table)[1:] == names
    assert parity["torch fp32"] == ["0.0e+00"] * 4
    assert max(map(float, parity["OpenVINO FP32"])) < 1e-5
    assert max(map(float, parity["OpenVINO INT8_PTQ"])) > 1e-5
    expected = scored(checkpoint, root, bf16=False)
    for name in names:
        _, ratio, megabytes, peak, *aurocs = table[name]
        tolerance = 0.1 if "INT8" in name else 6e-5
        assert [float(auroc) for auroc in aurocs] == pytest.approx(expected, abs=tolerance)
        assert min(float(ratio), float(megabytes)) > 0
        # Each in a process of its own: what torch and anomalib take is in no other row, nor what this process takes.
        assert (float(peak) > 400) == (name == "torch fp32")
    assert table["OpenVINO FP32"][1] == "1.00"


def test_deployment_of_untrained_networks_has_a_table_each_and_no_auroc(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["OpenVINO FP32", "OpenVINO INT8_PTQ"]
    monkeypatch.setattr(deployment, "EXPORTS", {name: deployment.EXPORTS[name] for name in names})
    text = run(deployment, "--base-width", 2, "--image-size", 32, "--repeats", 1, "--beside")
    assert re.findall(r"^## (.*), 32x32$", text, flags=re.MULTILINE) == ["Riad, width 2", "DRAEM"]
    riad, draem = tables(text)
    for table in (riad, draem):
        assert list(table)[1:] == names[:1]  # quantization takes images
        assert table["OpenVINO FP32"][4:] == ["", ""]
    parameters = 97.4e6 * 4 / 1e6  # MB in float32, as anomalib's summary counts them
    assert float(draem["OpenVINO FP32"][2]) == pytest.approx(parameters, rel=0.02)
    assert float(riad["OpenVINO FP32"][2]) < 1


def test_deployment_takes_models_from_files_each_at_its_own_size(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deployment, "EXPORTS", {"OpenVINO FP32": deployment.EXPORTS["OpenVINO FP32"]})
    sizes = {"riad_small": [32, 48], "ssae_small": [64, 64]}
    for name, size in sizes.items():
        config = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
        config["model"]["init_args"] |= {"image_size": size, "base_width": 2}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(config))
    text = run(deployment, "--config", *(tmp_path / f"{name}.yaml" for name in sizes), "--repeats", 1)
    assert re.findall(r"^## (.*)$", text, flags=re.MULTILINE) == ["riad_small, 32x48", "ssae_small, 64x64"]
    assert all(float(table["OpenVINO FP32"][0]) >= 0 for table in tables(text))


def test_calibration_gives_the_aurocs_of_the_model_with_these_settings(run: Run, checkpoint: Path, root: Path) -> None:
    (table,) = tables(run(calibration, "--checkpoint", checkpoint, "--root", root))
    assert list(table) == ["region sizes", "4, 8", "4", "8"]
    names = table.pop("region sizes")[2:]
    assert [row[0] for row in table.values()] == ["6", "3", "3"]
    assert float(table["4, 8"][1]) == pytest.approx(2 * float(table["4"][1]), rel=0.01)
    for name, cell in zip(names, table["4, 8"][2:], strict=True):
        kind, share = name.split(", ")
        expected = scored(checkpoint, root, bf16=True, calibration=kind, smoothing_size=float(share))
        tolerance = 6e-4 if kind == "none" else 0.03  # the training took the statistics from other batches
        assert [float(auroc) for auroc in cell.split(" / ")] == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize("model", beside.MODELS)
def test_beside_trains_the_model_and_tests_it_on_every_image(run: Run, root: Path, model: str) -> None:
    if model == "PatchCore":
        pytest.importorskip("efficientnet_lite_pytorch")
    text = run(beside, "--root", root, "--image-size", 32, "--models", model, "--minutes", 0.001)
    (table,) = tables(text)
    assert list(table)[1:] == [model]
    size, epochs, seconds, image_auroc, pixel_auroc = table[model]
    assert size == "32x32"
    assert (int(epochs), float(seconds) < 60) == (1, True)
    # Pairs of a bad and a good image, ordered or equal: a multiple of half a pair.
    pairs = 2 * NUM_GOOD * NUM_BAD * float(image_auroc)
    assert pairs == pytest.approx(round(pairs), abs=2 * NUM_GOOD * NUM_BAD * 6e-5)
    assert 0 < float(pixel_auroc) < 1


def test_throughput_compares_all_models_with_the_first(run: Run, root: Path, tmp_path: Path) -> None:
    output = tmp_path / "throughput.csv"
    options = ("--only", "ssae_small", "--rounds", 1, "--seconds", 0.01, "--output", output)
    text = run(throughput, "--root", root, *options)
    names, *rows = csv.reader(output.open(encoding="utf-8"))
    assert " | ".join(names) in text
    assert [row[:4] for row in rows] == [["ssae_small", precision, "128x128", "1.02"] for precision in ("FP32", "INT8")]
    first = float(rows[0][4])
    for *_, milliseconds, images_per_second, ratio in rows:
        assert float(milliseconds) * float(images_per_second) == pytest.approx(1000, rel=0.02)
        assert float(ratio) == pytest.approx(first / float(milliseconds), rel=0.02)  # one round


def test_ablation_scores_a_network_as_its_model_does(run: Run, root: Path, tmp_path: Path) -> None:
    config = yaml.safe_load((CONFIGS / "ssae_small.yaml").read_text())
    config["model"]["init_args"] |= {"image_size": [*SIZE], "base_width": 2, "dilations": [1]}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(config))
    output = tmp_path / "ablation.csv"
    text = run(
        *(ablation, "--root", root, "--config", tmp_path / "small.yaml", "--epochs", 1, "--threads", 1),
        *("--train", '{"lr": 0.01}', '{"objective": "ensemble"}', "--score", '{"calibration": "avgmap"}', "{}"),
        *("--base", '{"crop_scales": [1]}', "--output", output, "--checkpoints", tmp_path),
    )
    rows = list(csv.reader(output.open(encoding="utf-8")))
    assert [row[5:7] for row in rows] == [
        ['{"crop_scales": [1], "lr": 0.01}', '{"calibration": "avgmap"}'],
        ['{"crop_scales": [1], "lr": 0.01}', "{}"],
        ['{"crop_scales": [1], "objective": "ensemble"}', '{"calibration": "avgmap"}'],
        ['{"crop_scales": [1], "objective": "ensemble"}', "{}"],
    ]
    for row in rows:
        assert " | ".join(row) in text
    # The third row by hand: without statistics of normal images there would be an error, with others another score.
    model = ablation.build(tmp_path / "small.yaml", {"objective": "ensemble", "calibration": "avgmap"}).eval()
    model.model.networks.load_state_dict(torch.load(tmp_path / f"{root.name}_0_1.pt", weights_only=True))
    data, images, labels, masks = measuring.test_set(root, SIZE)
    assert len(data.train_data) == NUM_GOOD  # all of them are what normal images look like
    with torch.no_grad():
        normal = torch.stack([torch.as_tensor(item.image) for item in data.train_data])
        maps = model.model.dissimilarity_map(normal)
        model.model.calibration.set_statistics(maps.mean(dim=0), maps.std(dim=0, correction=0))
        result = model.model(torch.from_numpy(images))
    expected = [reference_auroc(result.pred_score, labels), reference_auroc(result.anomaly_map[:, 0], masks)]
    assert [float(cell) for cell in rows[2][8:]] == pytest.approx(expected, abs=1e-3)
    assert rows[2][7] == f"{calibration_of.likeness(maps):.4f}"
    # The networks are there: nothing is trained again, and moved maps have another AUROC, of images alone.
    run(
        *(ablation, "--root", root, "--config", tmp_path / "small.yaml", "--checkpoints", tmp_path, "--shift", 0, 16),
        *("--train", '{"crop_scales": [1]}', "--score", '{"calibration": "avgmap"}', "--output", tmp_path / "b.csv"),
    )
    still, moved = csv.reader((tmp_path / "b.csv").open(encoding="utf-8"))
    assert still[7:] == rows[0][7:]
    assert (still[4], moved[4], moved[9]) == ("0", "16", "nan")
    assert moved[7:9] != still[7:9]


ACCURACY = "# of grid\nmodel,image_size,image_auroc,source\n"


def test_tradeoff_joins_what_was_measured_at_the_same_size(tmp_path: Path) -> None:
    (tmp_path / "accuracy.csv").write_text(
        ACCURACY + "b,64x64,0.8,RESULTS.md\na,32x32,0.5,RESULTS.md\na,32x32,0.75,RESULTS.md\n"
    )
    times = "model,precision,image_size,milliseconds\na,FP32,32x32,4\na,INT8,32x32,2\nb,FP32,64x64,8\nb,FP32,32x32,1\n"
    (tmp_path / "throughput.csv").write_text(times)
    table = tradeoff.joined(tmp_path / "accuracy.csv", tmp_path / "throughput.csv")
    assert table[["model", "image_auroc", "FP32"]].to_numpy().tolist() == [["b", 0.8, 8], ["a", 0.625, 4]]
    assert table.INT8.isna().tolist() == [True, False]
    tradeoff.draw(table, tmp_path / "tradeoff.png")
    with Image.open(tmp_path / "tradeoff.png") as picture:
        assert np.asarray(picture).std() > 0
    (tmp_path / "throughput.csv").write_text(times.replace("b,FP32,64x64,8\n", ""))
    with pytest.raises(ValueError, match=r"throughput.csv has no time in FP32 of \['b'\] at the size"):
        tradeoff.joined(tmp_path / "accuracy.csv", tmp_path / "throughput.csv")


def test_the_picture_is_made_of_files_that_are_committed_and_agree_with_the_results() -> None:
    table = tradeoff.joined(tradeoff.HERE / "accuracy.csv", tradeoff.HERE / "throughput.csv")
    assert {"riad_small", "ssae_small", "i3ad_small", "PatchCore"} <= set(table.model)
    results = (tradeoff.HERE / "RESULTS.md").read_text(encoding="utf-8")
    with (tradeoff.HERE / "accuracy.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(line for line in file if not line.startswith("#")):
            if row["source"] == "RESULTS.md":
                assert row["image_auroc"] in results, row


def test_video_gives_the_aurocs_of_the_engine_with_these_settings(run: Run, footage: Path, tmp_path: Path) -> None:
    quiet: dict[str, Any] = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False}
    small: dict[str, Any] = {"base_width": 2, "image_size": SIZE, "region_sizes": (4, 8), "smoothing_size": 0.08}
    data = UCSDped(footage.parent, footage.name, num_workers=0)
    with isolate_rng():
        torch.manual_seed(0)
        training = Engine(max_epochs=1, default_root_dir=tmp_path, **quiet)
        training.fit(Riad(**small, calibration="pixel", visualizer=False), datamodule=data)
    checkpoint = training.best_model_path
    text = run(video, "--checkpoint", checkpoint, "--root", footage.parent, "--category", footage.name, "--frames", 200)
    (table,) = tables(text)
    names = table.pop("calibration")
    assert names == ["past_frames", "all videos", "Test001", "Test002"]
    past_frames, *aurocs = table["pixel"]  # the later of two rows
    assert past_frames == "3"
    assert table["pixel, 200 frames"] == table["pixel"]  # those that training calibrated with
    model = Riad(**small, calibration="pixel", visualizer=False)
    engine = Engine(default_root_dir=tmp_path, **quiet)
    metrics = engine.test(model, datamodule=data, ckpt_path=checkpoint, verbose=False)[0]
    expected = [metrics[name] for name in ("image_AUROC", "image_AUROC/Test001", "image_AUROC/Test002")]
    assert [float(value) for value in aurocs] == pytest.approx(expected, abs=6e-4)
    # The row without a network, by hand: all training frames are among the 200.
    normal, test = (
        [frames[i] for i in range(len(frames))]
        for frames in (
            with_augmentations(frame_by_frame(part), Resize(SIZE)) for part in (data.train_data, data.test_data)
        )
    )
    normal_images, images = (torch.cat([frame.image.reshape(1, 3, *SIZE) for frame in part]) for part in (normal, test))
    usual, values = (
        (part - normal_images.mean(dim=0)).abs().mean(dim=1, keepdim=True) for part in (normal_images, images)
    )
    calibrated = calibration_of.calibrate(values, usual.mean(dim=0), usual.std(dim=0, correction=0))
    scores = mean_filter(calibrated, window_size(0.08, SIZE)).amax(dim=(1, 2, 3))
    expected_auroc = reference_auroc(scores, np.array([bool(frame.gt_label) for frame in test]))
    (of_one_frame,) = re.findall(r"^\| mean picture \| 1 \| (\S+)", text, flags=re.MULTILINE)
    assert float(of_one_frame) == pytest.approx(expected_auroc, abs=6e-4)


@pytest.fixture(scope="module")
def i3ad_checkpoint(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a network that saw the training images, with the threshold and the statistics that bfloat16 gives."""
    folder = tmp_path_factory.mktemp("training")
    with isolate_rng():
        torch.manual_seed(0)
        settings: dict[str, Any] = {"base_width": 4, "image_size": SIZE, "smoothing_size": 5, "calibration": "pixel"}
        model = I3ad(adversarial_weight=0, iterations=2, lr=0.01, **settings)
        data, *_ = measuring.test_set(root, SIZE)
        options: dict[str, Any] = {"precision": "bf16-mixed", "logger": False, "enable_progress_bar": False}
        engine = Engine(max_epochs=5, accelerator="cpu", default_root_dir=folder, **options)
        engine.fit(model, datamodule=data)
    engine.trainer.save_checkpoint(folder / "model.ckpt")
    return folder / "model.ckpt"


def test_iteration_gives_the_aurocs_of_the_model_after_so_many_rounds(
    run: Run, i3ad_checkpoint: Path, root: Path
) -> None:
    (table,) = tables(run(iteration, "--checkpoint", i3ad_checkpoint, "--root", root, "--rounds", 1, 2))
    assert table.pop("rounds")[-2:] == ["none", "pixel"]
    assert [cells[0] for cells in table.values()] == ["4", "5"]
    assert table["1"][1:3] == ["100.00", "100.00"]
    _, images, labels, masks = measuring.test_set(root, SIZE)
    for number, cells in table.items():
        loaded = I3ad.load_from_checkpoint(i3ad_checkpoint, map_location="cpu", calibration="none")
        model: Any = loaded.eval().model
        model.iterations = int(number)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            results = [model(image) for image in torch.from_numpy(images).split(1)]
        scores, maps = (
            torch.cat([getattr(r, name) for r in results]).numpy() for name in ("pred_score", "anomaly_map")
        )
        expected = reference_auroc(scores, labels), reference_auroc(maps, masks)
        assert [float(value) for value in cells[3].split(" / ")] == pytest.approx(expected, abs=6e-4)
    # The statistics in the checkpoint are those after two rounds.
    calibrated: Any = I3ad.load_from_checkpoint(i3ad_checkpoint, map_location="cpu").eval().model
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        scores = torch.cat([calibrated(image).pred_score for image in torch.from_numpy(images).split(1)]).numpy()
    assert float(table["2"][4].split(" / ")[0]) == pytest.approx(reference_auroc(scores, labels), abs=6e-4)


def test_iteration_drives_riads_network_beside_riad_itself(run: Run, checkpoint: Path, root: Path) -> None:
    arguments = ("--checkpoint", checkpoint, "--model", "Riad", "--root", root, "--map", "msgms")
    (table,) = tables(run(iteration, *arguments, "--mask-threshold", 0.3, "--rounds", 1, 3))
    own = table["RIAD"]
    assert own[0] == "6"  # two region sizes, three sets
    for cell, kind in zip(own[3:], ("none", "pixel"), strict=True):
        expected = scored(checkpoint, root, bf16=True, calibration=kind)
        assert [float(value) for value in cell.split(" / ")] == pytest.approx(expected, abs=6e-4)
    assert [table[number][0] for number in ("1", "3")] == ["4", "6"]
    assert table["1"][1:3] == ["100.00", "100.00"]
    assert 0 < float(table["3"][1]) < 100
    assert table["1"][3:] != own[3:]


def test_iteration_counts_what_exports_cost(run: Run, i3ad_checkpoint: Path) -> None:
    (table,) = tables(run(iteration, "--checkpoint", i3ad_checkpoint, "--export", "--rounds", 1, 2))
    names = table.pop("rounds")
    cells = {number: dict(zip(names, map(float, row), strict=True)) for number, row in table.items()}
    assert list(cells) == ["1", "2"]
    assert cells["1"]["nodes"] < cells["2"]["nodes"]
    assert all(row["greatest difference"] < 1e-4 for row in cells.values())
    assert all(row["MB"] > 0 for row in cells.values())


def test_iteration_draws_two_rows_of_pictures(run: Run, i3ad_checkpoint: Path, root: Path, tmp_path: Path) -> None:
    picture = next((root / "test/stain").iterdir())
    output = tmp_path / "rounds.png"
    run(iteration, "--checkpoint", i3ad_checkpoint, "--picture", picture, "--output", output)
    with Image.open(output) as strip:
        assert strip.size == (6 * (SIZE[1] + 4), 2 * (SIZE[0] + 4))
        pixels = np.array(strip)
    panels = [pixels[2 : 2 + SIZE[0], 36 * i + 2 : 36 * i + 34] for i in range(5)]
    white = np.stack([(panel == 255).all(axis=2) for panel in panels[1:]])
    assert (white.sum(axis=0) >= 1).all()  # the four masks remove everything
    for panel, hole in zip(panels[1:], white, strict=True):
        assert (panel[~hole] == panels[0][~hole]).all()
