"""The GPU benchmark: operations as Darknet counts them, rows by hand, and the whole script on a CPU."""

import json
import os
import subprocess
import sys

import pytest
import torch

import benchmarks.gpu
from benchmarks.gpu import SIDES, bf16_limit, measured, operations, row
from benchmarks.training import OURS, PEER
from tests.paths import ROOT
from utils.errors import UserError


@pytest.mark.parametrize(("cfg", "darknet"), [("yolov3-tiny", 5.571), ("yolov3", 65.879)])
def test_operations_are_what_darknet_prints(cfg, darknet):
    """In billions, for 80 classes at 416 px; Darknet's figures hold its pools and shortcuts too."""
    assert operations(cfg, 416, 80) / 1e9 == pytest.approx(darknet, rel=0.003)
    assert operations(cfg, 832) == pytest.approx(4 * operations(cfg, 416), rel=1e-6)


def test_the_first_epoch_does_not_count_and_the_share_is_of_the_limit():
    found = row("ours", "yolov3", [1.0, 0.01, 0.02, 0.04], share=0.001)
    assert (found["img/s median"], found["img/s lowest"], found["img/s highest"]) == (50, 25, 100)
    assert found["share of the bf16 limit"] == pytest.approx(0.05)
    assert "share of the bf16 limit" not in row("theirs", "yolov3", [1.0, 0.01], share=None)
    assert bf16_limit(torch.device("cpu"), 64, repeats=2) > 0


def test_a_side_that_fails_is_a_row_that_says_so(monkeypatch):
    def fail(*_):
        raise UserError("python -m benchmarks.gpu failed:\nTraceback\nMemoryError: no room")

    monkeypatch.setattr(benchmarks.gpu, "run_watched", fail)
    found = measured("theirs", {"cfg": "yolov3", "side": PEER}, 1, 1.0)
    assert found == {"side": "theirs", "network": "yolov3", "img/s": "failed: MemoryError: no room"}


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--epochs", "1"], "--epochs 1: expected at least 2"),
        pytest.param(
            [], "PyTorch finds no GPU", marks=pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
        ),
    ],
)
def test_mistakes_are_one_line(flags, said, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["benchmarks.gpu", *flags])
    with pytest.raises(UserError, match=said) as caught:
        benchmarks.gpu.main()
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_the_script_runs_on_a_cpu(tmp_path):
    flags = ["--device", "cpu", "--cfgs", "yolov3-tiny", "--imgsz", "64", "--photos", "8", "--batch", "4"]
    command = ["bash", "benchmarks/gpu.sh", str(tmp_path), *flags, "--epochs", "2", "--matrix", "128"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"PYTHON": sys.executable}, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert [each["side"] for each in found["rows"]] == [name for name, _, _ in SIDES]
    assert all(each["img/s median"] > 0 for each in found["rows"])
    shares = ["share of the bf16 limit" in each for each in found["rows"]]
    assert shares == [side == OURS for _, side, _ in SIDES]
