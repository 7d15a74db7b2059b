"""Archives on a cluster: several nodes on one machine, as Ray's own tests have them."""

import json
import os
import re
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inspections import NAMES, other_model, picture, rows, run
from PIL import Image

from riad_anomalib import deploy
from riad_anomalib.deploy.inference import model_files

ray = pytest.importorskip("ray", reason="the cluster extra is not installed")
import archive  # noqa: E402
import pyarrow as pa  # noqa: E402
from nodes import OPTIONS, two_nodes, workers  # noqa: E402
from pyarrow import parquet  # noqa: E402

from riad_anomalib.deploy import cluster  # noqa: E402
from riad_anomalib.deploy.cluster import driver  # noqa: E402
from riad_anomalib.deploy.cluster import table as parts  # noqa: E402
from riad_anomalib.deploy.cluster.inspector import Overlaid  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # of Ray about itself

Row = dict[str, Any]


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    with two_nodes() as made:
        yield made


def table(output: Path) -> dict[str, Row]:
    """Return the rows of the results by their names, none twice."""
    found = parquet.read_table(output / "results").to_pylist()
    assert len({row["name"] for row in found}) == len(found)
    return {row["name"]: row for row in found}


def inspected(
    model: Path, source: Path, mode: str = "latency", device: str = "CPU", actor: type[Any] = cluster.Inspector
) -> dict[str | None, Row]:
    """Return the rows that an actor makes of a source, without any cluster."""
    files, found, _ = cluster.find_pictures(str(source))
    options = {"device": device, "mode": mode, "precision": "f32", "threads": 1}
    inspect = actor({file.name: file.read_bytes() for file in model_files(model)}, files, None, None, options)
    block = pa.table({"name": [*found], "path": [os.fsencode(path) for path in found.values()]})
    return {row["name"]: row for row in inspect(block).to_pylist()}


