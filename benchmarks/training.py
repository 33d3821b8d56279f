"""Images per second and peak memory of whole training epochs, beside the ultralytics package's trainer.

python -m benchmarks.training [--epochs 3] [--turns 2]      YOLOv3-tiny, 320 px, batch 16, photos in RAM

Ours is `train.py`, the peer `ultralytics`' own trainer on its yolov3-tiny.yaml; both with their defaults for this
machine, and both validate after every epoch (outside the images per second, inside the memory). By default the peer
leaves one core out; the third side gives it all. CPU milliseconds are those of all processes, per image: what is left
of the comparison where other work takes the cores away.
"""

import json
import os
import statistics
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

from benchmarks.measuring.photos import copy_photos, open_split, write_data_yaml
from benchmarks.measuring.side_by_side import conclude, flags, in_turns, spread, training_flags
from benchmarks.measuring.watch import run_watched, tree_seconds
from utils.errors import run_command

OURS, PEER, PEER_ALL_CORES = "this project", "ultralytics", "ultralytics, all cores"


class Clock:
    """Wall and CPU seconds of each epoch, divided by its images."""

    def __init__(self):
        self.epochs: list[tuple[float, float]] = []
        self.start = (0.0, 0.0)

    def begin(self) -> None:
        """Note that an epoch starts."""
        finish_work()
        self.start = time.perf_counter(), tree_seconds(os.getpid())

    def end(self, images: int) -> None:
        """Note that an epoch of so many images is over."""
        finish_work()
        wall, cpu = self.start
        self.epochs.append(
            ((time.perf_counter() - wall) / images, (tree_seconds(os.getpid()) - cpu) / images),
        )


def finish_work() -> None:
    """Wait for what a GPU still has to do."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def run_ours(task: Namespace, clock: Clock) -> None:
    """Train with train.py's function in this process."""
    from engine.train.trainer import Trainer
    from train import train

    one_epoch = Trainer.train_epoch

    def timed(trainer: Trainer, *given: object) -> dict:
        clock.begin()
        row = one_epoch(trainer, *given)
        clock.end(len(trainer.train_loader.dataset))
        return row

    Trainer.train_epoch = timed
    sizes = {"imgsz": (task.imgsz,), "batch_size": task.batch, "epochs": task.epochs}
    where = {"cfg": task.cfg, "device": task.device, "cache": task.cache, "project": task.project}
    train(data=task.data, plots=False, close_mosaic=0, **where, **sizes)


def run_peer(task: Namespace, clock: Clock) -> None:
    """Train with the peer in this process."""
    import cv2
    import torch

    from utils.ultralytics_only import benchmark_peer

    peer = benchmark_peer()
    cv2.setNumThreads(peer.cv2_threads)
    given = {"data": task.data, "project": task.project, "imgsz": task.imgsz, "batch": task.batch}
    # SGD, as train.py has it: the peer's own choice (MuSGD) costs more. Mosaic in every epoch, also as ours.
    equal = {"optimizer": "SGD", "close_mosaic": 0, "epochs": task.epochs, "cache": "ram", "plots": False}
    if task.device != "cpu":
        peer.without_amp_check()
    model = {"model": f"{task.cfg}.yaml", "device": task.device, "verbose": False}
    trainer = peer.Trainer(overrides={**model, **given, **equal})

    def begin(_: object) -> None:
        if task.side == PEER_ALL_CORES:
            torch.set_num_threads(os.cpu_count() or 1)
        clock.begin()

    trainer.add_callback("on_train_epoch_start", begin)
    trainer.add_callback("on_train_epoch_end", lambda trainer: clock.end(len(trainer.train_loader.dataset)))
    trainer.train()


def in_own_process(side: str, settings: Namespace, data: Path, peaks: list[int]) -> Callable[[], list[float]]:
    """Return a function that trains in a process of its own.

    Wall and CPU seconds per image of each epoch, alternating.
    """

    def measure() -> list[float]:
        project = tempfile.mkdtemp(dir=data.parent)
        where = {"cfg": "yolov3-tiny", "device": "cpu", "cache": "ram"}
        task = vars(settings) | where | {"side": side, "data": str(data), "project": project}
        done = run_watched("benchmarks.training", "--task", json.dumps(task))
        peaks.append(done.peak)
        return [number for epoch in json.loads(done.output.splitlines()[-1]) for number in epoch]

    return measure


def main() -> int:
    """Print and write the table."""
    settings = training_flags(flags(__doc__, "training"), 3, "epochs of each turn")
    if settings.task:
        task, clock = Namespace(**json.loads(settings.task)), Clock()
        (run_ours if task.side == OURS else run_peer)(task, clock)
        print(json.dumps(clock.epochs))
        return 0
    peaks: dict[str, list[int]] = {OURS: [], PEER: [], PEER_ALL_CORES: []}
    with tempfile.TemporaryDirectory() as folder:
        for split in ("train", "val"):
            copy_photos(open_split(settings, split), Path(folder), split)
        data = write_data_yaml(Path(folder), 80)
        sides = {name: in_own_process(name, settings, data, found) for name, found in peaks.items()}
        seconds = in_turns(sides, settings.turns)
    conclude("training", [row(name, seconds, peaks) for name in sides], settings.out)
    return 0


def row(name: str, seconds: dict[str, list[float]], peaks: dict[str, list[int]]) -> dict[str, object]:
    """Return a side's speed, CPU time and memory, and how many times as fast ours is."""
    wall, cpu = ({side: statistics.median(found[part::2]) for side, found in seconds.items()} for part in (0, 1))
    return {
        "side": name,
        **{f"img/s {key}": value for key, value in spread([1 / each for each in seconds[name][::2]]).items()},
        "ours / this": round(wall[name] / wall[OURS], 2),
        "CPU ms/img": 1e3 * cpu[name],
        "CPU of ours": round(cpu[name] / cpu[OURS], 2),
        "peak MiB": round(max(peaks[name]) / 2**20),
    }


if __name__ == "__main__":
    run_command(main)
