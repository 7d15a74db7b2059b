"""anomalib's benchmark on a cluster of several nodes on one machine."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cluster
import pytest
import yaml
from lightning.pytorch.utilities.seed import isolate_rng

ray = pytest.importorskip("ray", reason="the cluster extra is not installed")
from nodes import two_nodes, workers  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # of Ray and Lightning about themselves
Run = Callable[..., int]

SETTINGS: dict[str, Any] = {
    "seed": 3,
    "model": {
        "class_path": "Riad",
        "init_args": {"base_width": 2, "image_size": [32, 32], "region_sizes": [4, 8], "smoothing_size": 3},
    },
    "data": {
        "class_path": "Folder",
        "init_args": {
            "name": "tiny",
            "root": "${oc.env:PICTURES}",
            "normal_dir": "images/good",
            "abnormal_dir": {"grid": ["images/bad", "images/later"]},
            "val_split_mode": "same_as_test",
            "num_workers": 0,
        },
    },
}


@pytest.fixture
def nodes() -> Iterator[Any]:
    with two_nodes() as made:
        ray.cloudpickle.register_pickle_by_value(cluster)  # as the script that it is goes to workers
        yield made
        ray.cloudpickle.unregister_pickle_by_value(cluster)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the script's command line in this process and return its exit status."""
    monkeypatch.setenv("PL_TRAINER_MAX_EPOCHS", "1")
    monkeypatch.setenv("PICTURES", str(tmp_path))
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"accelerator": "cpu", "benchmark": SETTINGS}))

    def main(*arguments: object) -> int:
        given = ["cluster.py", "--config", config, "--output", tmp_path / "output", *arguments]
        monkeypatch.setattr(sys, "argv", [*map(str, given)])
        return cluster.main()

    return main


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.usefixtures("folder")
def test_what_a_node_had_is_run_again_and_what_failed_by_the_next_start(
    nodes: Any, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (node,) = nodes.worker_nodes
    began = []

    def kill() -> None:
        while not workers(node, "run_job"):
            time.sleep(0.02)
        began.append(node)
        nodes.remove_node(node, allow_graceful=False)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    assert run("--address", nodes.address) == 1
    killer.join()
    assert began
    out, err = capsys.readouterr()
    assert "2 jobs, 0 of them done\n" in out
    assert "1 failed" in out
    assert "Traceback" in err
    file = tmp_path / "output/results.csv"
    done, failed = sorted(cluster.read(file), key=lambda row: "reason" in row)
    assert "images/later" in failed["reason"]
    assert failed["data.init_args.abnormal_dir"] == "images/later"
    assert failed["env.PL_TRAINER_MAX_EPOCHS"] == "1"
    assert "image_AUROC" not in failed

    # The same as without a cluster, in this process.
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")  # given back after the test
    settings = next(settings for row, _, settings in cluster.expand({"accelerator": "cpu", "benchmark": SETTINGS}, {}))
    with isolate_rng():
        alone = cluster.run_job("cpu", settings)
    metrics = [name for name in alone if name.startswith(("image_", "pixel_"))]
    assert {"image_AUROC", "image_F1Score"} <= {*metrics}
    assert {name: float(done[name]) for name in metrics} == {name: alone[name] for name in metrics}

    (tmp_path / "images/bad").rename(tmp_path / "images/later")
    assert run("--address", nodes.address) == 0
    assert "2 jobs, 1 of them done\n" in capsys.readouterr().out
    first, second = cluster.read(file)
    assert first == done  # not run again: its pictures are gone
    assert "reason" not in second
    assert second["data.init_args.abnormal_dir"] == "images/later"
    assert 0 <= float(second["image_AUROC"]) <= 1


def test_a_job_is_the_same_by_what_it_was_told(tmp_path: Path) -> None:
    config: dict[str, Any] = {
        "accelerator": ["cpu", "cuda"],
        "benchmark": {"seed": {"grid": [0, 1]}, "model": {"init_args": {"sizes": [4, 16], "lr": 1e-4}}, "data": {}},
    }
    jobs = cluster.expand(config, {"PL_TRAINER_MAX_EPOCHS": "3", "MVTEC_AD": "elsewhere"})
    assert [(row["accelerator"], row["seed"]) for row, *_ in jobs] == [(a, s) for a in ("cpu", "cuda") for s in "01"]
    rows = [row | cluster.as_text({"image_AUROC": 0.1 * i}) for i, (row, *_) in enumerate(jobs)]
    cluster.write([rows[0], {**jobs[1][0], "reason": 'a, "b"'}, *rows[2:]], tmp_path / "results.csv")
    again = cluster.read(tmp_path / "results.csv")
    assert again == [rows[0], {**jobs[1][0], "reason": 'a, "b"'}, *rows[2:]]
    assert [cluster.identity(row) for row in again] == [cluster.identity(row) for row, *_ in jobs]
    assert len({cluster.identity(row) for row in again}) == 4
    longer = cluster.expand(config, {"PL_TRAINER_MAX_EPOCHS": "4"})
    assert cluster.identity(longer[0][0]) != cluster.identity(jobs[0][0])


def test_a_job_for_which_no_node_has_room_is_refused(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 2.0}}])
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0})
    monkeypatch.setattr(ray, "init", lambda **_: None)
    with pytest.raises(SystemExit, match="2"):
        run("--cores", 3)
    assert "no node of the cluster has 3 cores, the largest has 2: give --cores 2 or less" in capsys.readouterr().err
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"accelerator": ["cuda"], "benchmark": SETTINGS}))
    with pytest.raises(SystemExit, match="2"):
        run()
    assert "no node of the cluster has a GPU: write accelerator: [cpu] into the config" in capsys.readouterr().err
