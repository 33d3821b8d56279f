"""Minutes of training until the AP that the ultralytics package's YOLOv3-tiny reaches, beside that package.

python -m benchmarks.time_to_accuracy --data bccd/data.yaml [--epochs 40] [--imgsz 320] [--batch 16]
python -m benchmarks.time_to_accuracy --data neu-det/data.yaml --imgsz 224 --models yolov3-tiny.yaml yolo26n.yaml

All sides train from scratch with their own defaults and the same number of epochs, and validate after each. The target
is the best AP of the epochs of the peer's first model; beside it stand the minutes to the best AP of every side. The
JSON also has every side's AP by minutes. AP is what each side's own validation says (the peer's mAP50-95; ours are
COCO's numbers). Times hold everything from the first step on, validations too; CPU minutes are those of all processes,
which is what is left of the comparison where other work takes the cores away.
"""

import json
import os
import tempfile
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.measuring.photos import copy_photos, open_split, write_data_yaml
from benchmarks.measuring.side_by_side import conclude, flags, training_flags
from benchmarks.measuring.watch import run_watched, tree_seconds
from data.data_yaml import read_data_yaml
from data.open.any_layout import root_for
from utils.errors import run_command

PEER = "ultralytics "  # and the name of one of its models
MODEL = "yolov3-tiny.yaml"
DEVICE = "cpu"  # of every side, also where there is a GPU
# The flags of train.py that make each of our sides.
OURS: dict[str, dict[str, str]] = {"this project": {}, "this project, ggiou": {"assign": "ggiou"}}


class Epoch(NamedTuple):
    """Wall and CPU seconds from the first step to the end of an epoch's validation, and the AP that it found."""

    wall: float
    cpu: float
    ap: float


class Clock:
    """Notes the epochs of a training in this process."""

    def __init__(self) -> None:
        self.start: tuple[float, float] | None = None
        self.epochs: list[Epoch] = []

    def begin(self) -> None:
        """Start with the first epoch; later calls change nothing."""
        self.start = self.start or (time.perf_counter(), tree_seconds(os.getpid()))

    def end(self, ap: float) -> None:
        """Note the end of an epoch with its validation."""
        assert self.start
        wall, cpu = self.start
        self.epochs.append(Epoch(time.perf_counter() - wall, tree_seconds(os.getpid()) - cpu, ap))


def train_ours(task: Namespace, clock: Clock) -> None:
    """Train with train.py's function in this process."""
    from engine.train.trainer import Trainer
    from train import train

    train_epoch, validate = Trainer.train_epoch, Trainer.validate

    def timed_epoch(trainer: Trainer, *given: object) -> dict:
        clock.begin()
        return train_epoch(trainer, *given)

    def timed_validation(trainer: Trainer, *given: object, **named: object) -> object:
        metrics = validate(trainer, *given, **named)
        if not named.get("final"):
            clock.end(metrics.overall["ap"])
        return metrics

    Trainer.train_epoch, Trainer.validate = timed_epoch, timed_validation
    sizes = {"imgsz": (task.imgsz,), "batch_size": task.batch, "epochs": task.epochs}
    train(data=task.data, project=task.project, device=DEVICE, cache=True, plots=False, **OURS[task.side], **sizes)


def train_peer(task: Namespace, clock: Clock) -> None:
    """Train with the peer in this process."""
    import cv2

    from utils.ultralytics_only import benchmark_peer

    peer = benchmark_peer()
    cv2.setNumThreads(peer.cv2_threads)
    given = {"data": task.data, "project": task.project, "imgsz": task.imgsz, "batch": task.batch, "plots": False}
    overrides = {
        "model": task.side.removeprefix(PEER),
        "device": DEVICE,
        "verbose": False,
        "cache": "ram",
        "epochs": task.epochs,
    }
    trainer = peer.Trainer(overrides={**overrides, **given})
    trainer.add_callback("on_train_epoch_start", lambda _: clock.begin())
    found: list[float] = []

    def validated(trainer: object) -> None:
        # The last call comes after the training, for the weights of the best epoch.
        if len(found) < task.epochs:
            found.append(float(trainer.metrics["metrics/mAP50-95(B)"]))
            clock.end(found[-1])

    trainer.add_callback("on_fit_epoch_end", validated)
    trainer.train()


def reached(epochs: Sequence[Epoch], target: float) -> tuple[int, Epoch] | None:
    """Return the first epoch (counted from 1) whose AP is at least the target; None where none is."""
    return next(((number, epoch) for number, epoch in enumerate(epochs, 1) if epoch.ap >= target), None)


def rows(curves: dict[str, list[Epoch]]) -> list[dict[str, object]]:
    """Return a row a side: when it reached the best AP of the peer's first model, and what all epochs took and gave.

    With the minutes to the best AP of every side, since one side may miss another's by a hair.
    """
    first = next(side for side in curves if side.startswith(PEER))
    best = {side: max(epoch.ap for epoch in epochs) for side, epochs in curves.items()}
    target = best[first]
    peer = reached(curves[first], target)
    assert peer
    table: list[dict[str, object]] = []
    # From the highest on, so that of two marks with the same three digits the one that both sides have counts.
    marks = {f"minutes to {mark:.3f}": mark for mark in sorted(best.values(), reverse=True)}
    for side, epochs in curves.items():
        row: dict[str, object] = {"side": side, "target AP": target}
        there = reached(epochs, target)
        if there:
            number, epoch = there
            row |= {"in epoch": number, "minutes": epoch.wall / 60, "CPU minutes": epoch.cpu / 60}
            row |= {"peer / this": peer[1].wall / epoch.wall, "CPU peer / this": peer[1].cpu / epoch.cpu}
        else:
            row["in epoch"] = "not reached"
        for title, mark in marks.items():
            there = reached(epochs, mark)
            row[title] = there[1].wall / 60 if there else "not reached"
        last = {"all epochs, minutes": epochs[-1].wall / 60, "all epochs, CPU minutes": epochs[-1].cpu / 60}
        table.append({**row, "best AP": best[side], **last})
    return table


def main() -> int:
    """Print and write the table and the curves."""
    parser = flags(__doc__, "time_to_accuracy", turns=False)
    parser.add_argument("--models", nargs="+", default=[MODEL], help=f"the peer's model YAMLs (default {MODEL})")
    settings = training_flags(parser, 40, "epochs of every side")
    if settings.task:
        task, clock = Namespace(**json.loads(settings.task)), Clock()
        (train_ours if task.side in OURS else train_peer)(task, clock)
        print(json.dumps(clock.epochs))
        return 0
    curves: dict[str, list[Epoch]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for split in ("train", "val"):
            copy_photos(open_split(settings, split), Path(folder), split)
        names = read_data_yaml(settings.data, root_for(settings.data, settings.data_root)).names
        data = write_data_yaml(Path(folder), len(names))
        for side in (*OURS, *(f"{PEER}{model}" for model in settings.models)):
            task = vars(settings) | {"side": side, "data": str(data), "project": tempfile.mkdtemp(dir=folder)}
            done = run_watched("benchmarks.time_to_accuracy", "--task", json.dumps(task))
            curves[side] = [Epoch(*epoch) for epoch in json.loads(done.output.splitlines()[-1])]
            print(f"  {side}: best AP {max(epoch.ap for epoch in curves[side]):.3f}", flush=True)
    by_minute = {side: [[epoch.wall / 60, epoch.ap] for epoch in epochs] for side, epochs in curves.items()}
    conclude("time_to_accuracy", rows(curves), settings.out, setup={"minutes and AP by epoch": by_minute})
    return 0


if __name__ == "__main__":
    run_command(main)
