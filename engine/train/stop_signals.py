"""Stopping a run in good order: by SIGINT, SIGTERM, SIGHUP, or with the process that started it."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from engine.parent_process import end_with_parent

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class StopNow(KeyboardInterrupt):
    """A signal at a time when nothing has to be waited for; no `except Exception` takes it for an error."""


class StopRequest:
    """Whether somebody asked the run to stop, and by which signal."""

    def __init__(self) -> None:
        self.signal: str | None = None
        self.waits = False

    def ask(self, number: int, frame: FrameType | None) -> None:
        """Note the first signal; from then on signals act as usual. StopNow unless a step has to be finished first."""
        self.signal = signal.Signals(number).name
        for each in SIGNALS:
            signal.signal(each, signal.default_int_handler if each == signal.SIGINT else signal.SIG_DFL)
        if self.signal == "SIGHUP":
            leave_terminal()
        if not self.waits:
            raise StopNow(self.signal)

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Let signals only be noted while the block runs, which looks at them when it can stop."""
        self.waits = True
        try:
            yield
        finally:
            self.waits = False


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Collect signals while a run goes on; outside the main thread, where that is impossible, none.

    SIGHUP stays ignored where it is, as under nohup.
    """
    request = StopRequest()
    before = {}
    try:
        for each in SIGNALS:
            if each == signal.SIGINT or signal.getsignal(each) != signal.SIG_IGN:
                before[each] = signal.signal(each, request.ask)
    except ValueError:
        yield request
        return
    over = end_with_parent()
    try:
        yield request
    finally:
        over.set()
        for each, handler in before.items():
            signal.signal(each, handler)


def leave_terminal() -> None:
    """Send what is printed from now on nowhere if it went to a terminal, which has hung up and would refuse it."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for number in (1, 2):
        if os.isatty(number):
            os.dup2(nowhere, number)
    os.close(nowhere)
