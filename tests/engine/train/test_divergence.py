"""The guard: a NaN in any term skips its step, is named, and after some in a row stops the run."""

import re
from pathlib import Path

import pytest
import torch

import engine.train.run
from alignyolo.balance import Balance
from alignyolo.targets import Targets
from data.loader import Batch
from engine.train.divergence import Guard, Place
from engine.train.epoch import train_one_epoch
from engine.train.epoch_report import EpochReport
from engine.train.trainer import Trainer
from models.yolov3.loss import ClassTerm, DetectionLoss
from train import train
from utils.errors import DivergedError
from utils.optim import Schedule, build_optimizer


def poison(monkeypatch, where, when):
    """Makes a method of the loss return NaN in the calls (counted from 1) for which `when` is true."""
    original, calls = getattr(*where), []

    def poisoned(self, *arguments, **around):
        calls.append(1)
        return original(self, *arguments, **around) * (float("nan") if when(len(calls)) else 1.0)

    monkeypatch.setattr(*where, poisoned)
    # The rehearsal computes losses too.
    monkeypatch.setattr(engine.train.run, "rehearsed", lambda config, *rest: (config, 0))


TERMS = {
    "box": (Balance, "__call__"),
    "objectness": (DetectionLoss, "objectness"),
    "class": (ClassTerm, "__call__"),
}


@pytest.mark.parametrize("term", TERMS)
def test_a_nan_in_any_term_skips_its_step_and_is_named(term, flags, monkeypatch, capsys):
    poison(monkeypatch, TERMS[term], lambda call: call == 2)
    weights = []
    original = Trainer.train_epoch

    def remember(self, epoch, records):
        row = original(self, epoch, records)
        weights.append(row["skipped_steps"])
        return row

    monkeypatch.setattr(Trainer, "train_epoch", remember)
    folder = train(**flags)
    said = capsys.readouterr().out
    assert re.search(rf"warning: the {term} loss is not finite in epoch 1, batch 2 .*photos 0000\d\d.jpg", said)
    assert said.count("warning:") == 1
    assert weights == [1, 0]
    last = torch.load(folder / "weights" / "last.pt", weights_only=True)
    for part in ("network", "model"):
        assert all(value.isfinite().all() for value in last[part].values())


def test_the_amp_scale_is_named(capsys):
    guard = Guard(torch.nn.BatchNorm2d(1), patience=2)
    guard.before()
    guard.after_backward({"box": torch.tensor(float("inf"))}, Place(0, 4, 0.01, None, lambda: 65536.0))
    guard.before_step(None, None)
    guard.report()
    assert (
        "the box loss is not finite in epoch 1, batch 5 (learning rate 0.01, amp scale 65536)"
        in capsys.readouterr().out
    )


def test_many_in_a_row_stop_the_run_and_keep_the_batch_and_the_weights(flags, monkeypatch):
    poison(monkeypatch, TERMS["class"], lambda call: call > 4)
    with pytest.raises(DivergedError, match=r"the class loss is not finite in epoch 3, batch 1.*nan_batch.pt"):
        train(**{**flags, "epochs": 5}, nan_patience=3)
    folder = Path(flags["project"]) / "exp"
    batch = torch.load(folder / "nan_batch.pt", weights_only=True)
    assert batch["images"].dtype == torch.uint8
    assert len(batch["photos"]) == len(batch["images"]) == 8
    assert batch["boxes"].shape[1] == 4
    kept = torch.load(folder / "weights" / "last.pt", weights_only=True)
    assert all(value.isfinite().all() for part in ("model", "network") for value in kept[part].values())


def test_the_very_first_step_can_be_skipped(flags, monkeypatch):
    poison(monkeypatch, TERMS["objectness"], lambda call: call == 1)
    folder = train(**{**flags, "epochs": 1})
    last = torch.load(folder / "weights" / "last.pt", weights_only=True)
    assert all(value.isfinite().all() for value in last["network"].values())


def test_a_nan_in_the_images_does_not_spoil_the_statistics(flags, monkeypatch):
    import engine.train.epoch

    original, calls = engine.train.epoch.to_device, []

    def spoiled(batch, device):
        images, targets = original(batch, device)
        calls.append(1)
        return (images * float("nan") if len(calls) == 2 else images), targets

    monkeypatch.setattr(engine.train.epoch, "to_device", spoiled)
    folder = train(**{**flags, "epochs": 1})
    last = torch.load(folder / "weights" / "last.pt", weights_only=True)
    for part in ("network", "model"):
        assert all(value.isfinite().all() for value in last[part].values())


class Kinked(torch.nn.Module):
    """A detector whose losses are finite, but for the batches `bad`, and whose gradients are not in the others named.

    Batches are counted from 0.
    """

    def __init__(self, bad=(), kinked=()):
        super().__init__()
        self.conv, self.bad, self.kinked, self.calls = torch.nn.Conv2d(3, 1, 1), bad, kinked, 0

    def forward(self, images, targets):
        number, self.calls = self.calls, self.calls + 1
        value = self.conv(images).mean()
        if number in self.kinked:
            value = value + (value * 0).abs().sqrt()  # The slope of the root at 0 is infinite.
        return {"box": value * (float("nan") if number in self.bad else 1.0)}


def steps_of(detector, batches, accumulate, grad_clip, patience=10):
    """Trains on empty batches, and returns the guard."""
    schedule = Schedule(batches, 1, 0.01, 0.01, "linear", 0.9, 0, 0.8, 0.1, accumulate)
    empty = Targets.stack([torch.zeros(0, 4)] * 2, [torch.zeros(0, dtype=torch.long)] * 2)
    batch = Batch(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), empty, torch.tensor([0, 1]), [])
    guard, optimizer = Guard(detector, patience), build_optimizer("sgd", detector, 0.01, 0.9, 0)
    rest = optimizer, schedule, 0, EpochReport(), guard
    train_one_epoch(detector, [batch] * batches, *rest, device=torch.device("cpu"), grad_clip=grad_clip)
    return guard


@pytest.mark.parametrize("grad_clip", [10.0, 0.0])
@pytest.mark.parametrize("accumulate", [1, 4, 16])
def test_gradients_that_are_not_finite_stop_a_run_after_as_many_optimiser_steps(accumulate, grad_clip, capsys):
    count = 12 * accumulate
    told = rf"a gradient is not finite in epoch 1, batch {10 * accumulate} .*; 10 steps in a row: stopped"
    with pytest.raises(DivergedError, match=told):
        steps_of(Kinked(kinked=range(count)), count, accumulate, grad_clip)
    assert capsys.readouterr().out.count("step skipped") == 9


@pytest.mark.parametrize("grad_clip", [10.0, 0.0])
def test_one_gradient_that_is_not_finite_leaves_the_weights_alone(grad_clip):
    detector = Kinked(kinked=[1])
    guard = steps_of(detector, 4, 2, grad_clip)
    assert (guard.skipped, guard.in_a_row) == (1, 0)
    assert all(value.isfinite().all() for value in detector.parameters())


def test_a_step_that_several_batches_spoil_is_skipped_and_named_once(capsys):
    guard = steps_of(Kinked(bad=[5, 6], kinked=[7]), 12, 4, 10.0)
    assert guard.skipped == 1
    assert re.findall(r"warning: (.*) \(l", capsys.readouterr().out) == [
        "the box loss is not finite in epoch 1, batch 6"
    ]
