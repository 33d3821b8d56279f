"""One writer a folder: others are refused while it lives, and no longer."""

import os
import signal
import subprocess
import sys

import pytest

from engine.run_lock import only_writer
from tests.paths import ROOT
from train import train
from utils.errors import UserError

HOLD = "import sys, time; from pathlib import Path; from engine.run_lock import only_writer\n"
HOLD += "with only_writer(Path(sys.argv[1])):\n    print('held', flush=True); {}\n"


def holder(folder, doing="time.sleep(600)"):
    command = [sys.executable, "-c", HOLD.format(doing), str(folder)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_writer_is_refused_until_the_first_is_killed(tmp_path):
    first = holder(tmp_path)
    told = rf"another process writes in this folder \(process {first.pid} on .* since"
    with pytest.raises(UserError, match=told), only_writer(tmp_path):
        pytest.fail("two writers")
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=60)
    with only_writer(tmp_path):
        pass
    with only_writer(tmp_path):
        pass


def test_a_child_that_outlives_the_writer_does_not_hold_its_lock(tmp_path):
    forked = "import os; child = os.fork(); child and print(child, flush=True); time.sleep(600)"
    first = holder(tmp_path, forked)
    child = int(first.stdout.readline())
    first.kill()
    first.wait(60)
    try:
        with only_writer(tmp_path):
            pass
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch, capsys):
    fcntl = pytest.importorskip("fcntl")

    def none(*arguments):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", none)
    with only_writer(tmp_path):
        pass
    assert "no locks on this file system (No locks available)" in capsys.readouterr().err


def test_resuming_a_live_run_and_starting_over_it_are_refused(flags, tmp_path):
    folder = train(**{**flags, "epochs": 1})
    live = holder(folder)
    before = (folder / "weights" / "last.pt").read_bytes()
    try:
        for again in ({"resume": str(folder), "epochs": 2}, {**flags, "exist_ok": True}):
            with pytest.raises(UserError, match="another process writes in this folder"):
                train(**again)
    finally:
        live.kill()
        live.communicate()
    assert (folder / "weights" / "last.pt").read_bytes() == before
    assert train(resume=str(folder), epochs=2) == folder
