"""Every notebook runs, draws what it should, and is committed without outputs."""

import base64
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from PIL import Image

NOTEBOOKS = {path.stem: path for path in (Path(__file__).parents[1] / "notebooks").glob("*.ipynb")}
PICTURES = {
    "1_method_in_pictures": 11,
    "2_train_and_explore": 8,
    "3_export_and_deploy": 2,
    "4_benchmark": 1,
    "5_ssae": 8,
    "6_video": 3,
}
SHORTER = {
    "1_method_in_pictures": {"NUM_STEPS = 300": "NUM_STEPS = 2"},
    "2_train_and_explore": {"NUM_EPOCHS = 12": "NUM_EPOCHS = 1"},
    "3_export_and_deploy": {"NUM_EPOCHS = 8": "NUM_EPOCHS = 1", "NUM_RUNS = 50": "NUM_RUNS = 2"},
    "4_benchmark": {"NUM_EPOCHS = 3": "NUM_EPOCHS = 1"},
    "5_ssae": {"NUM_EPOCHS = 80": "NUM_EPOCHS = 1"},
    "6_video": {"NUM_EPOCHS = 8": "NUM_EPOCHS = 1"},
}


def test_every_notebook_is_tested_here() -> None:
    assert set(NOTEBOOKS) == set(PICTURES) == set(SHORTER)


@pytest.mark.parametrize("name", PICTURES)
def test_it_is_committed_small_and_without_outputs(name: str) -> None:
    assert NOTEBOOKS[name].stat().st_size < 100_000
    notebook = nbformat.read(NOTEBOOKS[name], as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    for cell in notebook.cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
        assert cell.metadata == {}


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``python3`` be the interpreter of the tests, with pictures in the notebook and nothing of the user's."""
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = tmp_path / "jupyter/kernels/python3/kernel.json"
    spec.parent.mkdir(parents=True)
    spec.write_text(json.dumps({"argv": argv, "display_name": "Python 3", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # pytest -n 2 runs two kernels on two cores
    monkeypatch.delenv("MPLBACKEND", raising=False)


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("name", PICTURES)
def test_it_runs_and_draws(name: str, small_demo_data: Callable[[Path, int], Path], tmp_path: Path) -> None:
    notebook = nbformat.read(NOTEBOOKS[name], as_version=4)
    small_demo_data(tmp_path / "demo", 3)
    replacements = {"Path(tempfile.mkdtemp())": f"Path({str(tmp_path / 'demo')!r})", **SHORTER[name]}
    for old, new in replacements.items():
        (cell,) = [cell for cell in notebook.cells if old in cell.source]
        cell.source = cell.source.replace(old, new)
    work = tmp_path / "work"
    work.mkdir()
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(work)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    drawn = [output.data["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    assert len(drawn) == PICTURES[name]
    for picture in drawn:
        assert np.asarray(Image.open(io.BytesIO(base64.b64decode(picture)))).std() > 0
    assert not list(work.iterdir())  # whatever a notebook writes goes to the temporary folder that it makes
