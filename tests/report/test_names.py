"""Names of pictures, for whatever a file may be called."""

import io
import os
import re
import sys
import unicodedata
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from riad_anomalib.report.names import Overlays, apart, cell, file_of, folded, name_of, path_of, printable

RESERVED = ("report.html", "results.csv", "report_files")
SPECIAL = [
    *"aA.%~ \\/:?=-+@;,\n\x1b\x85\u202e\u2028\ud800\udce4\udc80éß",
    ".jpg",
    ".png",
    "aux",
    "Report.html",
    "x2f",
    "..",
]
PATHS = st.one_of(
    st.binary(max_size=20).map(os.fsdecode),
    st.lists(st.sampled_from(SPECIAL), max_size=8).map("".join),
    st.text(st.characters(codec=None), max_size=20),  # surrogates too
    st.integers(150, 260).map(lambda length: "é" * length + ".png"),
)


@settings(max_examples=60, deadline=None)
@given(PATHS)
def test_a_name_tells_the_path_and_can_be_written_anywhere(path: str) -> None:
    name = name_of(path)
    assert path_of(name) == path
    assert name.encode().decode() == name
    assert not [letter for letter in name if unicodedata.category(letter) in {"Cc", "Cs", "Zl", "Zp"}]
    assert len(name.splitlines()) <= 1
    assert name == path or re.search(r"\\", name)


@settings(max_examples=60, deadline=None)
@given(PATHS)
def test_no_cell_is_a_formula_and_it_tells_the_path_too(path: str) -> None:
    text = cell(name_of(path))
    assert path_of(text) == path
    for part in re.split("[;,|]", text):
        assert not part.strip().startswith(tuple("=+-@\N{FULLWIDTH EQUALS SIGN}"))


@settings(max_examples=60, deadline=None)
@given(st.lists(PATHS, unique=True, max_size=6))
def test_every_picture_has_a_file_of_its_own_on_any_file_system(paths: list[str]) -> None:
    overlays = Overlays(RESERVED)
    files = [overlays.of(name_of(path)) for path in paths]
    assert files == [overlays.of(name_of(path)) for path in paths]
    assert len({*map(folded, files)}) == len(paths)
    assert len({file_of(name_of(path)) for path in paths}) == len(paths)  # nor do these need to know of each other
    folders = {folded(str(parent)) for file in files for parent in PurePosixPath(file).parents}
    assert not folders & {*map(folded, files)}
    for file in files:
        assert not file.lower().startswith(RESERVED)
        assert len(file.encode()) <= 1300
        for part in file.split("/"):
            assert part not in {"", ".", ".."}
            assert part[-1] not in ". "
            assert len(part.encode()) <= 250
            assert not re.search(r'[<>:"|?*\\\x00-\x1f]', part)
            assert part.split(".")[0].lower() not in {"con", "aux", "nul", "prn"}


@settings(max_examples=30, deadline=None)
@given(st.lists(PATHS, unique=True, max_size=8))
def test_the_files_can_all_be_there(paths: list[str]) -> None:
    with TemporaryDirectory() as folder:
        for path in paths:
            file = Path(folder, file_of(name_of(path)))
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("here")
        assert sum(file.is_file() for file in Path(folder).rglob("*")) == len(paths)


@pytest.mark.parametrize(
    ("path", "name", "file"),
    [
        ("line 2/ä.png", "line 2/ä.png", "line 2/ä.png.jpg"),
        (os.fsdecode(b"\xe4.png"), r"\xe4.png", "%xe4.png.jpg"),
        ("a\\b\n?.png", r"a\\b\x0a?.png", "a%x5cb%x0a%x3f.png.jpg"),
        ("\u202e\U0001f44b", "\\u202e\U0001f44b", "%u202e\U0001f44b.jpg"),
        ("../a.png", "../a.png", ".%x2e/a.png.jpg"),
        ("s3://b/a.png", "s3://b/a.png", "s3%x3a/%x2f/b/a.png.jpg"),
        ("a.png.jpg/b.png", "a.png.jpg/b.png", "a.png%x2ejpg/b.png.jpg"),
        ("report.html/b.png", "report.html/b.png", "%x72eport.html/b.png.jpg"),
    ],
)
def test_what_a_person_reads(path: str, name: str, file: str) -> None:
    assert (name_of(path), file_of(name_of(path), reserved=RESERVED)) == (name, file)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "shift_jis", "utf-8"])
def test_any_console_prints_any_name(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = ["検査.png", os.fsdecode(b"\xe4.png"), "ä.png", "\N{WAVING HAND SIGN}\x1b[31m"]
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding, newline="\n"))
    with printable():
        print(*map(name_of, paths), sep="\n", flush=True)  # noqa: T201
    assert [path_of(line) for line in written.getvalue().decode(encoding).splitlines()] == paths
    with pytest.raises(UnicodeEncodeError):  # nothing is changed for others
        print("\ud800")  # noqa: T201


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(PATHS, st.sampled_from(["a", "b", "01"]), max_size=6))
def test_short_names_stay_where_they_tell_paths_apart(names: dict[str, str]) -> None:
    found = apart(names)
    assert found.keys() == names.keys()
    assert len({*found.values()}) == len(found)
    for path, name in names.items():
        if [*names.values()].count(name) == 1:
            assert found[path] == name
        assert ".." not in found[path].split("/")
