"""When an accuracy is first reached, on curves written by hand; and the whole benchmark on a few drawn photos."""

import json
import subprocess
import sys
from argparse import Namespace
from types import SimpleNamespace
from unittest.mock import MagicMock

import cv2
import pytest

from benchmarks.time_to_accuracy import MODEL, OURS, PEER, Clock, Epoch, reached, rows, train_ours, train_peer
from data.shapes.demo_set import make_shapes
from engine.train.trainer import Trainer
from tests.paths import ROOT

CURVES = {
    "this project": [Epoch(30, 50, 0.1), Epoch(60, 100, 0.35), Epoch(90, 150, 0.3)],
    "this project, ggiou": [Epoch(40, 60, 0.1), Epoch(80, 120, 0.2)],
    f"{PEER}{MODEL}": [Epoch(120, 200, 0.1), Epoch(240, 400, 0.3), Epoch(360, 600, 0.25)],
    f"{PEER}yolo26n.yaml": [Epoch(100, 200, 0.5)],
}


def test_the_first_epoch_that_gets_there_counts():
    assert reached(CURVES["this project"], 0.3) == (2, Epoch(60, 100, 0.35))
    assert reached(CURVES["this project"], 0.1) == (1, Epoch(30, 50, 0.1))
    assert reached(CURVES["this project"], 0.36) is None


def test_rows_compare_with_the_peer_s_best_epoch():
    ours, ggiou, peer, other = rows(CURVES)
    assert (ours["in epoch"], ours["minutes"], ours["peer / this"], ours["CPU peer / this"]) == (2, 1.0, 4.0, 4.0)
    assert (ggiou["in epoch"], "minutes" in ggiou) == ("not reached", False)
    assert (peer["in epoch"], peer["minutes"], peer["peer / this"]) == (2, 4.0, 1.0)
    assert (other["in epoch"], other["peer / this"]) == (1, 2.4)
    assert {row["target AP"] for row in (ours, ggiou, peer, other)} == {0.3}


def test_rows_have_the_minutes_to_the_best_of_every_side():
    """Where one side misses another's best by a hair, what it did reach is still told."""
    marks = ["minutes to 0.200", "minutes to 0.300", "minutes to 0.350", "minutes to 0.500"]
    assert [[row[mark] for mark in marks] for row in rows(CURVES)] == [
        [1.0, 1.0, 1.0, "not reached"],
        [pytest.approx(4 / 3), *["not reached"] * 3],
        [4.0, 4.0, "not reached", "not reached"],
        [pytest.approx(5 / 3)] * 4,
    ]
    assert [row["all epochs, CPU minutes"] for row in rows(CURVES)] == [2.5, 2.0, 10.0, pytest.approx(10 / 3)]
    close = {"this project": [Epoch(60, 60, 0.2326)], f"{PEER}{MODEL}": [Epoch(120, 120, 0.2329)]}
    assert [row["minutes to 0.233"] for row in rows(close)] == [1.0, 2.0]


def test_every_side_trains_on_the_same_device(monkeypatch):
    asked = {}
    peer = SimpleNamespace(cv2_threads=cv2.getNumThreads())
    peer.Trainer = lambda overrides: asked.update(peer=overrides["device"]) or MagicMock()
    monkeypatch.setattr("utils.ultralytics_only.benchmark_peer", lambda: peer)
    monkeypatch.setattr("train.train", lambda **flags: asked.update(ours=flags["device"]))
    for name in ("train_epoch", "validate"):  # which the benchmark replaces
        monkeypatch.setattr(Trainer, name, getattr(Trainer, name))
    task = {"data": "", "project": "", "imgsz": 64, "batch": 4, "epochs": 1}
    train_ours(Namespace(side=next(iter(OURS)), **task), Clock())
    train_peer(Namespace(side=PEER + MODEL, **task), Clock())
    assert asked == {"ours": "cpu", "peer": "cpu"}


@pytest.mark.slow
def test_all_sides_train_and_are_compared(tmp_path):
    data = make_shapes(tmp_path / "shapes", train=12, val=6, size=96)
    command = [sys.executable, "-m", "benchmarks.time_to_accuracy", "--data", str(data), "--out", str(tmp_path)]
    models = [MODEL, "yolo26n.yaml"]
    flags = ["--epochs", "2", "--imgsz", "64", "--batch", "4", "--models", *models]
    subprocess.run([*command, *flags], check=True, cwd=ROOT, capture_output=True)
    written = json.loads((tmp_path / "time_to_accuracy.json").read_text())
    found, sides = written["rows"], [*OURS, *(f"{PEER}{model}" for model in models)]
    assert [row["side"] for row in found] == sides
    assert {side: len(curve) for side, curve in written["minutes and AP by epoch"].items()} == dict.fromkeys(sides, 2)
    assert all(row["all epochs, minutes"] > 0 for row in found)
