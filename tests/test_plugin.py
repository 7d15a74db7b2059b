"""Each start of Python in a process of its own: what is imported first is what matters here."""

import logging
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from anomalib.utils.path import convert_to_snake_case

from riad_anomalib import plugin, registry

ROOT = Path(__file__).parents[1]

KNOWN = """
import riad_anomalib
from anomalib.models import Riad, get_model, list_models
assert Riad is riad_anomalib.Riad, Riad
small = {"base_width": 1, "region_sizes": [8], "image_size": [16, 16], "num_disjoint_sets": 2}
spec = {"class_path": "Riad", "init_args": small}
for model in (get_model("riad", **small), get_model("Riad", **small), get_model(spec)):
    assert type(model) is Riad and model.name == "Riad", model
assert [name for name in list_models() if "riad" in name.lower()] == ["riad"]
assert [name for name in list_models("pascal") if "riad" in name.lower()] == ["Riad"]
from anomalib.models import AnomalibModule
model = AnomalibModule.from_config("CONFIG", **{"model.base_width": 2})
assert type(model) is Riad and model.hparams.base_width == 2
import inspect, anomalib.models.video as video
assert "AiVad" in inspect.getsource(video)
assert "exec_module" not in vars(video.__loader__)
""".replace("CONFIG", str(ROOT / "configs/riad.yaml"))


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
        cwd=ROOT.anchor,  # not the checkout, which would be on sys.path
    )


@pytest.mark.parametrize("first", ["import anomalib.models", "from riad_anomalib import ReportVisualizer"])
def test_anomalib_knows_the_model_whatever_is_imported_first(first: str) -> None:
    run = python(first + KNOWN)
    assert run.returncode == 0, run.stderr
    assert "riad_anomalib could not load" not in run.stderr


MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for room in ("host", "models")
    for path in (ROOT / "riad_anomalib" / room).rglob("*.py")
)
FIRST = [
    "import torch",
    *(f"from riad_anomalib import {name}" for name in ("Riad", "I3adLoss", "SsaeModel", "VideoVisualizer")),
    *(f"import anomalib.{name}" for name in ("data", "engine", "deploy", "visualization", "callbacks", "cli.cli")),
    *(f"import {name}" for name in MODULES),
]

# What is imported first is imported in a fork of its own, of a process that has all but anomalib and this package. The
# hook stands where PyTorch calls it: after torch, before anything of anomalib.
FORKS = """
import os, sys, traceback
os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] = "0"
import torch, torchmetrics, torchvision, lightning.pytorch.cli, kornia, pandas, cv2, timm, sklearn.metrics
import jsonargparse, matplotlib.pyplot
from riad_anomalib import plugin
assert not any(name.startswith("anomalib") for name in sys.modules)
for first in FIRST:
    if os.fork() == 0:
        try:
            plugin._autoload()
            exec(first)
            from anomalib.models import get_model, list_models
            assert {"riad", "ssae", "i3ad"} <= set(list_models()), list_models()
            import riad_anomalib
            for name in riad_anomalib.__all__:
                getattr(riad_anomalib, name)
            get_model("Riad", base_width=1)
        except BaseException:
            print(first, "-- first:", file=sys.stderr)
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if os.wait()[1]:
        sys.exit(1)
"""


def test_every_module_may_come_first() -> None:
    assert {"riad_anomalib.host.video", "riad_anomalib.models.i3ad"} < set(MODULES)
    run = python(FORKS.replace("FIRST", repr(FIRST)))
    assert run.returncode == 0, run.stderr
    assert "could not load" not in run.stderr


@pytest.mark.parametrize("switch", ["RIAD_ANOMALIB_AUTOLOAD", "TORCH_DEVICE_BACKEND_AUTOLOAD"])
def test_both_switches_turn_the_hook_off_and_the_package_still_works(switch: str) -> None:
    run = python(
        "import anomalib.models as models\n"
        "assert not hasattr(models, 'Riad') and 'riad' not in models.list_models()\n"
        "from riad_anomalib import Riad" + KNOWN,
        **{switch: "0"},
    )
    assert run.returncode == 0, run.stderr


def test_the_module_is_a_command_line_that_needs_no_hook() -> None:
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "riad_anomalib", "train", "--model", "riad", "--print_config"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TORCH_DEVICE_BACKEND_AUTOLOAD": "0"},
        cwd=ROOT.anchor,
    )
    assert run.returncode == 0, run.stderr
    assert "num_disjoint_sets: 3" in run.stdout


def test_torch_starts_without_anomalib_and_nothing_more_is_loaded() -> None:
    run = python(
        "import sys; sys.modules['anomalib'] = None; import torch\n"
        "ours = sorted(name for name in sys.modules if name.startswith('riad_anomalib'))\n"
        "assert ours == ['riad_anomalib', 'riad_anomalib.plugin', 'riad_anomalib.registry'], ours\n"
        "assert sum(type(finder).__module__ == 'riad_anomalib.plugin' for finder in sys.meta_path) == 1",
    )
    assert run.returncode == 0, run.stderr
    run = python("import sys; assert not any(name.startswith('riad_anomalib') for name in sys.modules)")
    assert run.returncode == 0, run.stderr


def test_a_broken_installation_costs_a_warning_and_no_other_model() -> None:
    run = python(
        "import sys, torch; sys.modules['riad_anomalib.components.unet'] = None\n"
        "import anomalib.models as models\n"
        "assert hasattr(models, 'Patchcore') and not hasattr(models, 'Riad')",
    )
    assert run.returncode == 0, run.stderr
    assert "riad_anomalib could not load Riad; anomalib goes on without it." in run.stderr


def test_a_model_of_anomalibs_own_comes_first_and_hides_no_other(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    theirs = type("Riad", (), {"__module__": "anomalib.models.image.riad"})
    models = SimpleNamespace(Riad=theirs)
    monkeypatch.setitem(sys.modules, "anomalib.models", models)
    imported: list[str] = []
    monkeypatch.setattr(plugin, "import_module", imported.append)
    monkeypatch.setattr(plugin, "MODELS", {"Riad": "ours.riad", "Other": "ours.other"})
    with caplog.at_level(logging.INFO):
        plugin.import_models()
    assert imported == ["ours.other"]
    assert "anomalib brings a Riad of its own" in caplog.text
    registry.register(type("Riad", (), {"__module__": "riad_anomalib.models.riad"}))
    assert models.Riad is theirs


def test_an_alias_is_spelt_as_anomalib_spells_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "registered", {})
    monkeypatch.setitem(sys.modules, "anomalib.models", SimpleNamespace())
    names = ("Riad", "InpaintingGan", "EfficientAd", "I3ad")
    for name in names:
        registry.register(type(name, (), {"__module__": __name__}))
    assert list(registry.registered) == [convert_to_snake_case(name) for name in names]


def test_the_wheel_brings_the_hook_along(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--no-deps", "--target", tmp_path, ROOT], check=True)
    run = python(KNOWN + "\nprint(riad_anomalib.__file__, riad_anomalib.__version__)", PYTHONPATH=str(tmp_path))
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith(str(tmp_path))
    assert (tmp_path / "riad_anomalib" / "py.typed").exists()
