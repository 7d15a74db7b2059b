"""Takes tkinter's place in the window's process: files what would be seen, and ends as the environment says.

FAKE_SHOWN is the folder for the pictures. FAKE_ENDING happens in the update that shows picture FAKE_PICTURE, or so many
updates LATER: a key or message that closes the window, "exit" for the X library without a display, "TclError" for a
window that another program destroyed.
"""

import os
from collections.abc import Callable
from pathlib import Path

# pytest, on its way through the folder, imports it too, without these.
SHOWN = Path(os.environ.get("FAKE_SHOWN", ""))
ENDING = os.environ.get("FAKE_ENDING", "")
PICTURE = int(os.environ.get("FAKE_PICTURE", "0"))
LATER = int(os.environ.get("FAKE_LATER", "0"))

if ENDING == "no tkinter":
    raise ImportError


class TclError(Exception):
    pass


class Tk:
    def __init__(self) -> None:
        if ENDING == "no display":
            msg = "no display name and no $DISPLAY environment variable"
            raise TclError(msg)
        self.bound: dict[str, Callable[[], None]] = {}
        self.later = 0

    def title(self, _: str) -> None:
        pass

    def bind(self, name: str, function: Callable[[], None]) -> None:
        self.bound[name] = function

    protocol = bind

    def winfo_screenheight(self) -> int:
        return 100

    def winfo_screenwidth(self) -> int:
        return 200

    def update(self) -> None:
        if len(list(SHOWN.glob("*.ppm"))) < PICTURE:
            return
        if self.later == LATER:
            (SHOWN / "ended").touch()
            if ENDING == "exit":
                os._exit(1)
            if ENDING == "TclError":
                msg = 'can\'t invoke "update" command: application has been destroyed'
                raise TclError(msg)
            self.bound[ENDING]()
        self.later += 1


class PhotoImage:
    def __init__(self, *, master: Tk) -> None:
        pass

    def configure(self, *, data: bytes) -> None:
        (SHOWN / f"{len(list(SHOWN.glob('*.ppm'))):03}.ppm").write_bytes(data)


class Label:
    def __init__(self, root: Tk, *, image: PhotoImage) -> None:
        assert isinstance(root, Tk)
        assert isinstance(image, PhotoImage)

    def pack(self) -> None:
        pass
