"""Runs that are stopped, killed or cannot write: nothing is lost but the unfinished epoch."""

import csv
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch

from engine.train.resume import load_last
from engine.train.stop_signals import stop_requests
from tests.engine.conftest import NARROW
from tests.lively import lively_checkpoint
from tests.paths import ROOT
from utils import checkpoint
from utils.checkpoint import load_checkpoint, save_checkpoint
from utils.errors import CommandError, UserError


def command(small_shapes, project, *more):
    return [
        sys.executable, str(ROOT / "train.py"), "--data", str(small_shapes), "--project", str(project),
        "--imgsz", "64", "--batch-size", "4", "--workers", "1", "--device", "cpu", "--amp", "off", "--no-plots",
        "--set", NARROW[0], "--set", "nominal_batch=8", *more,
    ]  # fmt: skip


def start(arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # Ignored, as by the tests' own nohup, SIGHUP would stay ignored in the run.
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        return subprocess.Popen(arguments, cwd=ROOT, env=environment, start_new_session=True, **pipes)
    finally:
        signal.signal(signal.SIGHUP, before)


def wait_for(condition, process, seconds=600):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_ends_the_run_in_good_order(number, small_shapes, tmp_path):
    """Also where it reaches the loading processes, as that of a terminal does."""
    process = start(command(small_shapes, tmp_path, "--epochs", "10000"))
    wait_for((tmp_path / "exp" / "results.csv").exists, process)
    process.send_signal(number) if number == signal.SIGTERM else os.killpg(process.pid, number)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 130
    assert f"{number.name}: stopped; " in said
    assert f"--resume {tmp_path / 'exp'}" in said
    assert "Traceback" not in said
    done = load_checkpoint(tmp_path / "exp" / "weights" / "last.pt")["epoch"]
    assert len(list(csv.DictReader((tmp_path / "exp" / "results.csv").open()))) in (done, done + 1)


NAMES = ("disc", "ring", "square", "triangle", "cross", "bar")
WAITS = """
import os, sys, time
from engine.train.stop_signals import StopNow, stop_requests
try:
    with stop_requests():
        print("ready", os.getpid(), flush=True)
        time.sleep(600)
except StopNow as asked:
    open(sys.argv[1], "w").write(str(asked))
"""
STARTS = """
import os, subprocess, sys
subprocess.run([sys.executable, "-c", *sys.argv[1:]], env={**os.environ, "ALIGNYOLO_PARENT": str(os.getpid())})
"""


def test_a_run_ends_with_the_process_that_started_it(tmp_path):
    """As those of a comparison that is killed do."""
    process = start([sys.executable, "-c", STARTS, WAITS, str(tmp_path / "said")])
    number = int(process.stdout.readline().split()[1])
    process.kill()
    process.wait(600)
    end = time.monotonic() + 600
    while not (tmp_path / "said").exists() or not (tmp_path / "said").read_text():
        assert time.monotonic() < end, number
        time.sleep(0.05)
    assert (tmp_path / "said").read_text() == "SIGTERM"


def test_a_validation_ends_with_the_process_that_started_it(small_shapes, tmp_path):
    """As the one that scores a comparison's run on another split; here that process is another from the start."""
    best = lively_checkpoint(tmp_path / "best.pt", "yolov3-tiny", {"channels": [8] * 7}, NAMES, (64, 64))
    arguments = ["--weights", str(best), "--data", str(small_shapes), "--project", str(tmp_path), "--workers", "0"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "val.py"), *arguments], env={**os.environ, "ALIGNYOLO_PARENT": "1"}, check=False
    )
    assert done.returncode == -signal.SIGTERM
    assert not list(tmp_path.glob("*/metrics.json"))


def test_a_signal_that_was_ignored_stays_so(tmp_path):
    """Under nohup a closed terminal is no reason to stop."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_requests() as request:
            signal.raise_signal(signal.SIGHUP)
            assert request.signal is None
            with request.noted():
                signal.raise_signal(signal.SIGTERM)
            assert request.signal == "SIGTERM"
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("lines", [1, 100_000], ids=["at the end", "on the way"])
@pytest.mark.parametrize("to", [subprocess.PIPE, subprocess.STDOUT], ids=["stdout", "both"])
def test_an_output_that_nobody_reads_is_no_traceback(lines, to):
    script = "import time\nfrom utils.errors import run_command\ndef main():\n    print('ready', flush=True)\n"
    script += f"    time.sleep(0.5)\n    for _ in range({lines}): print('x' * 50)\nrun_command(main)"
    process = subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, stderr=to, text=True, bufsize=1
    )
    assert process.stdout.readline() == "ready\n"
    process.stdout.close()
    said = process.stderr.read() if to == subprocess.PIPE else ""
    assert process.wait(600) == 1
    assert not said or (said.startswith("error: nobody reads the output") and said.count("\n") == 1)


def rows_of(folder):
    timed = ("seconds", "images_per_second")
    rows = csv.DictReader((folder / "results.csv").open())
    return [{name: value for name, value in row.items() if name not in timed} for row in rows]


# train.py that kills itself: after some seconds of training, or while it writes its n-th file of a kind.
SUICIDE = """
import io, os, runpy, signal, sys, threading
import pathlib, torch
from engine.train.trainer import Trainer
moment, number, *sys.argv[1:] = sys.argv[1:]
sys.argv[0] = "train.py"
def die(*ignored):
    os.kill(os.getpid(), signal.SIGKILL)
