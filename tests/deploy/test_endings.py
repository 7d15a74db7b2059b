import signal

import pytest

from riad_anomalib.deploy.endings import ending


@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_the_first_signal_asks_and_the_next_one_ends(name: str, status: int) -> None:
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    with ending() as asked:
        assert (asked.is_set(), asked.status) == (False, 0)
        signal.raise_signal(getattr(signal, name))
        assert (asked.is_set(), asked.status) == (True, status)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        signal.raise_signal(signal.SIGHUP)  # a terminal that is closed says so twice
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert {each: signal.getsignal(each) for each in before} == before


def test_what_nohup_began_outlives_its_terminal() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ending() as asked:
            signal.raise_signal(signal.SIGHUP)
            assert not asked.is_set()
    finally:
        signal.signal(signal.SIGHUP, before)
