"""Signals end processes, so each test has one of its own: what other tests left in theirs does not matter either."""

import subprocess
import sys

import pytest

ASKED = """
import signal
from riad_anomalib.deploy.endings import ending
before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
with ending() as asked:
    assert (asked.is_set(), asked.status) == (False, 0)
    signal.raise_signal(signal.NAME)
    assert (asked.is_set(), asked.status) == (True, STATUS)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    signal.raise_signal(signal.SIGHUP)  # a terminal that is closed says so twice
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        print("ended")
assert {each: signal.getsignal(each) for each in before} == before
"""
NOHUP = """
import signal
from riad_anomalib.deploy.endings import ending
signal.signal(signal.SIGHUP, signal.SIG_IGN)
with ending() as asked:
    signal.raise_signal(signal.SIGHUP)
    assert not asked.is_set()
print("outlived")
"""


def said(script: str) -> str:
    # Whatever ran the tests may have had them ignored, as nohup does.
    usual = "import signal\nfor each in (signal.SIGTERM, signal.SIGHUP): signal.signal(each, signal.SIG_DFL)\n"
    run = subprocess.run(
        [sys.executable, "-c", usual + script], capture_output=True, text=True, timeout=120, check=False
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_the_first_signal_asks_and_the_next_one_ends(name: str, status: int) -> None:
    assert said(ASKED.replace("NAME", name).replace("STATUS", str(status))) == "ended\n"


def test_what_nohup_began_outlives_its_terminal() -> None:
    assert said(NOHUP) == "outlived\n"
