"""What is published as source."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="an unpacked source distribution has no git to compare with")
def test_the_source_distribution_has_every_file_that_git_does_not_ignore(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--target", tmp_path / "hatchling", "hatchling"], check=True)
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "sdist", "--target", "wheel", "--directory", tmp_path],
        check=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "hatchling")},
    )
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as files:
        packed = {name.partition("/")[2] for name in files.getnames()}
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True).stdout
    assert packed == {"PKG-INFO", *listed.split("\0")[:-1]}
    (wheel,) = tmp_path.glob("*.whl")
    in_package = {name for name in packed if name.startswith("riad_anomalib/")}
    assert "riad_anomalib/report/page.html" in in_package
    with zipfile.ZipFile(wheel) as files:
        assert in_package <= set(files.namelist())
