"""Images per second and peak memory of whole training epochs, beside the ultralytics package's trainer.

python -m benchmarks.training [--epochs 3] [--turns 2]      YOLOv3-tiny, 320 px, batch 16, photos in RAM

Ours is `train.py`, the peer `ultralytics`' own trainer on its yolov3-tiny.yaml; both with their defaults for this
machine, and both validate after every epoch (outside the images per second, inside the memory). The third side gives
the peer as many threads as it has cores: by default it leaves one out.
"""

import json
import os
import statistics
import tempfile
import time
from argparse import Namespace
from pathlib import Path

from benchmarks.photos import copy_photos, open_split, write_data_yaml
from benchmarks.side_by_side import conclude, flags, in_turns, spread
from benchmarks.watch import run_watched
from utils.errors import run_command
from utils.run_folder import read_csv

OURS, PEER, PEER_ALL_CORES = "this project", "ultralytics", "ultralytics, all cores"


def train_ours(settings: Namespace, data: Path, folder: Path) -> tuple[list[float], int]:
    """Images per second of each epoch of train.py, and the run's peak memory."""
    project = tempfile.mkdtemp(dir=folder)
    arguments = ["--data", data, "--imgsz", settings.imgsz, "--batch-size", settings.batch, "--epochs", settings.epochs]
    done = run_watched("train", *arguments, "--cache", "--no-plots", "--project", project)
    rows = read_csv(Path(project) / "exp" / "results.csv")
    return [float(row["images_per_second"]) for row in rows], done.peak


def train_peer(settings: Namespace, data: Path, folder: Path, threads: int) -> tuple[list[float], int]:
    """The same of the peer, in a process of its own."""
    task = vars(settings) | {"data": str(data), "project": tempfile.mkdtemp(dir=folder), "threads": threads}
    done = run_watched("benchmarks.training", "--peer", json.dumps(task))
    return json.loads(done.output.splitlines()[-1]), done.peak


def run_peer(task: Namespace) -> list[float]:
    """Trains with the peer in this process; images per second of each epoch."""
    import cv2
    import torch

    from utils.ultralytics_door import benchmark_peer

    peer = benchmark_peer()
    cv2.setNumThreads(peer.cv2_threads)
    given = {"data": task.data, "project": task.project, "imgsz": task.imgsz, "batch": task.batch}
    # SGD, as train.py has it: the peer's own choice (MuSGD) costs more. Mosaic in every epoch, also as ours.
    equal = {"optimizer": "SGD", "close_mosaic": 0, "epochs": task.epochs, "cache": "ram", "plots": False}
    trainer = peer.Trainer(overrides={"model": "yolov3-tiny.yaml", "device": "cpu", "verbose": False, **given, **equal})
    starts, speeds = [], []

    def begin(_: object) -> None:
        if task.threads:
            torch.set_num_threads(task.threads)
        starts.append(time.perf_counter())

    def end(trainer: object) -> None:
        speeds.append(len(trainer.train_loader.dataset) / (time.perf_counter() - starts[-1]))

    trainer.add_callback("on_train_epoch_start", begin)
    trainer.add_callback("on_train_epoch_end", end)
    trainer.train()
    return speeds


def main() -> int:
    """Prints and writes the table."""
    parser = flags(__doc__, "training")
    parser.add_argument("--epochs", type=int, default=3, help="epochs of each turn (default 3)")
    parser.add_argument("--imgsz", type=int, default=320, help="network input in pixels (default 320)")
    parser.add_argument("--batch", type=int, default=16, help="images per step (default 16)")
    parser.add_argument("--peer", default="", help="for the benchmark itself: be the peer with these settings")
    settings = parser.parse_args()
    if settings.peer:
        print(json.dumps(run_peer(Namespace(**json.loads(settings.peer)))))
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for split in ("train", "val"):
            index = open_split(settings, split)
            copy_photos(index, folder, split)
        data = write_data_yaml(folder, max(int(index.labels.max()) + 1, 80))
        peaks: dict[str, list[int]] = {OURS: [], PEER: [], PEER_ALL_CORES: []}

        def side(name: str, train: object, *more: int) -> list[float]:
            speeds, peak = train(settings, data, folder, *more)
            peaks[name].append(peak)
            return speeds

        sides = {
            OURS: lambda: side(OURS, train_ours),
            PEER: lambda: side(PEER, train_peer, 0),
            PEER_ALL_CORES: lambda: side(PEER_ALL_CORES, train_peer, os.cpu_count() or 1),
        }
        speeds = in_turns(sides, settings.turns)
    report(speeds, peaks, settings)
    return 0


def report(speeds: dict[str, list[float]], peaks: dict[str, list[int]], settings: Namespace) -> None:
    """The table: every side's speed, its memory, and what this project's is of it."""
    rows = []
    for name, found in speeds.items():
        memory = max(peaks[name]) / 2**20
        ratio = statistics.median(speeds[OURS]) / statistics.median(found)
        row = {"side": name, **{f"img/s {key}": value for key, value in spread(found).items()}}
        rows.append({**row, "peak MiB": round(memory), "ours / this": round(ratio, 2)})
    conclude("training", rows, settings.out)


if __name__ == "__main__":
    run_command(main)
