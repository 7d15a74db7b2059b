"""README and model card say what is true."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from riad_anomalib import demo_data

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_model_card_lists_every_mark_in_the_code() -> None:
    mark = re.compile(r"(?:DEVIATES|CHOICE) \[RIAD\] (?:Sec\.|Eq\.|Alg\.|Fig\.) [\d.]*\d")
    code = [found for path in (ROOT / "riad_anomalib").rglob("*.py") for found in mark.findall(path.read_text())]
    card = mark.findall((ROOT / "MODEL_CARD.md").read_text(encoding="utf-8"))
    assert sorted(code) == sorted(card)
    assert len(code) > 0


def test_the_files_that_the_readme_names_exist() -> None:
    named = set(re.findall(r"(?:configs|docs|benchmarks|riad_anomalib|components|models|tests)/[\w/]+\.\w+", README))
    assert {"configs/riad_small.yaml", "docs/reconstruction.jpg"} <= named
    for name in named:
        assert (ROOT / name).exists() or (ROOT / "riad_anomalib" / name).exists(), name
    listed = set(re.findall(r"^\| `(\w+(?:\.yaml|/))` \|", README, flags=re.MULTILINE))
    assert listed == {path.name + "/" * path.is_dir() for path in (ROOT / "configs").iterdir()}


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
