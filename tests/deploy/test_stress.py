"""The sub-command stress, in this process."""

import csv
import re
from pathlib import Path

import pytest
from inspections import picture
from PIL import Image

from riad_anomalib.deploy.changes import CHANGES
from riad_anomalib.deploy.command import main
from riad_anomalib.deploy.stress import Row, Table


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for kind, numbers in (("good", (0, 1)), ("bent", (2,))):
        (tmp_path / "source" / kind).mkdir(parents=True)
        for number in numbers:
            Image.fromarray(picture(number)).save(tmp_path / "source" / kind / f"{number}.png")
    return tmp_path / "source"


def test_a_table_counts_good_and_defective_pictures_under_every_change(
    exported: Path,
    source: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["stress", str(exported), str(source), "--good", "good", "--output", str(tmp_path / "output")]
    assert main([*words, "--threshold", "-1"]) == 0  # everything is anomalous
    out, _ = capsys.readouterr()
    assert re.search(r"^as is +1.00 \(2 of 2\) +1.00 \(1 of 1\)$", out, re.MULTILINE)
    assert out.count("1.00 (2 of 2)") == 1 + 3 * 13
    assert re.search(r"^  darker +from 0.95 of the light on$", out, re.MULTILINE)
    with (tmp_path / "output" / "stress.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["change"] for row in rows[1::3]] == [change.name for change in CHANGES]
    assert {(row["good"], row["false_alarms"], row["defective"], row["found"]) for row in rows} == {
        ("2", "2", "1", "1")
    }
    page = (tmp_path / "output" / "report.html").read_text(encoding="utf-8")
    assert page.count("<td>1.00 (2 of 2)</td>") == 1 + 3 * 13

    assert main([*words, "--threshold", "1e9"]) == 0  # nothing is
    out, _ = capsys.readouterr()
    assert out.count("0.00 (0 of 2)") == 1 + 3 * 13
    assert out.count("  never") == 13


def test_the_limit_is_the_first_strength_with_more_false_alarms_than_allowed() -> None:
    table = Table(most=0.25)
    for strength, alarms in ((2, 1), (4, 2), (8, 1)):
        table.rows["shift", strength] = Row(false_alarms=alarms, good=4)
    assert dict(table.limits())["shift"] == "from 4 of 256 pixels on"
    assert dict(table.limits())["turn"] == "never"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none.xml", "{source}"], "model file none.xml does not exist"),
        (["{model}", "nowhere"], "source nowhere does not exist: give a folder"),
        (["{model}", "{source}", "--good", "fine"], "no picture lies in a sub-folder fine of"),
        (["{model}", "{source}", "--output", "{source}/out"], "lies in the source"),
    ],
)
def test_what_says_nothing_is_refused(
    words: list[str],
    message: str,
    exported: Path,
    source: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["stress", *(word.format(model=exported, source=source) for word in words)]) == 2
    assert message in capsys.readouterr().err


def test_pictures_that_cannot_be_used_are_named(
    exported: Path, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (source / "good" / "7.png").write_text("no picture")
    assert main(["stress", str(exported), str(source)]) == 1
    out, err = capsys.readouterr()
    assert "skipped: good/7.png cannot be read" in err
    assert out.count(" of 3)") == 1 + 3 * 13  # all are good without --good
