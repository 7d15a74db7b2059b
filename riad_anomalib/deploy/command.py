"""``python -m riad_anomalib.deploy``: its sub-commands by name; without one, it inspects."""

import sys
from collections.abc import Sequence
from importlib import import_module

from riad_anomalib.report.names import printable

COMMANDS = {"inspect": ".inspection", "package": ".packaging", "stress": ".stress", "thresholds": ".thresholds"}
"""The module of each sub-command, whose ``main`` takes the words after the name and returns the exit status."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a sub-command from the command line and return the exit status.

    Args:
        argv: The command's words; None for those that the program was started with.
    """
    words = [*(sys.argv[1:] if argv is None else argv)]
    name = words.pop(0) if words and words[0] in COMMANDS else "inspect"
    with printable():
        status: int = import_module(COMMANDS[name], __package__).main(words)
    return status
