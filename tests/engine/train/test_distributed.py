"""Two gloo processes: equal weights, the metrics and losses of one process, and an end when one of them dies."""

import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from alignyolo.anchors import build_anchors
from alignyolo.assign.anchor_ratio import AnchorRatio
from alignyolo.balance import Balance
from alignyolo.similarities.bound import similarity
from alignyolo.targets import Targets
from models.yolov3.loss import DetectionLoss, Gains, Processes
from tests.engine.conftest import ALL_FAMILIES, FAMILIES, NARROW, SSD_SIDE
from tests.paths import ROOT
from utils.distributed import Group, group_of_environment
from val import validate

# Every process writes the weights that it ends each epoch with, for the test to compare, and how many objects it saw.
TRAIN = """
import os, sys, torch
import engine.train.epoch
from engine.train.trainer import Trainer
from train import train
original = Trainer.validate
def keep(self, *arguments, **named):
    epoch = len(list(__import__("pathlib").Path(sys.argv[1]).glob(f"{self.group.rank}-*.pt")))
    state = {"network": self.detector.network.state_dict(), "average": self.average.ema.state_dict()}
    torch.save(state, f"{sys.argv[1]}/{self.group.rank}-{epoch}.pt")
    return original(self, *arguments, **named)
Trainer.validate = keep
to_device = engine.train.epoch.to_device
def counted(batch, device):
    with open(f"{sys.argv[1]}/{os.environ['RANK']}.txt", "a") as file:
        print(len(batch.targets.boxes), file=file)
    return to_device(batch, device)
engine.train.epoch.to_device = counted
train(data=sys.argv[2], project=sys.argv[3], epochs=2, imgsz=[int(sys.argv[4])], batch_size=int(sys.argv[5]), workers=0,
      device="cpu", amp="off", plots=False, cfg=sys.argv[6], set=[*sys.argv[7:], "nominal_batch=8", "mosaic=0"])
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def torchrun(*arguments, restarts=0):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--max-restarts={restarts}"]
    command += [f"--master_port={free_port()}", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.fixture(scope="module", params=ALL_FAMILIES)
def pair(request, data_of, tmp_path_factory):
    """A run of two processes, on photos of which three of four are without objects."""
    folder = tmp_path_factory.mktemp("pair")
    shutil.copytree(Path(data_of(request.param)).parent, folder / "data")
    for number, labels in enumerate(sorted((folder / "data" / "labels" / "train").glob("*.txt"))):
        if number % 4:
            labels.write_text("")
    script = folder / "script.py"
    script.write_text(TRAIN)
    (folder / "weights").mkdir()
    arguments = (folder / "weights", folder / "data" / "shapes.yaml", folder / "runs")
    side_and_batch = (SSD_SIDE, 4) if request.param == "ssd300_vgg16" else (64, 8)
    process = torchrun(script, *arguments, *side_and_batch, request.param, *FAMILIES[request.param])
    said, errors = process.communicate(timeout=900)
    assert process.returncode == 0, errors
    return folder, said


def test_both_processes_hold_equal_weights_after_every_epoch(pair):
    folder, _ = pair
    for epoch in (0, 1, 2):
        first, second = (torch.load(folder / "weights" / f"{rank}-{epoch}.pt", weights_only=True) for rank in (0, 1))
        for part in ("network", "average"):
            assert all(torch.equal(value, second[part][name]) for name, value in first[part].items())


def test_one_process_has_a_batch_without_objects_while_the_other_has_some(pair):
    files = [(pair[0] / "weights" / f"{rank}.txt").read_text().split() for rank in (0, 1)]
    # The main process has rehearsed before.
    steps = len(files[1])
    counts = [[int(count) for count in file[-steps:]] for file in files]
    assert steps in (6, 4)  # SSD has fewer photos
    assert any(min(both) == 0 < max(both) for both in zip(*counts, strict=True))


def test_only_one_process_writes_and_prints(pair):
    folder, said = pair
    assert [path.name for path in (folder / "runs").iterdir() if path.is_dir()] == ["exp"]
    assert said.count("best.pt = epoch") == 1
    assert len(list(csv.DictReader((folder / "runs" / "exp" / "results.csv").open()))) == 2


def test_metrics_are_those_of_one_process_to_the_digit(pair, tmp_path):
    folder, _ = pair
    exp = folder / "runs" / "exp"
    validate(weights=str(exp / "weights" / "best.pt"), project=str(tmp_path), workers=0, plots=False)
    together, alone = (json.loads((each / "metrics.json").read_text()) for each in (exp, tmp_path / "exp"))
    assert together == alone


ANCHORS = build_anchors((64, 64), [16, 32], [[(10, 14), (23, 27)], [(40, 42), (60, 64)]])


def random_half(seed, truths):
    generator = torch.Generator().manual_seed(seed)
    raw = torch.randn(2, len(ANCHORS.centers), 8, generator=generator, dtype=torch.float64)
    corner = torch.rand(truths, 2, generator=generator) * 40
    boxes = torch.cat([corner, corner + 6 + 18 * torch.rand(truths, 2, generator=generator)], dim=1)
    image = torch.randint(2, (truths,), generator=generator)
    return raw, Targets(boxes, torch.randint(3, (truths,), generator=generator), image)


@pytest.mark.parametrize("truths", [(5, 3), (6, 0)])
@pytest.mark.parametrize("gamma", [0.0, 1.4])
def test_two_halves_give_the_loss_and_gradient_of_the_whole(truths, gamma):
    """Each rank sees its half; with counts summed over both, the mean of their gradients is that of the whole."""

    def loss_of(**settings):
        parts = {"gains": Gains(0.1, 1.0, 0.5), "weight": Balance(gamma), "processes": Processes(**settings)}
        return DetectionLoss(similarity("ciou"), AnchorRatio(), (4.0, 1.0), **parts)

    halves = [random_half(seed, count) for seed, count in enumerate(truths)]
    raw = torch.cat([half[0] for half in halves]).requires_grad_()
    shifted = halves[1][1]._replace(image=halves[1][1].image + 2)
    whole_targets = Targets(*(torch.cat(parts) for parts in zip(halves[0][1], shifted, strict=True)))
    whole = sum(loss_of()(raw, ANCHORS, whole_targets).values())
    expected = torch.autograd.grad(whole, raw)[0]

    asked = [[], []]
    for rank, (part, targets) in enumerate(halves):
        loss_of(count=2, over_ranks=lambda v, rank=rank: asked[rank].append(v) or v)(part, ANCHORS, targets)
    sums = [first + second for first, second in zip(*asked, strict=True)]
    gradients, total = [], 0.0
    for part, targets in halves:
        answers = iter(sums)
        leaf = part.clone().requires_grad_()
        value = sum(loss_of(count=2, over_ranks=lambda v, a=answers: next(a))(leaf, ANCHORS, targets).values()) / 2
        gradients.append(torch.autograd.grad(value, leaf)[0])
        total += value.item()
    assert total == pytest.approx(whole.item(), rel=1e-9)
    torch.testing.assert_close(torch.cat(gradients), expected, rtol=1e-9, atol=1e-12)


def test_one_process_without_torchrun(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert group_of_environment() == Group()
    assert Group().sum(torch.ones(2)).tolist() == [1, 1]
    assert Group().gather("a") == ["a"]


def flags_of(small_shapes, project, epochs):
    return [
        ROOT / "train.py", "--data", small_shapes, "--project", project, "--imgsz", "64", "--batch-size", "8",
        "--workers", "0", "--device", "cpu", "--amp", "off", "--no-plots", "--set", NARROW[0], "--epochs", epochs,
    ]  # fmt: skip


def children_that_train(process):
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == process.pid:
            found.append(int(status.parent.name))
    return found


def wait_for(path, process):
    end = time.monotonic() + 600
    while not path.exists():
        assert process.poll() is None and time.monotonic() < end, process.communicate()
        time.sleep(0.1)


def test_a_killed_process_ends_the_job(small_shapes, tmp_path):
    process = torchrun(*flags_of(small_shapes, tmp_path, 100000))
    wait_for(tmp_path / "exp" / "weights" / "last.pt", process)
    killed = time.monotonic()
    os.kill(children_that_train(process)[1], signal.SIGKILL)
    _, errors = process.communicate(timeout=600)
    assert process.returncode != 0
    assert time.monotonic() - killed < 60
    assert "SIGKILL" in errors


FAIL = """
import os, sys
from engine.train.trainer import Trainer
from train import train
def fail(self, *arguments):
    if self.group.rank == 1:
        raise ZeroDivisionError("planted")
    return original(self, *arguments)