def test_results_are_those_of_one_machine_to_the_bit(
    nodes: Any, exported: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, output = tmp_path / "source", tmp_path / "output"
    shutil.copytree(pictures, source)
    (source / "damaged.png").write_text("no picture")
    assert run(exported, source, "--output", tmp_path / "one") == 1
    requests = deploy.infer_requests(deploy.load_model(exported, "CPU", "latency", "f32"), "latency")
    frames: Any = deploy.open_source(str(pictures))
    expected = {result.name: result for result in deploy.infer(requests, frames)}
    capsys.readouterr()
    assert run(exported, source, "--cluster", nodes.address, "--output", output.as_uri(), "--overlays") == 1
    out, err = capsys.readouterr()
    found = table(output)
    damaged = found.pop("damaged.png")
    assert (damaged["score"], damaged["verdict"]) == (None, None)
    assert f"skipped: damaged.png {damaged['reason']}\n" in err
    (skipped,) = (row for row in rows(tmp_path / "one") if not row["score"])
    assert (skipped["name"], skipped["reason"]) == ("damaged.png", damaged["reason"])
    assert sorted(found) == NAMES == sorted(row["name"] for row in rows(tmp_path / "one") if row["score"])
    for name, row in found.items():
        assert row == {
            "name": name,
            "score": expected[name].pred_score,
            "verdict": expected[name].verdict,
            "reason": None,
        }
        assert (output / f"overlays/{name}.jpg").read_bytes() == (tmp_path / f"one/{name}.jpg").read_bytes()
    assert inspected(exported, pictures, "throughput") == found
    assert (output / "results/_SUCCESS").read_text() == "6 pictures, 3 anomalous, 1 skipped\n"
    assert out.splitlines()[-1].startswith("6 pictures, 3 anomalous, 1 skipped; ")
    assert run(exported, source, "--cluster", nodes.address, "--output", output) == 2
    assert f"error: output {output} has results already: give another folder\n" in capsys.readouterr().err


def test_what_cannot_be_used_is_a_row_with_a_reason(tmp_path: Path) -> None:
    fixed = other_model(tmp_path / "model.xml", [1, 3, 8, 8], deploy.OUTPUTS)
    source = tmp_path / "source"
    source.mkdir()
    Image.fromarray(picture(3)).save(source / "other size.png")
    (source / "text.png").write_text("no picture")
    (source / "empty.png").touch()
    Path(os.fsdecode(bytes(source) + b"/latin \xe4.png")).write_text("no picture")
    listed = tmp_path / "list.txt"
    listed.write_text(
        f"source/other size.png\r\n\n{source}/text.png\nsource/gone.png\nzero\0.png\n", encoding="utf-8-sig"
    )
    size = "is (40, 56, 3), the model takes [1,3,8,8]: resize it"
    damaged = "cannot be read: it is damaged, no image"
    for given, expected in {
        source: {"other size.png": size, "text.png": damaged, "empty.png": damaged, r"latin \xe4.png": damaged},
        listed: {
            "source/other size.png": size,
            f"{source}/text.png": damaged,
            "source/gone.png": "cannot be read: [Errno 2] No such file or directory",
            r"zero\x00.png": "cannot be read: embedded null byte",
        },
    }.items():
        found = inspected(fixed, given)
        assert found.keys() == expected.keys()
        for name, reason in expected.items():
            row = found[name]
            assert row["reason"].startswith(reason)
            assert (row["score"], row["verdict"]) == (None, None)


def test_a_model_that_fails_ends_the_run_with_its_reason(
    nodes: Any, tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing = other_model(tmp_path / "model.xml", [1, 3, -1, -1], deploy.OUTPUTS)
    at_work: list[str] = []  # of Ray Data as Ray is shut down, which would end the process without a word
    shutdown = ray.shutdown

    def watched_shutdown() -> None:
        at_work.extend(thread.name for thread in threading.enumerate())
        shutdown()

    monkeypatch.setattr(ray, "shutdown", watched_shutdown)
    assert run(failing, pictures, "--cluster", nodes.address, "--output", tmp_path / "output") == 2
    assert re.search(r"^error: stopped after 0 pictures: .*8\.8", capsys.readouterr().err, flags=re.MULTILINE)
    assert not (tmp_path / "output/results/_SUCCESS").exists()
    assert "MainThread" in at_work
    assert not [name for name in at_work if name.startswith(("iter_threaded", "StreamingExecutor"))]
    assert inspected(failing, pictures, device="TOASTER")[None]["reason"].startswith("cannot run ")


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_where_a_worker_and_a_node_are_killed_nothing_is_lost_or_there_twice(
    nodes: Any, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = 160
    (tmp_path / "source").mkdir()
    large = np.random.default_rng(0).integers(0, 256, (900, 1200, 3), np.uint8)  # takes its time
    Image.fromarray(large).save(tmp_path / "source/0.png")
    for i in range(1, number):
        os.link(tmp_path / "source/0.png", tmp_path / f"source/{i}.png")
    (node,) = nodes.worker_nodes
    killed: list[int] = []
    add = cluster.Table.add

    def add_and_kill(self: cluster.Table, block: Any) -> None:
        add(self, block)
        if not killed:
            killed.extend(workers(nodes.head_node, "MapWorker"))
            os.kill(killed[0], signal.SIGKILL)
            assert self.pictures < number / 2
        elif node in nodes.worker_nodes and self.pictures > number / 4:
            killed.extend(workers(node, "MapWorker"))
            nodes.remove_node(node, allow_graceful=False)
            assert self.pictures < number / 2

    monkeypatch.setattr(cluster.Table, "add", add_and_kill)
    source, output = tmp_path / "source", tmp_path / "output"
    assert run(exported, source, "--cluster", nodes.address, "--output", output) == 0
    nodes.add_node(**OPTIONS)
    assert len(killed) == 2
    found = table(output)
    assert sorted(found) == sorted(f"{i}.png" for i in range(number))
    assert len({row["score"] for row in found.values()}) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--show",), "--show means nothing with --cluster, workers have no window: leave it out"),
        (("--good", "good"), "--good means nothing with --cluster, there is no report: leave it out"),
        (("--past-frames", 3), "--past-frames means nothing with --cluster, results come in any order: leave it out"),
        ((), "--cluster writes results to --output: give a folder or a URI"),
        (("--output", "new", "--cores", 2), "no node of the cluster has 2 cores, the largest has 1: give --cores 1"),
        (("--output", "{pictures}/new"), "lies in the source, where the next run would take overlays for pictures"),
        (("--output", "ftp://somewhere"), "ftp://somewhere is on no file system that pyarrow reads: give a path or"),
    ],
)
def test_what_means_nothing_on_a_cluster_is_refused(
    options: tuple[object, ...],
    message: str,
    nodes: Any,
    exported: Path,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    given = [str(option).format(pictures=pictures) for option in options]
    assert run(exported, pictures, "--cluster", nodes.address, *given) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("video", "is neither a folder nor a list that ends in .txt: --cluster takes one of them, or its URI"),
        ("7", "is neither a folder nor a list that ends in .txt"),
        ("empty", "no images in .*empty: it needs files that end in .bmp"),
        ("file://{empty}", "no images in .*empty: it needs files that end in .bmp"),
        ("nothing.txt", "list .* is empty: write the path of a picture on each line"),
        ("twice.txt", "list .* has a.png twice: leave one of them"),
        ("mixed.txt", "list .*: /b.png is on another file system than file:///a.png: make a list for each"),
        ("asking.txt", "list .*: file:///a%20b.png is more than a path: write URIs without . and %"),
        ("late.txt", "list .*: file:///b.png is on another file system than a.png: make a list for each"),
    ],
)
def test_a_source_that_is_none_is_refused(source: str, message: str, video: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name, lines in {
        "nothing": "\n\n",
        "twice": "a.png\nb.png\na.png\n",
        "mixed": "file:///a.png\n/b.png\n",
        "asking": "file:///a%20b.png\n",
        "late": "a.png\nfile:///b.png\n",
    }.items():
        (tmp_path / f"{name}.txt").write_text(lines)
    given = {"video": str(video)}.get(source) or str(tmp_path / source.format(empty=tmp_path / "empty"))
    if source.startswith("file:"):
        given = (tmp_path / "empty").as_uri()
    with pytest.raises(ValueError, match=message):
        cluster.find_pictures(given)


def test_a_picture_that_ends_its_worker_or_needs_too_much_memory_costs_only_itself(
    nodes: Any, exported: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deaths = tmp_path / "deaths"

    class Deadly(cluster.Inspector):  # here, for Ray to hand it over and not its name
        def _rows(self, names: list[str], paths: list[bytes]) -> list[dict[str, object]]:
            if "a.png" in names:
                with deaths.open("a") as file:
                    file.write("died\n")
                os._exit(1)
            if "grey.tif" in names:
                raise MemoryError
            return super()._rows(names, paths)

    monkeypatch.setattr(driver, "Inspector", Deadly)
    monkeypatch.setattr(driver, "BLOCK", 6)
    monkeypatch.setattr(driver, "num_actors", lambda _: 1)
    source, output = tmp_path / "source", tmp_path / "output"
    shutil.copytree(pictures, source)
    (source / "x.gif").touch()
    assert run(exported, source, "--cluster", nodes.address, "--output", output) == 1
    found = table(output)
    reasons = {name: row["reason"] for name, row in found.items() if row["verdict"] is None}
    assert reasons == {
        "a.png": "ended its worker 2 times: it needs more memory than there is, or breaks a decoder",
        "grey.tif": "needs more memory than there is: cut it into parts",
        "x.gif": "ends in .gif, which anomalib does not read: convert it to .png",
    }
    assert sorted(found) == sorted([*NAMES, "x.gif"])
    assert deaths.read_text() == 3 * "died\n"
    assert (output / "results/_SUCCESS").read_text() == "4 pictures, 2 anomalous, 3 skipped\n"


def test_where_nobody_listens_there_is_no_cluster(
    exported: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert run(exported, pictures, "--cluster", address, "--output", tmp_path / "output") == 2
    assert f"error: no Ray cluster at {address}: start one with ray start" in capsys.readouterr().err
    assert not (tmp_path / "output").exists()


def test_uris_in_a_list_are_names(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("file:///a/b.png\nfile:///c.png\n")
    _, found, _ = cluster.find_pictures(f"file://{tmp_path}/list.txt")
    assert found == {"file:///a/b.png": "/a/b.png", "file:///c.png": "/c.png"}


def test_no_name_leads_out_of_the_overlays_or_to_those_of_another(tmp_path: Path) -> None:
    names = ["../../a.png", "a.png", "A.png", "/a.png", "s3://b/a.png"]
    overlaid = Overlaid.of(names, cluster.Place.of(str(tmp_path)), "anomalous")
    assert overlaid is not None
    made: Any = (np.zeros(()),) * 2
    places = [overlaid.place(deploy.Result(name, made[0], 1.0, True, *made)) for name in names]
    assert [place.path.removeprefix(f"{tmp_path}/").partition("%~")[0] for place in places if place] == [
        ".%x2e/.%x2e/a.png.jpg",
        "a.png.jpg",
        "A.png",
        "%x2f/a.png.jpg",
        "s3%x3a/%x2f/b/a.png.jpg",
    ]
    assert overlaid.place(deploy.Result("a.png", made[0], 0.0, False, *made)) is None
    assert Overlaid.of(names, cluster.Place.of(str(tmp_path)), "none") is None


def test_a_schedulers_signal_leaves_what_was_done(
    nodes: Any, exported: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = cluster.Table.add

    def add_and_ask(self: cluster.Table, block: Any) -> None:
        add(self, block)
        if self.pictures == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(cluster.Table, "add", add_and_ask)
    assert run(exported, pictures, "--cluster", nodes.address, "--output", tmp_path / "output") == 143
    assert len(table(tmp_path / "output")) >= 1
    assert not (tmp_path / "output/results/_SUCCESS").exists()


def test_results_go_into_parts_that_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PART", 4)
    made = cluster.Table(cluster.Place.of(str(tmp_path / "results")))
    for i in range(3):
        made.add(
            pa.Table.from_pylist(
                [{"name": f"{i}{j}", "score": 1.0, "verdict": "normal"} for j in "abc"], cluster.COLUMNS
            )
        )
        assert sorted(path.name for path in tmp_path.rglob("*.parquet")) == ["000000.parquet"] * (i > 0)
    made.write()
    assert [parquet.read_table(path).num_rows for path in sorted(tmp_path.rglob("*.parquet"))] == [6, 3]
    assert len(table(tmp_path)) == 9


def test_a_watched_actor_gives_the_same_rows_and_notes_what_they_took(
    exported: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = archive.plain(exported, str(pictures), cores=1)
    assert {name: row["score"] for name, row in inspected(exported, pictures).items()} == alone["scores"]
    monkeypatch.setattr(archive.Watched, "log", tmp_path / "log", raising=False)
    watched = inspected(exported, pictures, actor=archive.Watched)
    assert {name: row["score"] for name, row in watched.items()} == alone["scores"]
    number, wall_start, processor_start, wall_end, processor_end, mib = json.loads((tmp_path / "log").read_text())
    assert number == len(NAMES)
    assert wall_start < wall_end
    assert processor_start < processor_end
    assert 50 < mib < 5000


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--overlays",), "error: --overlays is for the report: give --output too"),
        (("--cores", 2), "error: --cores is for --cluster: leave it out"),
    ],
)
def test_options_that_mean_nothing_are_refused(
    option: tuple[object, ...], message: str, exported: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(exported, pictures, *option) == 2
    assert message in capsys.readouterr().err


def test_without_ray_one_line_says_what_to_install(
    exported: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in ("cluster", "cluster.driver"):
        monkeypatch.delitem(sys.modules, f"riad_anomalib.deploy.{module}")
    monkeypatch.delattr(deploy, "cluster")
    monkeypatch.setitem(sys.modules, "ray", None)
    assert run(exported, pictures, "--cluster", "local", "--output", "output") == 2
    err = capsys.readouterr().err
    assert err.startswith("error: --cluster needs Ray: pip install 'riad-anomalib[cluster]'")
    assert err.count("\n") == 1
