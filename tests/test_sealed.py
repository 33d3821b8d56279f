"""Every command works where the system refuses network sockets and HOME is read-only."""

import sys

import pytest

from data.shapes.demo_set import make_shapes
from tests.lively import lively_checkpoint
from tests.paths import ROOT, SHARED_DATA
from tests.sealed import run_sealed
from utils.config.export_formats import EXPORT_FORMATS

PROBE = """
import os, pathlib, socket, subprocess, sys
refused = []
for kind in (socket.AF_INET, socket.AF_INET6):
    try: socket.socket(kind)
    except PermissionError: refused.append(kind.name)
socket.socket(socket.AF_UNIX).close()
try: (pathlib.Path.home() / "file").write_text("x")
except PermissionError: refused.append("HOME")
print(*refused)
if len(sys.argv) == 1: subprocess.run([sys.executable, sys.argv[0], "child"])
"""


def test_the_seal_is_one(tmp_path):
    (tmp_path / "probe.py").write_text(PROBE)
    result = run_sealed([sys.executable, str(tmp_path / "probe.py")], tmp_path / "home", tmp_path)
    assert result.stdout.splitlines() == ["AF_INET AF_INET6 HOME"] * 2, result.stderr


SMALL = ["--imgsz", "64", "--batch-size", "4", "--workers", "1", "--device", "cpu"]
NARROW = ["--set", "channels=[8,8,16,16,32,32,64]"]
TRAIN = ["--data", "data/shapes.yaml", "--epochs", "1", *SMALL, *NARROW, "--no-plots"]
VAL = ["--data", "data/shapes.yaml", "--workers", "0"]
PHOTOS = ["--source", "data/images/val"]
# What is made by one is read by another: the keys say which, and each may be run by itself.
COMMANDS = {
    "check": ["-m", "data.check", "data/shapes.yaml"],
    "train": ["train.py", *TRAIN, "--project", "trained"],
    "train with plots from weights": ["train.py", *TRAIN[:-1], "--weights", "best.pt", "--project", "plotted"],
    "train retinanet": [
        "train.py", *TRAIN[:2], "--cfg", "retinanet_resnet18_fpn", "--epochs", "1", *SMALL, "--set", "fpn_channels=16",
    ],
    "val": ["val.py", "--weights", "best.pt", *VAL],
    "detect": ["detect.py", "--weights", "best.pt", *PHOTOS, "--save-json", "--save-crop"],
    "convert": ["convert.py", "yolo", "data/shapes.yaml", "set"],
    "import": ["import_weights.py", str(SHARED_DATA / "darknet" / "tiny-narrow.weights")],
    "inspect": ["-m", "utils.checkpoint", "best.pt"],
    "tune": [
        "tune.py", *TRAIN, "--trials", "2", "--into", "tuned", "--search", "lr0=0.001..0.01:log", "--no-prune",
    ],
    "compare": [
        "-m", "studies.compare", "--losses", "iou", "sca", "--seeds", "0", "--into", "compared", *TRAIN,
    ],
    "figures": ["-m", "studies", "--quick", "gradient_magnitude", "--out", "figures"],
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a data set, a checkpoint and nothing else."""
    folder = tmp_path_factory.mktemp("sealed")
    make_shapes(folder / "data", seed=3, train=8, val=4, size=64)
    names = ("disc", "ring", "square", "triangle", "cross", "bar")
    lively_checkpoint(folder / "best.pt", "yolov3-tiny", {"channels": [8, 8, 16, 16, 32, 32, 64]}, names, (64, 64))
    return folder


def check(arguments, place):
    """Run one of our commands sealed: it ends well, and leaves nothing in HOME."""
    program = [str(ROOT / arguments[0])] if arguments[0].endswith(".py") else []
    command = [sys.executable, *program, *arguments[len(program) :]]
    result = run_sealed(command, place.parent / "home", place, PYTHONPATH=str(ROOT))
    assert result.returncode == 0, (result.stdout, result.stderr)
    assert "Traceback" not in result.stderr
    assert list((place.parent / "home").iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command(name, place):
    if name == "import" and not SHARED_DATA.is_dir():
        pytest.skip("../shared/data is absent: reference data not at hand")
    check(COMMANDS[name], place)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPORT_FORMATS)
def test_export_and_what_reads_it(name, place):
    facts = EXPORT_FORMATS[name]
    if name == "darknet":
        pytest.skip("this model is none of Darknet's; its writer is a file of this project")
    for module in (*facts.writes, *facts.opens):
        pytest.importorskip(module)
    check(["export.py", "--weights", "best.pt", "--format", name], place)
    file = place / f"best{facts.suffix}"
    check(["val.py", "--weights", str(file), *VAL, "--project", f"{name}-val"], place)
    check(["detect.py", "--weights", str(file), *PHOTOS, "--project", f"{name}-detect"], place)