fit, save, sync, rename = Trainer.fit, torch.save, os.fsync, pathlib.Path.replace
calls = []
def nth(kind):
    calls.append(kind)
    return kind == moment and calls.count(kind) >= float(number)
def timed(self, records):
    if moment == "seconds":
        threading.Timer(float(number), die).start()
    return fit(self, records)
def half_saved(contents, file):
    if nth("save"):
        whole = io.BytesIO()
        save(contents, whole)
        file.write(whole.getvalue()[: len(whole.getvalue()) // 2])
        file.flush()
        die()
    return save(contents, file)
def unsynced(descriptor):
    return die() if nth("sync") else sync(descriptor)
def renamed(self, target):
    return die() if nth("rename") else rename(self, target)
Trainer.fit, torch.save, os.fsync, pathlib.Path.replace = timed, half_saved, unsynced, renamed
runpy.run_path("train.py", run_name="__main__")
"""


def moments(rng):
    """Twenty moments: eight anywhere in the training, four each in the writing, syncing and renaming of files."""
    found = [("seconds", rng.uniform(0.05, 2)) for _ in range(8)]
    found += [(kind, rng.randint(1, 7)) for kind in ("save", "sync", "rename") for _ in range(4)]
    rng.shuffle(found)
    return found


@pytest.mark.slow
def test_twenty_kills_change_nothing(small_shapes, tmp_path):
    """SIGKILL at twenty moments, then --resume: the same weights, optimiser and results.csv as an undisturbed run."""
    epochs = 60
    whole = start(command(small_shapes, tmp_path / "whole", "--epochs", str(epochs)))
    whole.communicate(timeout=600)
    assert whole.returncode == 0
    project = tmp_path / "killed"
    last, kills = project / "exp" / "weights" / "last.pt", 0
    for moment, number in moments(random.Random(0)):
        if last.exists() or last.with_name("last_prev.pt").exists():
            before = load_last(last)[1]["epoch"]
            more = ["--resume", str(project / "exp")]
        else:
            before, more = 0, command(small_shapes, project, "--epochs", str(epochs), "--exist-ok")[2:]
        process = start([sys.executable, "-c", SUICIDE, moment, str(number), *more])
        _, said = process.communicate(timeout=600)
        kills += process.returncode == -signal.SIGKILL
        assert process.returncode in (-signal.SIGKILL, 0), said
        if before:
            assert load_last(last)[1]["epoch"] >= before
    assert kills == 20
    assert load_last(last)[1]["epoch"] < epochs
    process = start([sys.executable, str(ROOT / "train.py"), "--resume", str(project / "exp")])
    _, said = process.communicate(timeout=600)
    assert process.returncode == 0, said
    first, second = (load_checkpoint(each / "exp" / "weights" / "last.pt") for each in (tmp_path / "whole", project))
    for part in ("network", "model"):
        assert all(torch.equal(value, second[part][name]) for name, value in first[part].items())
    for index, state in first["optimizer"]["state"].items():
        assert torch.equal(state["momentum_buffer"], second["optimizer"]["state"][index]["momentum_buffer"])
    assert rows_of(tmp_path / "whole" / "exp") == rows_of(project / "exp")
    assert [int(row["epoch"]) for row in rows_of(project / "exp")] == list(range(1, epochs + 1))


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, capsys):
    last = tmp_path / "last.pt"
    for epoch in (1, 2, 3):
        save_checkpoint(last, {"epoch": epoch}, previous=tmp_path / "last_prev.pt")
    assert load_last(last)[1]["epoch"] == 3
    last.write_bytes(last.read_bytes()[:100])
    path, contents = load_last(last)
    assert (path.name, contents["epoch"]) == ("last_prev.pt", 2)
    assert "going on from" in capsys.readouterr().err
    last.unlink()
    assert load_last(last)[1]["epoch"] == 2
    with pytest.raises(UserError):
        load_last(tmp_path / "best.pt")


def test_a_full_disk_is_said_before_anything_is_written(tmp_path, monkeypatch):
    save_checkpoint(tmp_path / "last.pt", {"epoch": 1, "model": torch.zeros(10)})
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 3_000_000})())
    with pytest.raises(CommandError, match=r"no room for last.pt: 5 MiB needed, 3 MiB free"):
        save_checkpoint(tmp_path / "last.pt", {"model": [torch.zeros(1_000_000)]}, previous=tmp_path / "prev.pt")
    assert [each.name for each in tmp_path.iterdir()] == ["last.pt"]
    assert load_checkpoint(tmp_path / "last.pt")["epoch"] == 1


def test_what_the_system_refuses_is_one_line():
    script = "import errno\nfrom utils.errors import run_command\ndef refused():\n"
    script += "    raise OSError(errno.ENOSPC, 'No space left on device', 'results.csv')\nrun_command(refused)"
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 1
    assert result.stderr == "error: No space left on device: results.csv\n"
