"""The loader's manners when a loading process is killed."""

import signal
import sys

import pytest
from torch.utils.data import Dataset

from data.loader import PatientLoader


class BrokenConnection(Dataset):
    """Its second sample fails as a batch does whose process is gone; the news of its death comes a little later."""

    def __init__(self, signalled: bool) -> None:
        self.signalled = signalled

    def __len__(self):
        return 3

    def __getitem__(self, number):
        if number == 1:
            if self.signalled:
                signal.setitimer(signal.ITIMER_REAL, 0.05)
            raise EOFError
        return number


def killed(*_):
    raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")


@pytest.mark.skipif(sys.platform == "win32", reason="has no timer signals")
def test_a_broken_connection_waits_for_what_broke_it(monkeypatch):
    monkeypatch.setattr("data.loader.SIGNAL_S", 60.0)
    before = signal.signal(signal.SIGALRM, killed)
    try:
        batches = iter(PatientLoader(BrokenConnection(signalled=True), batch_size=1))
        assert next(batches).tolist() == [0]
        with pytest.raises(RuntimeError, match="is killed by signal"):
            next(batches)
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_broken_connection_that_nothing_explains_stays_what_it_is(monkeypatch):
    monkeypatch.setattr("data.loader.SIGNAL_S", 0.0)
    with pytest.raises(EOFError):
        list(PatientLoader(BrokenConnection(signalled=False), batch_size=1))


def test_all_batches_come_once_and_again():
    loader = PatientLoader(range(5), batch_size=2)
    for _ in range(2):
        assert [batch.tolist() for batch in loader] == [[0, 1], [2, 3], [4]]
