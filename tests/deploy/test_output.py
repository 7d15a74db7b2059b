import errno
import io
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inspections import NAMES, other_model, page, picture, rows, run
from PIL import Image

from riad_anomalib import deploy
from riad_anomalib.deploy.output import Table
from riad_anomalib.report.names import path_of


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
        seen = {f"report_files/{i}.{kind}.jpg" for i in range(6) for kind in ("0", "1", "thumbnail")}
        assert written == {
            "results.csv",
            "report.html",
            "report_files/overlays.txt",
            *(f"{row['name']}.jpg" for row in table),
            *seen,
        }
        told = page(output)["rows"]
        assert [row["name"] for row in told] == [row["name"] for row in table]
        assert [f"{row['score']:.6f}" for row in told] == [row["score"] for row in table]
        assert [row["is_anomalous"] for row in told] == [row["verdict"] == "anomalous" for row in table]
    assert lines["latency"] == lines["throughput"]


def test_past_frames_give_every_frame_a_second_score_that_decides(
    exported: Path,
    video: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(exported, video, "--output", tmp_path / "own") == 0
    own = [float(row["score"]) for row in rows(tmp_path / "own")]
    capsys.readouterr()
    for mode in ("latency", "throughput"):
        output = tmp_path / mode
        assert run(exported, video, "--past-frames", 3, "--mode", mode, "--output", output) == 0
        table = rows(output)
        assert list(table[0]) == ["name", "score", "averaged_score", "verdict", "reason"]
        assert [float(row["score"]) for row in table] == pytest.approx(own, abs=1e-5)
        means = [np.mean(own[max(0, i - 2) : i + 1]) for i in range(len(own))]
        assert [float(row["averaged_score"]) for row in table] == pytest.approx(means, abs=1e-5)
        assert [row["verdict"] == "anomalous" for row in table] == [mean > 0.5 for mean in means]
        line = capsys.readouterr().out.splitlines()[1]
        assert line == f"000001  {own[1]:.3f}  {means[1]:.3f}  {table[1]['verdict']}"


def test_frames_of_a_folder_come_in_the_order_of_their_numbers(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, output = tmp_path / "frames", tmp_path / "output"
    source.mkdir()
    for i in range(12):
        Image.fromarray(picture(i)).save(source / f"{i + 1}.png")
    (source / "7.png").write_bytes(b"no picture")
    for mode in ("latency", "throughput"):
        assert run(exported, source, "--past-frames", 3, "--mode", mode, "--output", output) == 1
        own = {int(row["name"].partition(".")[0]): float(row["score"]) for row in rows(output) if row["score"]}
        assert list(own) == [1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12]
        means = [np.mean([own[past] for past in range(frame - 2, frame + 1) if past in own]) for frame in own]
        assert [float(row["averaged_score"]) for row in rows(output) if row["score"]] == pytest.approx(means, abs=1e-5)
    assert "skipped: 7.png" in capsys.readouterr().err


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
    assert [row["views"] for row in page(output)["rows"]] == [2, 2, 2]  # smaller, all of them can be drawn


def test_an_overlay_that_its_name_forbids_costs_the_run_nothing(
    exported: Path, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_bytes = Path.write_bytes

    def refuse(path: Path, data: bytes) -> int:
        if path.name == "000003.jpg":
            raise OSError(36, "File name too long")
        return write_bytes(path, data)

    monkeypatch.setattr(Path, "write_bytes", refuse)
    assert run(exported, video, "--output", tmp_path / "output") == 1
    out, err = capsys.readouterr()
    assert err == "not drawn: 000003 [Errno 36] File name too long\n"
    assert " 0 skipped, 1 not drawn; " in out
    assert len(rows(tmp_path / "output")) == len(page(tmp_path / "output")["rows"]) == 6


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_overlays_do_not_go_among_the_pictures(
    exported: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "source"
    (source / "source").mkdir(parents=True)
    for name in ("a.png", "source/b.png"):
        shutil.copy(pictures / "a.png", source / name)
    (tmp_path / "link").symlink_to(source)
    for given, output in (
        (source, source / "source/output"),
        (source, source),
        (source / "a.png", source),
        (source / "a.png", tmp_path / "link"),
        (source, tmp_path),  # source/b.png.jpg would lie in the source
    ):
        assert run(exported, given, "--output", output) == 2
        assert "lies in the source" in capsys.readouterr().err
        assert files(tmp_path) == {"source/a.png", "source/source/b.png"}
    assert run(exported, source / "a.png", "--output", source / "inspected") == 0  # the folder was not asked for


def test_files_of_any_name_have_a_row_and_an_overlay_of_their_own(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["a.png", "A.png", "a.png.jpg/b.png", "report.html/b.png", "report_files/b.png", "results.csv/a.png"]
    names += ["=1+1.png", "tab\tline\n\x1b[31m.png", "検査.png", "a\\b.png", "x" * 251 + ".png", "é" * 125 + ".png"]
    names += [os.fsdecode(b"Pr\xe4ge.png"), os.fsdecode(b"Pr\xfcge.png")]
    for name in names:
        path = tmp_path / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(1)).save(tmp_path / "one.png")
        os.link(tmp_path / "one.png", path)
    printed = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(printed, encoding="cp1252", errors="strict"))
    output = tmp_path / "output"
    assert run(exported, tmp_path / "source", "--output", output) == 0
    table = [row["name"] for row in rows(output)]
    assert sorted(map(path_of, table)) == sorted(names)
    assert not [name for name in table if name.startswith(("=", "+", "-", "@"))]
    told = [row["name"] for row in page(output)["rows"]]
    assert [*map(path_of, told)] == [*map(path_of, table)]
    lines = printed.getvalue().decode("cp1252").splitlines()[:-2]
    assert [path_of(line.split("  ")[0]) for line in lines] == [*map(path_of, table)]
    assert "\x1b" not in printed.getvalue().decode("cp1252")
    overlays = {name for name in files(output) if not name.startswith("report_files/")}
    assert len({name.casefold() for name in overlays}) == len(names) + 2
    assert {"A.png.jpg", "report.html", "results.csv"} < overlays


def test_what_an_earlier_run_left_goes_when_this_one_is_done_and_what_a_user_put_there_stays(
    exported: Path, pictures: Path, tmp_path: Path
) -> None:
    output = tmp_path / "output"
    assert run(exported, pictures, "--output", output) == 0
    (output / "line 2/mine.jpg").touch()
    assert run(exported, pictures / "a.png", "--output", output) == 0
    seen = {f"report_files/0.{kind}.jpg" for kind in ("0", "1", "thumbnail")} | {"report_files/overlays.txt"}
    assert files(output) == {"a.png.jpg", "results.csv", "report.html", "line 2/mine.jpg"} | seen
    before = (output / "report.html").read_text(encoding="utf-8")
    model = other_model(tmp_path / "model.xml", [1, 3, -1, -1], deploy.OUTPUTS)
    assert run(model, pictures, "--output", output) == 2  # fails on the first picture
    assert (output / "report.html").read_text(encoding="utf-8") == before
    assert [row["name"] for row in rows(output)] == ["a.png"]
    assert files(output) == {"a.png.jpg", "results.csv", "report.html", "line 2/mine.jpg"} | seen


@pytest.mark.parametrize("kept", ["all", "anomalous", "none"])
def test_overlays_are_of_the_pictures_that_were_asked_for(
    kept: str, exported: Path, pictures: Path, tmp_path: Path
) -> None:
    output = tmp_path / "output"
    words = ["--overlays"] if kept == "all" else ["--overlays", kept]
    assert run(*words, exported, pictures, "--output", output) == 0
    table = rows(output)
    assert {row["verdict"] for row in table} == {"normal", "anomalous"}
    wanted = {"all": {"normal", "anomalous"}, "anomalous": {"anomalous"}, "none": set()}[kept]
    overlays = {row["name"] + ".jpg" for row in table if row["verdict"] in wanted}
    assert {name for name in files(output) if not name.startswith("report_files")} == {
        "results.csv",
        "report.html",
        *overlays,
    }
    told = page(output)
    for number, row in enumerate(told["rows"]):
        assert row["views"] == (2 if row["name"] + ".jpg" in overlays else 0)
        assert (output / f"report_files/{number}.thumbnail.jpg").exists() == (row["views"] > 0)
    assert told["notes"] == [f"--overlays {kept}: other pictures are not shown."] * (kept != "all")


def test_a_table_that_cannot_grow_has_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table(tmp_path, "name", "score")
    table.row("a", "1")

    class Full(io.RawIOBase):
        """Takes a part of the line, as a disk that fills up does."""

        def __init__(self, file: Any) -> None:
            self.file = file

        def write(self, data: Any) -> int:
            self.file.write(data[:3])
            self.file.flush()
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self) -> None:
            self.file.close()
            super().close()

    monkeypatch.setattr(table, "_file", Full(table._file))
    with pytest.raises(OSError, match="No space left"):
        table.row("b", "2")
    assert (tmp_path / "results.csv").read_bytes() == b"name,score\r\na,1\r\n"


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
    told = page(tmp_path / "output")
    assert len(told["rows"]) == 4
    assert [note for note in told["notes"] if "ended early" in note and "No space left on device" in note]


def test_the_page_counts_errors_where_a_folder_says_what_is_good(
    exported: Path,
    pictures: Path,
    tmp_path: Path,
) -> None:
    options = ("--mode", "throughput", "--threshold", "0.25", "--output", tmp_path / "output")
    assert run(exported, pictures, *options, "--good", "ä") == 0
    told = page(tmp_path / "output")
    truth = {row["name"]: row["is_defective"] for row in told["rows"]}
    assert truth == dict(zip(NAMES, [None, None, None, True, True, False], strict=True))
    assert told["threshold"] == 0.25
    words = ["python", "-m", "riad_anomalib.deploy", exported, pictures]
    words += ["--output", tmp_path / "output", "--good", "ä", "--mode", "throughput"]
    assert shlex.split(told["command"]) == [str(word) for word in words]
    assert run(exported, pictures, *options, "--good", "fine") == 0
    told = page(tmp_path / "output")
    assert {row["is_defective"] for row in told["rows"]} == {None}
    assert told["notes"] == ["No picture is in a sub-folder fine: what is good is not known."]


def test_what_is_good_is_for_the_page(exported: Path, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(exported, pictures, "--good", "good") == 2
    assert capsys.readouterr().err == "error: --good is for the report: give --output too\n"
