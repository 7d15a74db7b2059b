r"""Names of pictures: one rule, from which follows what is printed, what stands in tables and where overlays lie.

A name is a picture's path in its source, with ``/``. What no table, terminal or file system holds is written as in
Python: ``\\`` for a backslash, ``\x0a`` for a control character, ``\xe4`` for a byte that is no UTF-8, ``\u202e`` for a
character beyond ASCII. So different paths have different names, and :func:`path_of` returns the path.
"""

import codecs
import hashlib
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import PurePath

# Control characters, ends of lines, marks that turn the direction of writing, byte order mark, no characters at all.
_HIDDEN = "\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff"
_BYTES = range(0xDC80, 0xDD00)
"""As what Python reads bytes of a path that are no UTF-8 (PEP 383)."""
_ASCII = 0x80
_FORMULA = re.compile(r"(^|[;,|])(\s*)([=+\-@\uff1d\uff0b\uff0d\uff20])")
"""What a spreadsheet takes for a formula, also where it takes another sign than the comma for the end of a cell."""

LONGEST, LONGEST_PATH = 200, 1000
"""Most bytes of a part of a file's path, and of all of it; file systems take 255 or more, and 4096."""
_CUT = "%~"
"""Before the digest that ends a part which was too long; elsewhere ``%`` never stands before ``~``."""
_DEVICES = r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?=\.|$)"


def _code(character: str) -> str:
    code = ord(character)
    if code in _BYTES:
        return f"x{code - _BYTES.start + _ASCII:02x}"
    return f"x{code:02x}" if code < _ASCII else f"u{code:04x}" if code <= 0xFFFF else f"U{code:08x}"  # noqa: PLR2004


def readable(text: str) -> str:
    """Return a message without what would move a terminal's cursor, or could not be written as UTF-8."""
    return re.sub(f"[{_HIDDEN}]", lambda found: "\\" + _code(found[0]), text)


def name_of(path: str) -> str:
    r"""Return the name of a picture.

    Args:
        path: Its path in the source with ``/``, as Python has it: bytes that are no UTF-8 are surrogates.

    Example:
        >>> print(name_of("line 1/a\nb.png"))
        line 1/a\x0ab.png
    """
    return readable(path.replace("\\", "\\\\"))


def path_of(name: str) -> str:
    """Return the path of a picture by its name, whether it was read from a table, a page or a terminal."""

    def character(found: re.Match[str]) -> str:
        text = found[1]
        if text == "\\":
            return text
        code = int(text[1:], 16)
        return chr(code - _ASCII + _BYTES.start if text[0] == "x" and code >= _ASCII else code)

    return re.sub(r"\\(\\|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})", character, name)


def cell(name: str) -> str:
    r"""Return what stands for a name in a table of CSV, where no spreadsheet may take it for a formula.

    Example:
        >>> print(cell("=1+1.png"), cell("a-1.png"))
        \x3d1+1.png a-1.png
    """
    return _FORMULA.sub(lambda found: f"{found[1]}{found[2]}\\{_code(found[3])}", name)


@contextmanager
def printable() -> Iterator[None]:
    """Let standard output and error have any character: what their encoding is without is written by its number."""

    def numbers(error: UnicodeError) -> tuple[str, int]:
        if not isinstance(error, UnicodeEncodeError):
            raise error
        return "".join("\\" + _code(character) for character in error.object[error.start : error.end]), error.end

    codecs.register_error("riad_anomalib.names", numbers)
    # Not all streams can be told: a notebook's take any character.
    streams = [stream for stream in (sys.stdout, sys.stderr) if hasattr(stream, "reconfigure")]
    before = [stream.errors for stream in streams]
    for stream in streams:
        stream.reconfigure(errors="riad_anomalib.names")
    try:
        yield
    finally:
        for stream, errors in zip(streams, before, strict=True):
            stream.reconfigure(errors=errors)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:20]


def _part(text: str, reserved: str, suffix: str = "") -> str:
    """Return a part of a file's path; a folder's has no suffix, and never ends like a file."""

    def number(found: re.Match[str]) -> str:
        return "%" + _code(found[0])

    safe = re.sub(rf'[%<>:"|?*\\{_HIDDEN}]', number, text) or "%x2f"
    safe = re.sub(rf"^(?={reserved}).", number, safe, flags=re.IGNORECASE)
    if not suffix:
        safe = re.sub(
            r"\.(?=(?:csv|jpg|png)$)|[. ]$", number, safe, flags=re.IGNORECASE
        )  # Windows drops a dot at the end
    if len((safe + suffix).encode()) > LONGEST:
        digest = _CUT + _digest(text)
        safe = safe.encode()[: LONGEST - len(digest) - len(suffix)].decode(errors="ignore") + digest
    return safe + suffix


def file_of(name: str, suffix: str = ".jpg", reserved: tuple[str, ...] = ()) -> str:
    r"""Return where the overlay of a picture, or another file about it, lies below a folder of such, with ``/``.

    That is ``NAME.jpg``, after the old suffix: there may be an ``a.png`` and an ``a.jpg``. What Windows has in no name,
    and what would lead out of the folder, is written by its number, as in names but with ``%`` (``%x3f`` for ``?``); a
    part that is too long is cut and ends in a digest. Different names have different files, and none lies where another
    one's folder would.

    Args:
        name: What :func:`name_of` returned.
        suffix: ``.csv``, ``.jpg`` or ``.png``.
        reserved: What no part may begin with, because the folder has files by such names.
    """
    *folders, file = path_of(name).split("/")
    taken = f"(?:{'|'.join([*map(re.escape, reserved), _DEVICES])})"
    path = "/".join([*(_part(folder, taken) for folder in folders), _part(file, taken, suffix)])
    return path if len(path.encode()) <= LONGEST_PATH else f"{_CUT}{_digest(name)}/{_part(file, taken, suffix)}"


class Overlays:
    """Where the overlays of a run lie: none is another's, also where a file system takes ``A`` for ``a``."""

    def __init__(self, reserved: tuple[str, ...] = ()) -> None:
        self._reserved = reserved
        self._names: dict[str, str] = {}

    def of(self, name: str) -> str:
        """Return :func:`file_of`, with a digest where another name has that one in other letters."""
        path = file_of(name, reserved=self._reserved)
        if self._names.setdefault(folded(path), name) == name:
            return path
        return f"{path.removesuffix('.jpg')}{_CUT}{_digest(name)}.jpg"


def folded(path: str) -> str:
    """Return what two paths have in common that some file systems take for one."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", path).casefold())


def lengthened(path: str, name: str) -> str:
    """Return a longer name for a path: one more of its last parts, or, where there is none left, a digest."""
    pure = PurePath(path)
    parts = [part for part in pure.parts if part not in {pure.anchor, ".."}]
    number = name.count("/") + 2
    return "/".join(parts[-number:]) if number <= len(parts) else f"{name}{_CUT}{_digest(path)}"


def apart(names: Mapping[str, str]) -> dict[str, str]:
    """Return names that tell paths apart.

    Args:
        names: A short name for each path: it stays where it is the only one, others get more of their paths.

    Example:
        >>> apart({"/cam1/01.avi": "01", "/cam2/01.avi": "01", "/cam2/02.avi": "02"})
        {'/cam1/01.avi': 'cam1/01.avi', '/cam2/01.avi': 'cam2/01.avi', '/cam2/02.avi': '02'}
    """
    found = dict(names)
    while max((number := Counter(found.values())).values(), default=1) > 1:
        found = {path: lengthened(path, name) if number[name] > 1 else name for path, name in found.items()}
    return found
