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

from engine.resume import load_last
from tests.engine.conftest import NARROW
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
    return subprocess.Popen(
        arguments, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for(condition, process, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_signal_ends_the_run_in_good_order(number, small_shapes, tmp_path):
    process = start(command(small_shapes, tmp_path, "--epochs", "10000"))
    wait_for((tmp_path / "exp" / "results.csv").exists, process)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"{number.name}: stopped; " in said
    assert f"--resume {tmp_path / 'exp'}" in said
    assert "Traceback" not in said
    done = load_checkpoint(tmp_path / "exp" / "weights" / "last.pt")["epoch"]
    assert len(list(csv.DictReader((tmp_path / "exp" / "results.csv").open()))) in (done, done + 1)


def rows_of(folder):
    timed = ("seconds", "images_per_second")
    rows = csv.DictReader((folder / "results.csv").open())
    return [{name: value for name, value in row.items() if name not in timed} for row in rows]


@pytest.mark.slow
def test_twenty_kills_change_nothing(small_shapes, tmp_path):
    """SIGKILL at random moments, then --resume: the same weights, optimiser and results.csv as an undisturbed run."""
    whole = start(command(small_shapes, tmp_path / "whole", "--epochs", "25"))
    whole.communicate(timeout=600)
    assert whole.returncode == 0
    rng, project = random.Random(0), tmp_path / "killed"
    folder, kills = project / "exp", 0
    arguments = command(small_shapes, project, "--epochs", "25")
    while kills < 20:
        process = start(arguments)
        if (folder / "weights" / "last.pt").exists():
            before = load_last(folder / "weights" / "last.pt")[1]["epoch"]
            time.sleep(rng.uniform(3, 7))
        else:
            before = 0
            wait_for((folder / "weights" / "last.pt").exists, process)
        if process.poll() is not None:
            break
        process.kill()
        process.communicate()
        kills += 1
        assert load_last(folder / "weights" / "last.pt")[1]["epoch"] >= before
        arguments = [sys.executable, str(ROOT / "train.py"), "--resume", str(folder)]
    process = start(arguments)
    process.communicate(timeout=600)
    first, second = (load_checkpoint(each / "exp" / "weights" / "last.pt") for each in (tmp_path / "whole", project))
    for part in ("network", "model"):
        assert all(torch.equal(value, second[part][name]) for name, value in first[part].items())
    for index, state in first["optimizer"]["state"].items():
        assert torch.equal(state["momentum_buffer"], second["optimizer"]["state"][index]["momentum_buffer"])
    assert rows_of(tmp_path / "whole" / "exp") == rows_of(folder)
    assert kills >= 3


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
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    assert result.stderr == "error: No space left on device: results.csv\n"
