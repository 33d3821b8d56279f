"""Stopping a run in good order: the first SIGINT or SIGTERM ends it after the step, the second at once."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Whether somebody asked the run to stop, and by which signal."""

    def __init__(self):
        self.signal: str | None = None

    def ask(self, number: int, frame: FrameType | None) -> None:
        """Notes the first signal; from then on signals act as usual."""
        self.signal = signal.Signals(number).name
        for each in SIGNALS:
            signal.signal(each, signal.default_int_handler if each == signal.SIGINT else signal.SIG_DFL)


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Collects SIGINT and SIGTERM while a run goes on; outside the main thread, where that is impossible, nothing."""
    request = StopRequest()
    try:
        before = {each: signal.signal(each, request.ask) for each in SIGNALS}
    except ValueError:
        yield request
        return
    try:
        yield request
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
