"""The progress line: on a terminal alone, its end asked for only when it is shown, nothing left behind."""

import io
import re
import sys
import threading

import pytest

from utils.progress import Progress, clock


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_sees_the_count_the_unit_and_the_end_of_the_line(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    threads = threading.active_count()
    progress, asked = Progress("epoch 1/2", 30, unit="img", seconds=0), []

    def line():
        asked.append(progress.done)
        return "box 0.123"

    for _ in range(3):
        progress.advance(10, line)
    progress.close()
    shown = sys.stderr.getvalue()
    assert asked == [10, 20, 30]
    assert re.search(r"epoch 1/2 \d0/30  .*img/s  .* left  .*box 0\.123", shown)
    assert shown.rstrip("\r").split("\r")[-1].strip() == "", "the line is cleared"
    assert threading.active_count() == threads
    assert progress.speed > 0


def test_the_end_of_the_line_is_not_asked_for_at_every_step(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    progress, asked = Progress("epoch", 1000, seconds=3600), []
    for _ in range(1000):
        progress.advance(1, lambda: asked.append(progress.done) or "")
    assert asked == [1]
    assert progress.done == 1000


@pytest.mark.parametrize(("stream", "live"), [(Terminal, False), (io.StringIO, True)])
def test_elsewhere_it_is_silent(stream, live, monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream())
    progress = Progress("validation", 2, live)
    progress.advance(2, lambda: pytest.fail("nobody reads it"))
    progress.close()
    assert sys.stderr.getvalue() == ""
    assert progress.done == 2 and progress.speed > 0


def test_an_unknown_total_is_no_error(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    progress = Progress("file.zip", 0, unit="MiB")
    progress.advance(3)
    progress.close()
    assert progress.done == 3


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0s"), (59.6, "1m00s"), (125, "2m05s"), (3725, "1h02m"), (86400, "24h00m")]
)
def test_clock(seconds, text):
    assert clock(seconds) == text
