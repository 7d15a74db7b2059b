from pathlib import Path

import numpy as np
import pytest
from inspections import NAMES, rows, run
from PIL import Image

from riad_anomalib import deploy


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
        assert written == {"results.csv", *(f"{row['name']}.jpg" for row in table)}
    assert lines["latency"] == lines["throughput"]


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
