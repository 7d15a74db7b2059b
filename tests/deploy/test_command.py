"""The inspection program: in this process where it can be, as a command where it must be."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from inspections import NAMES, other_model, page, picture, rows, run, write_video
from PIL import Image

from riad_anomalib import deploy


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
    table = {row["name"]: row for row in rows(tmp_path / "output")}
    assert [name for name, row in table.items() if row["verdict"]] == ["1.png", "5.jpg"]
    assert [line.split(": ")[:2][1].split()[0] for line in err.splitlines()] == ["2.png", "3.png", "4.jpg"]
    assert "2 frames" in out
    assert "3 skipped" in out
    told = page(tmp_path / "output")
    assert [row["name"] for row in told["rows"]] == ["1.png", "5.jpg"]
    skipped = ["2.png", "3.png", "4.jpg"]
    assert told["notes"] == [f"Skipped: {name} {table[name]['reason']}" for name in skipped]


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


def test_a_threshold_of_the_users_own_moves_the_verdicts_and_no_score(
    exported: Path,
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(exported, pictures, "--output", tmp_path / "models") == 0
    scores = {row["name"]: row["score"] for row in rows(tmp_path / "models")}
    third = sorted(map(float, scores.values()))[2]
    for threshold, anomalous in ((third + 1e-4, 3), (-1, 6), (1, 0)):
        assert run(exported, pictures, "--output", tmp_path / "own", "--threshold", threshold) == 0
        assert f" {anomalous} anomalous" in capsys.readouterr().out
        table = rows(tmp_path / "own")
        assert {row["name"]: row["score"] for row in table} == scores
        for row in table:
            assert (row["verdict"] == "anomalous") == (float(row["score"]) > threshold)


@pytest.mark.parametrize("threshold", ["nan", "inf", "high"])
def test_a_threshold_that_is_no_number_is_refused(
    threshold: str, exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(exported, "pictures", "--threshold", threshold)
    assert f"argument --threshold: invalid number value: '{threshold}'" in capsys.readouterr().err


def test_the_summary_shares_out_all_the_time() -> None:
    summary = deploy.Summary({"reading": 1.0, "results": 3.0, "total": 4.0}, ["x"], frames=8, anomalous=2)
    assert str(summary).splitlines() == [
        "8 frames, 2 anomalous, 1 skipped; 2.0 frames/s in 4.0 s",
        "time: 25% capture, 50% preparing and awaiting inference, 25% drawing and output",
    ]


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-X", "importtime", "-m", "riad_anomalib.deploy", *map(str, arguments)]


@pytest.mark.parametrize(("mode", "asked"), [("latency", signal.SIGINT), ("throughput", signal.SIGTERM)])
def test_ctrl_c_or_a_schedulers_signal_finishes_what_was_begun(
    mode: str, asked: signal.Signals, exported: Path, tmp_path: Path
) -> None:
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
        process.send_signal(asked)
        lines += process.stdout.readlines()
    assert process.returncode == 128 + asked
    *results, numbers, shares = lines
    assert 3 <= len(results) < 1000
    assert [row["name"] for row in rows(output)] == [line.split()[0] for line in results]
    assert len(list(output.glob("*.jpg"))) == len(results)
    told = page(output)
    assert [row["name"] for row in told["rows"]] == [line.split()[0] for line in results]
    assert told["notes"] == [f"The run ended early, after {len(results)} pictures."]
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
    assert not imported & {"torch", "anomalib", "lightning", "kornia", "tkinter", "skimage", "ray", "pyarrow"}


@pytest.mark.parametrize("number", ["0", "-1", "2.5", "three"])
def test_no_number_of_frames_is_refused(
    number: str, exported: Path, video: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(exported, video, "--past-frames", number)
    assert ended.value.code == 2
    assert f"argument --past-frames: '{number}' is no number of frames: give 1 or more" in capfd.readouterr().err
