"""Stopping a run in good order: by SIGINT, SIGTERM, SIGHUP, or with the process that started it."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
# The process with whose end a run ends too: set by who starts runs, such as studies/trials/jobs.py.
PARENT = "ALIGNYOLO_PARENT"
LOOK_S = 0.5


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


def end_with_parent() -> threading.Event:
    """Watch the process that the environment names as the one to end with: this one gets SIGTERM when it is gone.

    Until the event that is returned is set: a process that goes on after its run must not be ended later.
    """
    over = threading.Event()
    parent = os.environ.get(PARENT, "")
    if not parent.isdigit():
        return over

    def watch() -> None:
        while not over.wait(LOOK_S):
            if os.getppid() != int(parent):
                os.kill(os.getpid(), signal.SIGTERM)
                return

    threading.Thread(target=watch, name="watches its parent", daemon=True).start()
    return over
