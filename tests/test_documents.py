"""The documents say what is true."""

import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

import riad_anomalib
from riad_anomalib import demo_data
from riad_anomalib.plugin import MODELS

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/RESULTS.md"
GUIDES = [ROOT / "README.md", ROOT / "MODEL_CARD.md", *sorted((ROOT / "docs").glob("*.md"))]
DOCUMENTS = [*GUIDES, RESULTS, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
README = GUIDES[0].read_text(encoding="utf-8")
CARDS = {"RIAD": ROOT / "MODEL_CARD.md", "SSAE": ROOT / "docs/ssae.md", "I3AD": ROOT / "docs/i3ad.md"}
"""A page for each model, by the key of its paper."""

# What is measured, unlike "2.7", "3 sets" or "256x256": three digits with a point, a unit behind, or a cell of its own.
FIGURE = re.compile(
    r"(?<![\w.])(?:\d+\.\d{2,}|\d{2,}\.\d+|\d[\d.]*(?= (?:GFLOP|ms|MB|MiB)\b)|(?<=\| )\d[\d.]*(?= \|))(?!\w|\.\d)"
)
NUMBER = re.compile(r"\d+(?:\.\d+)?")


def statements(document: Path) -> list[str]:
    """Return the rows of tables and the sentences between them, without code."""
    text = re.sub(r"```.*?```|`[^`]*`", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    found: list[str] = []
    for block in re.split(r"\n\n+", text):
        found += block.splitlines() if block.startswith("|") else re.split(r"(?<=[.;]) ", block.replace("\n", " "))
    return found


def anchors(document: Path) -> set[str]:
    """Return what GitHub makes of the headings."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", GUIDES, ids=lambda path: path.name)
def test_every_figure_is_one_of_the_results(document: Path) -> None:
    results = [NUMBER.findall(statement) for statement in statements(RESULTS)]
    for statement in statements(document):
        figures = FIGURE.findall(statement)
        remaining: list[Iterator[str]] = [iter(numbers) for numbers in results]
        # One row, or one sentence, has them all, and in this order.
        assert any(all(figure in numbers for figure in figures) for numbers in remaining), statement


def test_the_costs_in_the_readmes_table_are_those_of_the_configs() -> None:
    costs = re.findall(r"`(\w+\.yaml)` \|[^|]+\| ([\d.]+) \|", README)
    assert len(costs) >= 3
    for name, cost in costs:
        config = yaml.safe_load((ROOT / "configs" / name).read_text())["model"]
        # Statistics of normal images are not there yet, and cost nothing.
        arguments = {**config["init_args"], "evaluator": False, "calibration": "none"}
        if config["class_path"] == "I3ad":
            arguments["mask_threshold"] = 0.5
        model = getattr(riad_anomalib, config["class_path"])(**arguments).model.eval()
        with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(torch.zeros(1, 3, *arguments["image_size"]))
        assert float(f"{counter.get_total_flops() / 1e9:.3g}") == float(cost), name


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_named_files_lead_somewhere(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for link in re.findall(r"\]\((?!\w+://)([^)\s]+)\)", text):
        name, _, anchor = link.partition("#")
        target = document.parent / name if name else document
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link
    for name in re.findall(r"(?:configs|docs|benchmarks|riad_anomalib|components|models|tests)/[\w/]+\.\w+", text):
        assert (ROOT / name).exists() or (ROOT / "riad_anomalib" / name).exists(), name


def test_options_that_documents_print_exist() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in [*GUIDES, RESULTS])
    used = re.findall(r"python\s(benchmarks/\w+\.py)((?:\s+(?!python|anomalib)[^\s`#]+)*)", text)
    assert len(used) > 10
    for script, arguments in used:
        for option in re.findall(r"--[a-z][\w-]*", arguments):
            assert f'"{option}"' in (ROOT / script).read_text(), (script, option)
    named = set(re.findall(r"--model\.(\w+)", text)) - {"help"}
    known = {name for model in MODELS for name in inspect.signature(getattr(riad_anomalib, model)).parameters}
    assert {"base_width", "calibration"} <= named <= known


def test_a_key_of_the_literature_is_defined_once() -> None:
    sources = [*(ROOT / "riad_anomalib").rglob("*.py"), *(ROOT / "configs").rglob("*.yaml"), *DOCUMENTS]
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    used = set(re.findall(r"\[([A-Z][A-Z\d]+)\](?!\()", text))
    assert sorted(used) == sorted(re.findall(r"^- \[(\w+)\] ", README, flags=re.MULTILINE))


@pytest.mark.parametrize("key", CARDS)
def test_the_model_card_lists_every_mark_in_the_code(key: str) -> None:
    mark = re.compile(rf"(?:DEVIATES|CHOICE) \[{key}\] (?:Sec\.|Eq\.|Alg\.|Fig\.) [\d.]*\d")
    code = [found for path in (ROOT / "riad_anomalib").rglob("*.py") for found in mark.findall(path.read_text())]
    assert sorted(code) == sorted(mark.findall(CARDS[key].read_text(encoding="utf-8")))
    assert len(code) > 0


def test_every_model_has_a_card() -> None:
    assert sorted(CARDS) == sorted(model.upper() for model in MODELS)


def test_every_config_is_listed_once_with_what_it_is_for() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in GUIDES)
    listed = re.findall(r"^\| (?:[^|`]*\| )?`([\w/]+\.yaml)` \| \w", text, flags=re.MULTILINE)
    configs = ROOT / "configs"
    assert sorted(listed) == sorted(path.relative_to(configs).as_posix() for path in configs.rglob("*.yaml"))


def test_the_head_comment_of_every_config_gives_its_command() -> None:
    for path in (ROOT / "configs").rglob("*.yaml"):
        text = path.read_text()
        name = path.relative_to(ROOT).as_posix()
        assert re.search(rf"^# +.*anomalib \w+ .*{name}", text, flags=re.MULTILINE), path
        assert isinstance(yaml.safe_load(text), dict)


@pytest.mark.filterwarnings("ignore")  # of Lightning, torch.onnx and OpenVINO about themselves
def test_the_python_of_the_readme_runs(
    small_demo_data: Callable[[Path, int], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    small_demo_data(tmp_path / "datasets/MVTecAD", 2)
    replacements: dict[str, str] = {
        'category="grid"': f'category="{demo_data.CATEGORY}", num_workers=0',
        "base_width=16": "base_width=2",
        "max_epochs=60, check_val_every_n_epoch=20": 'max_epochs=1, accelerator="cpu"',
    }
    for old, new in replacements.items():
        assert old in code
        code = code.replace(old, new)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102
    assert names["model"].model.image_size == (128, 128)
    assert list(tmp_path.glob("results/**/weights/openvino/model.xml"))
