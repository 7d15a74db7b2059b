"""How a run ends: by signals, and with its last words said."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from riad_anomalib.report.names import readable

ERROR = 2
"""The exit status of an error; 1 is for pictures that were skipped or not drawn."""
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Ctrl-C; what schedulers and containers stop a run by; a terminal that is closed, where there is such a signal."""


class Ending(threading.Event):
    """Set when the run is asked to end; ``status`` is then its exit status, as shells have it: 130 for Ctrl-C."""

    status = 0

    def ask(self, number: int, _: FrameType | None = None) -> None:
        """Ask the run to end, by a signal."""
        self.status = 128 + number
        self.set()
        for each in SIGNALS:  # the next one ends at once
            signal.signal(each, signal.default_int_handler if each == signal.SIGINT else signal.SIG_DFL)
        if hasattr(signal, "SIGHUP"):  # a terminal that is closed may say so twice
            signal.signal(signal.SIGHUP, signal.SIG_IGN)


@contextmanager
def ending() -> Iterator[Ending]:
    """Turn the first Ctrl-C, SIGTERM or SIGHUP into an event, so that all can end in good order."""
    asked = Ending()
    if threading.current_thread() is not threading.main_thread():  # which alone gets signals
        yield asked
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        if number == signal.SIGINT or handler != signal.SIG_IGN:  # nohup has a run outlive its terminal
            signal.signal(number, asked.ask)
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not Python's


def say(text: str, *, is_error: bool = False) -> None:
    """Print last words; where nobody listens any more, such as a pipe that head has closed, to standard error."""
    stream = sys.stderr if is_error else sys.stdout
    try:
        print("\n".join(map(readable, text.split("\n"))), file=stream, flush=True)
    except OSError:
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # or Python fails again when it exits
        if not is_error:
            say(text, is_error=True)
