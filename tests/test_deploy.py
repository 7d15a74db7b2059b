"""The inspection program: in this process where it can be, as a command where it must be."""

import csv
import re
import shutil
import signal
import subprocess
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import openvino
import pytest
import torch
from anomalib.data.utils import read_image
from anomalib.deploy import OpenVINOInferencer
from numpy.typing import NDArray
from openvino import opset13
from PIL import Image

from riad_anomalib import Riad, deploy
from riad_anomalib.deploy import inference

CAMERA_FRAMES = 5
WIDTH, HEIGHT = 56, 40


def picture(number: int) -> NDArray[Any]:
    """A smooth picture with so many patches of noise."""
    rng = np.random.default_rng(number)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    pixels = np.stack([2 * columns, 3 * rows, columns + rows], axis=2).astype(np.uint8)
    for _ in range(number):
        row, column = rng.integers(0, HEIGHT - 12), rng.integers(0, WIDTH - 12)
        pixels[row : row + 12, column : column + 12] = rng.integers(0, 256, (12, 12, 3))
    return pixels


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each kind of file that an inspection may meet, of several sizes, in sub-folders, two with one stem."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "line 2" / "ä").mkdir(parents=True)
    Image.fromarray(picture(0)).save(folder / "a.png")
    Image.fromarray(picture(3)).save(folder / "a.jpg", quality=80)
    Image.fromarray(picture(8)).convert("L").save(folder / "grey.tif")
    Image.fromarray(picture(1)).convert("RGBA").resize((400, 300)).save(folder / "line 2" / "large.png")
    Image.fromarray(picture(5)).convert("P").save(folder / "line 2" / "ä" / "palette.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.fromarray(picture(12)).save(folder / "line 2" / "turned.JPG", exif=exif)
    (folder / "notes.txt").write_text("not a picture")
    return folder


NAMES = ["a.jpg", "a.png", "grey.tif", "line 2/large.png", "line 2/turned.JPG", "line 2/ä/palette.png"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    """A model that has seen the pictures once, with thresholds amid their scores and maps."""
    torch.manual_seed(0)
    model = Riad(base_width=2, image_size=(32, 48), smoothing_size=3, region_sizes=(4, 8, 16))
    assert model.pre_processor is not None
    with torch.no_grad():
        images = [model.pre_processor(torch.as_tensor(read_image(pictures / name, as_tensor=True))) for name in NAMES]
        model.model(torch.stack(images))  # in training mode: Riad exports no network whose batch norm saw nothing
        scored: Any = model.eval().model(torch.stack(images))
    for kind, values in (("image", scored.pred_score), ("pixel", scored.anomaly_map)):
        for name, value in ((f"_{kind}_threshold", values.quantile(0.5)), (f"{kind}_min", 0.0), (f"{kind}_max", 1.0)):
            getattr(model.post_processor, name).fill_(value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.onnx and OpenVINO warn about themselves
        folder = tmp_path_factory.mktemp("exported")
        return Path(model.to_openvino(folder, onnx_kwargs={"opset_version": 18}))


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "belt.avi", 6)


def write_video(path: Path, number: int) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (WIDTH, HEIGHT))
    for i in range(number):
        writer.write(picture(i % 12)[..., ::-1])
    writer.release()
    return path


def rows(output: Path) -> list[dict[str, str]]:
    with (output / "results.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def run(*arguments: object) -> int:
    return deploy.main([str(argument) for argument in arguments])


def test_numbers_are_those_of_anomalibs_inferencer(
    exported: Path,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)  # the inferencer leaves a cache where it is
    inferencer = OpenVINOInferencer(exported, device="CPU", config={"INFERENCE_PRECISION_HINT": "f32"})
    queue = openvino.AsyncInferQueue(deploy.load_model(exported, "CPU", "latency", "f32"), 1)
    images = ((name, image) for name, image in deploy.open_source(str(pictures)) if image is not None)
    results = list(deploy.infer(queue, images, ahead=0))
    assert [result.name for result in results] == NAMES
    assert {result.pred_label for result in results} == {True, False}
    for result in results:
        expected: Any = inferencer.predict(pictures / result.name)
        np.testing.assert_array_equal(deploy.as_input(result.image), expected.image.transpose(0, 3, 1, 2))
        assert result.pred_score == pytest.approx(expected.pred_score.item(), abs=1e-6)
        assert result.pred_label == expected.pred_label.item()
        np.testing.assert_allclose(result.anomaly_map, expected.anomaly_map.squeeze(), atol=1e-6)
        np.testing.assert_array_equal(result.pred_mask, expected.pred_mask.squeeze())


@pytest.mark.parametrize("kind", ["pictures", "video"])
def test_both_modes_write_the_same_in_the_order_of_the_source(
    kind: str,
    exported: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = {}
    for mode in ("latency", "throughput"):
        output = tmp_path / mode / "new"
        assert run(exported, request.getfixturevalue(kind), "--mode", mode, "--output", output) == 0
        lines[mode] = capsys.readouterr().out.splitlines()[:-2]
        table = rows(output)
        for line, row in zip(lines[mode], table, strict=True):
            name, score, verdict = line.split("  ")
            assert (name, verdict) == (row["name"], row["verdict"])
            assert float(score) == pytest.approx(float(row["score"]), abs=6e-4)
        assert [row["name"] for row in table] == (NAMES if kind == "pictures" else [f"{i:06}" for i in range(6)])
        assert {row["verdict"] for row in table} == {"normal", "anomalous"}
        for row in table:
            assert (float(row["score"]) > 0.5) == (row["verdict"] == "anomalous")
        written = {path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file()}
        assert written == {"results.csv", *(f"{row['name']}.jpg" for row in table)}
    assert lines["latency"] == lines["throughput"]


class BackwardQueue:
    """Three requests that finish last in, first out."""

    def __init__(self) -> None:
        self.started: list[Any] = []
        self.most = 0

    def set_callback(self, callback: Callable[[Any, Any], None]) -> None:
        self.callback = callback

    def start_async(self, inputs: dict[int, NDArray[Any]], answer: object) -> None:
        self.started.append((float(inputs[0].mean()), answer))
        self.most = max(self.most, len(self.started))
        if len(self.started) == 3:
            self.wait_all()

    def wait_all(self) -> None:
        while self.started:
            value, answer = self.started.pop()
            data = np.full((1, 1, 2, 2), value)
            tensors = {
                name: data[0, 0, 0, :1] if name in {"pred_score", "pred_label"} else data for name in deploy.OUTPUTS
            }
            request = types.SimpleNamespace(get_tensor=lambda name, t=tensors: types.SimpleNamespace(data=t[name]))
            self.callback(request, answer)


def test_results_keep_the_order_when_requests_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "PATIENCE", 0)
    queue: Any = BackwardQueue()
    images = [(str(i), np.full((4, 4, 3), i, np.uint8)) for i in range(8)]
    results = list(deploy.infer(queue, images, ahead=3))
    assert [result.name for result in results] == [str(i) for i in range(8)]
    assert [round(255 * result.pred_score) for result in results] == list(range(8))
    assert queue.most == 3


def test_latency_hands_out_each_result_before_it_reads_on(exported: Path) -> None:
    read: list[str] = []

    def camera() -> Iterator[tuple[str, NDArray[Any]]]:
        for name in "abc":
            read.append(name)
            yield name, picture(0)

    queue = openvino.AsyncInferQueue(deploy.load_model(exported, "CPU", "latency", "f32"), 1)
    for result in deploy.infer(queue, camera(), ahead=0):
        assert read[-1] == result.name
    assert read == ["a", "b", "c"]


def test_an_overlay_is_hot_where_the_map_is_and_says_the_verdict() -> None:
    grey = np.full((300, 400, 3), 128, np.uint8)
    heat = np.zeros((30, 40), np.float32)
    heat[12:25, 22:36] = 1
    normal = deploy.draw(deploy.Result("a", grey, 0.25, False, heat, np.zeros((30, 40), np.bool_)))
    blue, _, red = normal[185, 290].astype(int)
    assert red > blue + 30
    blue, _, red = normal[185, 80].astype(int)
    assert blue > red + 30
    anomalous = deploy.draw(deploy.Result("a", grey, 0.75, True, heat, heat > 0.5))
    changed = (normal != anomalous).any(axis=2)
    assert changed[:30].any()  # the text
    lower = np.argwhere(changed[40:]) + np.array([40, 0])
    assert np.abs(lower.min(axis=0) - (120, 220)).max() <= 2
    assert np.abs(lower.max(axis=0) - (250, 360)).max() <= 2
    assert not changed[130:240, 230:350].any()  # an outline, not an area
    assert (grey == 128).all()


def test_pictures_that_cannot_be_used_are_named_and_the_others_done(
    exported: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("1.png", "5.jpg"):
        Image.fromarray(picture(3)).save(source / name)
    (source / "2.png").write_text("no picture")
    (source / "3.png").touch()
    (source / "4.jpg").write_bytes((source / "5.jpg").read_bytes()[:-300])  # the camera is still writing
    assert run(exported, source, "--mode", "throughput", "--output", tmp_path / "output") == 1
    out, err = capfd.readouterr()
    assert [row["name"] for row in rows(tmp_path / "output")] == ["1.png", "5.jpg"]
    assert [line.split(": ")[:2][1].split()[0] for line in err.splitlines()] == ["2.png", "3.png", "4.jpg"]
    assert "2 frames" in out
    assert "3 skipped" in out


def test_a_picture_that_cannot_be_drawn_keeps_its_verdict_and_the_others_are_drawn(
    exported: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    source, output = tmp_path / "source", tmp_path / "output"
    source.mkdir()
    for name, size in (("1.png", (1, 1)), ("2.png", (4, 65501)), ("3.png", (65500, 4))):
        Image.new("RGB", size).save(source / name)
    assert run(exported, source, "--output", output) == 1
    out, err = capfd.readouterr()
    assert [row["name"] for row in rows(output)] == ["1.png", "2.png", "3.png"]
    assert [line.split("  ")[0] for line in out.splitlines()[:-2]] == ["1.png", "2.png", "3.png"]
    assert err.startswith("not drawn: 2.png is 65501x4, of which OpenCV makes no JPEG: ")
    assert err.count("\n") == 1
    assert "3 frames" in out
    assert " 0 skipped, 1 not drawn; " in out
    assert sorted(path.name for path in output.glob("*.jpg")) == ["1.png.jpg", "3.png.jpg"]


def test_16_bits_are_scaled_to_8(tmp_path: Path) -> None:
    deep = picture(3).astype(np.uint16) * 257
    cv2.imwrite(str(tmp_path / "deep.png"), deep)
    ((_, image),) = deploy.open_source(str(tmp_path))
    np.testing.assert_array_equal(image, picture(3))


def test_a_model_of_one_size_says_which_pictures_do_not_fit(
    exported: Path,
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = openvino.Core().read_model(exported)
    model.reshape([1, 3, HEIGHT, WIDTH])
    openvino.save_model(model, tmp_path / "model.xml")
    assert run(tmp_path / "model.xml", pictures) == 1
    out, err = capsys.readouterr()
    assert "skipped: line 2/large.png is (300, 400, 3), the model takes [1,3,40,56]: resize it" in err
    assert "5 frames" in out
    assert "1 skipped" in out


def other_model(path: Path, shape: list[int], names: tuple[str, ...]) -> Path:
    """A model whose every output is its input, brought to 8x8 pixels: other sizes fail while it runs."""
    image = opset13.parameter(shape, np.float32, "input")
    same = opset13.reshape(image, np.array([1, 3, 8, 8]), special_zero=False)
    model = openvino.Model([opset13.relu(same) for _ in names], [image])
    for output, name in zip(model.outputs, names, strict=True):
        output.get_tensor().set_names({name})
    openvino.save_model(model, path)
    return path


@pytest.mark.parametrize("mode", ["latency", "throughput"])
def test_a_request_that_fails_ends_the_run_with_its_reason(
    mode: str,
    tmp_path: Path,
    pictures: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(inference, "PATIENCE", 0.1)
    failing = other_model(tmp_path / "model.xml", [1, 3, -1, -1], deploy.OUTPUTS)
    assert run(failing, pictures, "--mode", mode) == 2
    out, err = capsys.readouterr()
    assert re.fullmatch(r"error: stopped after 0 frames: .*8\.8.*\n", err)
    assert out.startswith("0 frames")


@pytest.fixture
def bad(tmp_path: Path, exported: Path, video: Path) -> dict[str, Path]:
    """What a user may give by mistake, by name."""
    files = {name: tmp_path / name for name in ("empty", "none.xml", "alone.xml", "broken.xml", "model.pt", "text.avi")}
    files["empty"].mkdir()
    files["alone.xml"].write_bytes(exported.read_bytes())
    files["broken.xml"].write_bytes(exported.read_bytes()[:5000])
    for name in ("model.pt", "text.avi", "broken.bin", "file"):
        (tmp_path / name).write_text("text")
    files["scores.xml"] = other_model(tmp_path / "scores.xml", [1, 3, 8, 8], ("anomaly_map", "pred_score"))
    files["grey.xml"] = other_model(tmp_path / "grey.xml", [3, 1, 8, 8], deploy.OUTPUTS)
    return files | {"model": exported, "video": video, "under a file": tmp_path / "file" / "output"}


@pytest.mark.parametrize(
    ("model", "source", "options", "message"),
    [
        ("none.xml", "video", (), r"model file \S*none.xml does not exist: give"),
        ("alone.xml", "video", (), r"model file \S*alone.bin does not exist: give an .xml with its .bin beside it"),
        ("model.pt", "video", (), r"\S*model.pt is neither .xml nor .onnx: give"),
        ("broken.xml", "video", (), r"OpenVINO cannot read \S*broken.xml: export the model again"),
        ("scores.xml", "video", (), r"\S*scores.xml has no pred_label, pred_mask: .* with its post-processor"),
        ("grey.xml", "video", (), r"\S*grey.xml takes \[3,1,8,8\], not \[1,3,H,W\]: give"),
        ("model", "nothing", (), r"source nothing does not exist: give"),
        ("model", "empty", (), r"no images in \S*empty: it needs files that end in .bmp, .jpeg"),
        ("model", "text.avi", (), r"source \S*text.avi is neither an image nor a video"),
        ("model", "99", (), r"camera 99 cannot be opened: is it connected"),
        ("model", "video", ("--device", "TOASTER"), r"cannot run \S* on TOASTER: this machine has .*CPU"),
        (
            "model",
            "video",
            ("--output", "under a file"),
            r"output \S*output cannot be written \(Not a directory\): give",
        ),
    ],
)
def test_a_mistake_ends_in_one_line_that_says_what_to_do(
    model: str,
    source: str,
    options: tuple[str, ...],
    message: str,
    bad: dict[str, Path],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    given = [bad.get(option, option) for option in options]
    output = () if "--output" in options else ("--output", tmp_path / "output")
    assert run(bad[model], bad.get(source, source), *given, *output) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert re.fullmatch(rf"error: .*{message}.*\n", err), err
    assert not (tmp_path / "output").exists()


def test_overlays_do_not_go_among_the_pictures(
    exported: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(exported, pictures, "--output", pictures / "line 2" / "output") == 2
    assert "lies in the source" in capsys.readouterr().err
    assert not (pictures / "line 2" / "output").exists()


def test_a_disk_that_fills_up_ends_the_run(
    exported: Path,
    video: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_bytes = Path.write_bytes

    def fill_up(path: Path, data: bytes) -> int:
        if path.name == "000003.jpg":
            raise OSError(28, "No space left on device")
        return write_bytes(path, data)

    monkeypatch.setattr(Path, "write_bytes", fill_up)
    assert run(exported, video, "--mode", "throughput", "--output", tmp_path / "output") == 2
    out, err = capsys.readouterr()
    assert "stopped after 3 frames" in err
    assert "No space left on device" in err
    assert "3 frames" in out
    assert len(rows(tmp_path / "output")) == 4


class Camera:
    """Gives a few pictures, then none."""

    def __init__(self, number: int) -> None:
        assert number == 7
        self.settings: dict[int, float] = {}
        self.left = CAMERA_FRAMES

    def isOpened(self) -> bool:  # noqa: N802
        return True

    def set(self, key: int, value: float) -> None:
        self.settings[key] = value

    def read(self) -> tuple[bool, NDArray[Any] | None]:
        assert self.settings == {cv2.CAP_PROP_BUFFERSIZE: 1}
        self.left -= 1
        return (True, picture(self.left)) if self.left >= 0 else (False, None)

    def release(self) -> None:
        pass


def test_a_camera_that_stops_is_reported(
    exported: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    assert run(exported, "7") == 1
    out, err = capsys.readouterr()
    assert [line.split()[0] for line in out.splitlines()[:-2]] == [f"{i:06}" for i in range(CAMERA_FRAMES)]
    assert err.startswith("skipped: 000005 cannot be read")
    assert err.count("\n") == 1


def test_a_camera_that_fails_ends_the_run(
    exported: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    class FailingCamera(Camera):
        def read(self) -> tuple[bool, NDArray[Any] | None]:
            if self.left == 1:
                msg = "no such format"
                raise cv2.error(msg)
            return super().read()

    monkeypatch.setattr(cv2, "VideoCapture", FailingCamera)
    assert run(exported, "7") == 2
    out, err = capsys.readouterr()
    assert err == f"error: stopped after {CAMERA_FRAMES - 1} frames: no such format\n"
    assert out.splitlines()[-2].startswith(f"{CAMERA_FRAMES - 1} frames")


def test_precision_is_f32_unless_asked_otherwise(
    exported: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = []
    compile_model = openvino.Core.compile_model

    def record(self: openvino.Core, model: openvino.Model, device: str, config: dict[str, str]) -> Any:
        configs.append(config)
        return compile_model(self, model, device, config)

    monkeypatch.setattr(openvino.Core, "compile_model", record)
    for options in ((), ("--mode", "throughput", "--precision", "bf16"), ("--precision", "auto")):
        assert run(exported, pictures / "a.png", *options) == 0
    assert configs == [
        {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"},
        {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": "bf16"},
        {"PERFORMANCE_HINT": "LATENCY"},
    ]


def test_the_summary_shares_out_all_the_time() -> None:
    summary = deploy.Summary({"reading": 1.0, "results": 3.0, "total": 4.0}, ["x"], frames=8, anomalous=2)
    assert str(summary).splitlines() == [
        "8 frames, 2 anomalous, 1 skipped; 2.0 frames/s in 4.0 s",
        "time: 25% capture, 50% preparing and awaiting inference, 25% drawing and output",
    ]


@pytest.fixture
def ending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Say how the window ends, see fake_tkinter.py, and get the folder of the pictures that it showed."""
    (tmp_path / "fake").mkdir()
    shutil.copy(Path(__file__).with_name("fake_tkinter.py"), tmp_path / "fake" / "tkinter.py")
    monkeypatch.syspath_prepend(tmp_path / "fake")  # the window's process begins with the path of this one

    def end(how: str, picture: int = 0, later: int = 0) -> Path:
        shown = tmp_path / "shown"
        shown.mkdir()
        for name, value in (("SHOWN", shown), ("ENDING", how), ("PICTURE", picture), ("LATER", later)):
            monkeypatch.setenv(f"FAKE_{name}", str(value))
        return shown

    return end


def opened(folder: Path) -> list[NDArray[Any]]:
    return [np.array(Image.open(path)) for path in sorted(folder.glob("*.ppm"))]


@pytest.mark.parametrize(
    ("how", "mode"),
    [("<q>", "latency"), ("<Escape>", "latency"), ("WM_DELETE_WINDOW", "latency"), ("WM_DELETE_WINDOW", "throughput")],
)
def test_closing_the_window_ends_the_run(
    how: str,
    mode: str,
    exported: Path,
    video: Path,
    tmp_path: Path,
    ending: Callable[..., Path],
) -> None:
    shown, output = ending(how, picture=2), tmp_path / "output"
    assert run(exported, video, "--show", "--mode", mode, "--output", output) == 0
    assert len(opened(shown)) == 2
    in_flight = (
        0 if mode == "latency" else len(openvino.AsyncInferQueue(deploy.load_model(exported, "CPU", mode, "f32")))
    )
    table = rows(output)
    assert len(table) == min(2 + in_flight, 6)  # what was started is finished
    for row, pixels in zip(table, opened(shown), strict=False):
        with Image.open(output / f"{row['name']}.jpg") as saved:
            difference = np.array(saved).astype(int) - pixels
        assert np.abs(difference).mean() < 10  # JPEG


@pytest.mark.parametrize("how", ["exit", "TclError"])
def test_losing_the_window_ends_the_run_with_its_summary(
    how: str,
    exported: Path,
    video: Path,
    tmp_path: Path,
    ending: Callable[..., Path],
    capfd: pytest.CaptureFixture[str],
) -> None:
    ending(how, picture=2)
    assert run(exported, video, "--show", "--output", tmp_path / "output") == 2
    out, err = capfd.readouterr()
    assert re.fullmatch(r"error: stopped after 2 frames: the window is gone, .*\n", err)
    assert out.splitlines()[2].startswith("2 frames")
    assert len(rows(tmp_path / "output")) == 2


@pytest.mark.parametrize("how", ["<q>", "exit"])
def test_the_last_picture_stays_until_the_window_ends(
    how: str,
    exported: Path,
    pictures: Path,
    ending: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    shown = ending(how, picture=6, later=9)
    assert run(exported, pictures, "--show") == 0
    assert (shown / "ended").exists()
    assert "6 frames" in capsys.readouterr().out


def test_what_is_shown_fits_the_screen_and_is_never_nothing(
    exported: Path,
    tmp_path: Path,
    ending: Callable[..., Path],
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name, size in (("1.png", (56, 40)), ("2.png", (400, 300)), ("3.png", (1, 5000))):
        Image.new("RGB", size).save(source / name)
    shown = ending("<q>", picture=3)
    assert run(exported, source, "--show") == 0
    assert [pixels.shape for pixels in opened(shown)] == [(40, 56, 3), (90, 120, 3), (90, 1, 3)]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("no display", r"--show needs a display \(no display name .*\): use --output instead"),
        ("no tkinter", r"--show needs tkinter: install it .*"),
    ],
)
def test_without_a_window_nothing_is_begun(
    how: str,
    message: str,
    exported: Path,
    pictures: Path,
    tmp_path: Path,
    ending: Callable[..., Path],
    capfd: pytest.CaptureFixture[str],
) -> None:
    ending(how)
    assert run(exported, pictures, "--show", "--output", tmp_path / "output") == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert re.fullmatch(rf"error: {message}\n", err)
    assert not (tmp_path / "output").exists()


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-X", "importtime", "-m", "riad_anomalib.deploy", *map(str, arguments)]


@pytest.mark.parametrize("mode", ["latency", "throughput"])
def test_ctrl_c_finishes_what_was_begun(mode: str, exported: Path, tmp_path: Path) -> None:
    long = write_video(tmp_path / "long.avi", 1000)
    output = tmp_path / "output"
    with subprocess.Popen(
        command(exported, long, "--mode", mode, "--output", output),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(3)]
        assert len(rows(output)) >= 2  # already: whatever happens now, they are safe
        process.send_signal(signal.SIGINT)
        lines += process.stdout.readlines()
    assert process.returncode == 130
    *results, numbers, shares = lines
    assert 3 <= len(results) < 1000
    assert [row["name"] for row in rows(output)] == [line.split()[0] for line in results]
    assert len(list(output.glob("*.jpg"))) == len(results)
    assert numbers.startswith(f"{len(results)} frames")
    percents = [int(percent) for percent in re.findall(r"(\d+)%", shares)]
    assert abs(sum(percents) - 100) <= 1


def test_a_reader_that_has_seen_enough_gets_no_traceback(exported: Path, tmp_path: Path) -> None:
    long = write_video(tmp_path / "long.avi", 1000)
    with subprocess.Popen(
        command(exported, long), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        problem, numbers, shares = [line for line in process.stderr if not line.startswith("import time:")]
    assert process.returncode == 2
    stopped = re.fullmatch(r"error: stopped after (\d+) frames: .*Broken pipe\n", problem)
    assert stopped
    assert numbers.startswith(f"{stopped[1]} frames")
    assert shares.startswith("time: ")


def test_the_command_needs_neither_torch_nor_anomalib_nor_tkinter(exported: Path, pictures: Path) -> None:
    run = subprocess.run(command(exported, pictures), capture_output=True, text=True, check=False, timeout=120)
    assert run.returncode == 0, run.stderr
    assert [line.split("  ")[0] for line in run.stdout.splitlines()[:-2]] == NAMES
    imported = {line.split("|")[-1].strip().split(".")[0] for line in run.stderr.splitlines() if "|" in line}
    assert {"cv2", "openvino", "numpy"} <= imported
    assert not imported & {"torch", "anomalib", "lightning", "kornia", "tkinter", "PIL", "skimage"}