original, Trainer.train_epoch = Trainer.train_epoch, fail
train(data=sys.argv[1], project=sys.argv[2], epochs=2, imgsz=[64], batch_size=8, workers=0, device="cpu", amp="off",
      plots=False, set=[sys.argv[3]])
"""


@pytest.mark.slow
def test_an_exception_in_one_process_ends_all_with_its_traceback(small_shapes, tmp_path):
    (tmp_path / "script.py").write_text(FAIL)
    process = torchrun(tmp_path / "script.py", small_shapes, tmp_path / "runs", NARROW[0])
    _, errors = process.communicate(timeout=600)
    assert process.returncode != 0
    assert "ZeroDivisionError: planted" in errors
    assert "in fail" in errors


@pytest.mark.slow
def test_a_restart_goes_on_by_itself(small_shapes, tmp_path):
    process = torchrun(*flags_of(small_shapes, tmp_path, 30), restarts=1)
    wait_for(tmp_path / "exp" / "weights" / "last.pt", process)
    os.kill(children_that_train(process)[1], signal.SIGKILL)
    said, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["exp"]
    rows = list(csv.DictReader((tmp_path / "exp" / "results.csv").open()))
    assert [int(row["epoch"]) for row in rows] == list(range(1, 31))


def test_a_batch_that_cannot_be_shared_is_refused(small_shapes, tmp_path):
    process = torchrun(*[5 if each == "8" else each for each in flags_of(small_shapes, tmp_path, 1)])
    _, errors = process.communicate(timeout=600)
    assert "expected a multiple of 2" in errors
    assert "Traceback (most recent call last):\n  File" not in errors.split("expected a multiple")[0]
