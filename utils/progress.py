"""A progress line on a terminal, by tqdm: rewritten in place, silent elsewhere."""

import math
import sys
import time
from collections.abc import Callable

from tqdm import tqdm

LINE = "{desc} {n_fmt}/{total_fmt}  {rate_fmt}  {remaining} left  {postfix}"
SECONDS = 0.2  # between two lines


class _Bar(tqdm):
    # tqdm would start a thread that watches slow bars; loading processes are forked beside it.
    monitor_interval = 0


class Progress:
    """Counts images (or another unit); shows speed and the time left at most five times a second."""

    def __init__(self, title: str, total: int, live: bool = True, unit: str = "img", seconds: float = SECONDS):
        """Begin a line of `title`, rewritten after `seconds`; without `live`, or where stderr is no terminal, none."""
        self.done, self.start = 0, time.perf_counter()
        self._seconds, self._shown = seconds, -math.inf
        self._bar = _Bar(
            desc=title,
            total=total or None,
            unit=unit,
            file=sys.stderr,
            disable=not (live and sys.stderr.isatty()),
            leave=False,
            dynamic_ncols=True,
            mininterval=seconds,
            bar_format=LINE,
        )

    @property
    def speed(self) -> float:
        """Images per second so far."""
        return self.done / max(time.perf_counter() - self.start, 1e-9)

    def advance(self, images: int, line: Callable[[], str] = str) -> None:
        """Count images and, on a terminal, rewrite the line, whose end is asked for only then: it may take time."""
        self.done += images
        now = time.perf_counter()
        if not self._bar.disable and now - self._shown >= self._seconds:
            self._shown = now
            self._bar.set_postfix_str(line(), refresh=False)
        self._bar.update(images)

    def close(self) -> None:
        """Clear the line."""
        self._bar.close()


def clock(seconds: float) -> str:
    """Write seconds as 3s, 2m05s or 1h02m."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
