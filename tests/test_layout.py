"""Who may import whom: a room of the house that learns of another one cannot be moved or understood by itself."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "riad_anomalib"
SCIENCE = {"kornia", "numpy", "torch", "torchvision"}
ANOMALIB = {"anomalib", "lightning", "nncf", "openvino", "torchmetrics"}
ALLOWED: dict[str, set[str]] = {
    "registry": set(),
    "plugin": {"registry"},
    "__init__": {"plugin", "registry"},
    "__main__": {"plugin", "anomalib"},
    "false_alarms": set(),
    "strips": set(),
    "components": SCIENCE | {"strips"},
    "host": SCIENCE | ANOMALIB | {"PIL", "components", "cv2", "false_alarms", "matplotlib", "registry", "report"},
    "models": SCIENCE | ANOMALIB | {"components", "host", "registry"},
    "report": {"cv2", "jinja2", "numpy"},
    "deploy": {"PIL", "cv2", "false_alarms", "numpy", "openvino", "pyarrow", "ray", "report", "strips"},
    "demo_data": {"PIL", "numpy", "skimage"},
    "demo_video": {"demo_data", "numpy", "skimage"},
}
"""What each room may import besides the standard library and itself; a model is a room of its own."""


def room(path: Path) -> str:
    """Return ``models/riad`` for a model's file, else the first part of the path in the package."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return "/".join(parts[:2]) if parts[0] == "models" and len(parts) > 2 else parts[0]


def imports(tree: ast.AST, package: tuple[str, ...]) -> Iterator[str]:
    """Return the full names of what a file of this package imports at run time, wherever it stands."""
    if isinstance(tree, ast.If) and "TYPE_CHECKING" in ast.unparse(tree.test):
        yield from imports(ast.Module(tree.orelse, []), package)
        return
    if isinstance(tree, ast.Import):
        yield from (alias.name for alias in tree.names)
    if isinstance(tree, ast.ImportFrom):
        base = package[: len(package) - tree.level + 1] if tree.level else ()
        module = ".".join([*base, *([tree.module] if tree.module else [])])
        # What is imported may be a module itself: from . import length
        yield from (f"{module}.{alias.name}" for alias in tree.names)
    for node in ast.iter_child_nodes(tree):
        yield from imports(node, package)


def strangers(path: Path, source: str) -> set[str]:
    """Return what a file imports against the rules."""
    own = room(path)
    package = ("riad_anomalib", *path.relative_to(PACKAGE).parent.parts)
    found = set()
    for name in imports(ast.parse(source), package):
        top, *rest = name.split(".")
        target = top
        if top == "riad_anomalib":
            inside = PACKAGE.joinpath(*rest[:-1], "x.py") if rest[:-1] else PACKAGE / f"{rest[0]}.py"
            target = room(inside)
        if target not in ALLOWED[own.partition("/")[0]] | sys.stdlib_module_names | {own}:
            found.add(name)
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_file_imports_only_what_its_room_may(path: Path) -> None:
    assert not strangers(path, path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("report/page.py", "import openvino"),
        ("components/unet.py", "import lightning"),
        ("components/unet.py", "from riad_anomalib.host import length"),
        ("components/unet.py", "from ..models import riad"),
        ("host/length.py", "from riad_anomalib.models.riad import Riad"),
        ("host/length.py", "from riad_anomalib import Riad"),
        ("models/ssae/loss.py", "from riad_anomalib.models.riad.loss import RiadLoss"),
        ("models/ssae/loss.py", "from ..riad import loss"),
        ("models/ssae/loss.py", "import scipy"),
        ("deploy/output.py", "def late():\n    import torch"),
        ("deploy/output.py", "from riad_anomalib.components import masking"),
        ("plugin.py", "import anomalib"),
        ("registry.py", "from .plugin import MODELS"),
    ],
)
def test_an_arrow_against_the_rules_is_seen(file: str, line: str) -> None:
    assert strangers(PACKAGE / file, line)


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("models/ssae/loss.py", "from .sdc import Sdc"),
        ("models/ssae/loss.py", "from riad_anomalib.components.unet import InpaintingUNet"),
        ("host/module.py", "from . import length"),
        ("host/module.py", "if TYPE_CHECKING:\n    import scipy"),
    ],
)
def test_an_arrow_within_the_rules_is_not(file: str, line: str) -> None:
    assert not strangers(PACKAGE / file, line)
