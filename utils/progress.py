"""A progress line on a terminal: rewritten in place, silent elsewhere."""

import sys
import time
from collections.abc import Callable


class Progress:
    """Counts images (or another unit); shows speed and the time left at most five times a second."""

    def __init__(self, title: str, total: int, live: bool = True, unit: str = "img"):
        self.title, self.total, self.unit, self.done = title, total, unit, 0
        self.start = self.shown = time.perf_counter()
        self.live = live and sys.stderr.isatty()

    @property
    def speed(self) -> float:
        """Images per second so far."""
        return self.done / max(time.perf_counter() - self.start, 1e-9)

    def advance(self, images: int, line: Callable[[], str] = str) -> None:
        """Counts images and, on a terminal, rewrites the line, whose end is asked for only then."""
        self.done += images
        now = time.perf_counter()
        if self.live and (now - self.shown > 0.2 or self.done >= self.total):
            self.shown = now
            left = (self.total - self.done) / max(self.speed, 1e-9)
            text = (
                f"{self.title} {self.done}/{self.total}  {self.speed:.1f} {self.unit}/s  {clock(left)} left  {line()}"
            )
            print(f"\r\x1b[2K{text}", end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Clears the line."""
        if self.live:
            print("\r\x1b[2K", end="", file=sys.stderr, flush=True)


def clock(seconds: float) -> str:
    """Seconds as 3s, 2m05s or 1h02m."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
