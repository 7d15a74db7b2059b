"""A window to look at pictures while they are inspected."""

import signal
import sys
from multiprocessing import get_context
from typing import TYPE_CHECKING

import cv2

from riad_anomalib.report import Image

if TYPE_CHECKING:
    from multiprocessing.connection import Connection


class Window:
    """A window with one picture, which its user closes as usual or by q or Escape.

    It has a process of its own, because the X library ends the process that loses its display.

    Raises:
        ValueError: If there is no tkinter or no display.
    """

    def __init__(self) -> None:
        context = get_context("spawn")  # a fork would share the threads and files of the run
        self._pipe, its_end = context.Pipe()
        self._process = context.Process(target=_serve, args=(its_end,), daemon=True)
        self._process.start()
        its_end.close()  # or the pipe would outlive the process
        try:
            problem, self._screen = self._pipe.recv()
        except EOFError:
            problem = "the window of --show ended before it opened: use --output instead"
        if problem:
            raise ValueError(problem)

    def close(self) -> None:
        """Close the window, whatever it is doing."""
        self._process.terminate()
        self._process.join()

    @property
    def is_open(self) -> bool:
        """Whether pictures can still be seen."""
        return self._process.is_alive()

    @property
    def is_lost(self) -> bool:
        """Whether something else than its user closed it."""
        return self._process.exitcode not in {None, 0}

    def show(self, overlay: Image) -> None:
        """Show a picture, smaller where the screen is; one that is closed shows nothing."""
        height, width = overlay.shape[:2]
        scale = min(1, 0.9 * self._screen[0] / height, 0.9 * self._screen[1] / width)  # room for title and task bar
        size = max(1, round(scale * width)), max(1, round(scale * height))  # a narrow strip stays visible
        _, picture = cv2.imencode(".ppm", cv2.resize(overlay, size, interpolation=cv2.INTER_AREA))
        try:
            self._pipe.send_bytes(picture.tobytes())
            self._pipe.recv()  # it is on the screen: the window does not lag behind
        except (EOFError, OSError):
            self._process.join()


def _serve(pipe: "Connection[object, object]") -> None:
    """Open the window, send a problem or the screen's size, then show and acknowledge what comes until it is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the run, which closes the window
    try:
        import tkinter as tk  # noqa: PLC0415  # only --show needs it, and not every Python has it
    except ImportError:
        msg = "--show needs tkinter: install it (Debian, Ubuntu: apt install python3-tk), or use --output instead"
        pipe.send((msg, None))
        return
    try:
        root = tk.Tk()
    except tk.TclError as error:
        pipe.send((f"--show needs a display ({error}): use --output instead", None))
        return
    is_open = True

    def close(_: object = None) -> None:
        nonlocal is_open
        is_open = False

    root.title("RIAD")
    root.protocol("WM_DELETE_WINDOW", close)
    root.bind("<q>", close)
    root.bind("<Escape>", close)
    photo = tk.PhotoImage(master=root)
    tk.Label(root, image=photo).pack()
    pipe.send(("", (root.winfo_screenheight(), root.winfo_screenwidth())))
    try:
        while is_open:
            root.update()
            if pipe.poll(0.02):
                photo.configure(data=pipe.recv_bytes())
                root.update()
                if is_open:
                    pipe.send(None)
    except (tk.TclError, EOFError, OSError):  # another program destroyed the window, or the run is gone
        sys.exit(1)
