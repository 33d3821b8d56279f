"""Images per second of validation, from photo files to metrics, beside the ultralytics package's validator.

python -m benchmarks.validation [--photos 1000] [--imgsz 320] [--turns 2]

YOLOv3-tiny, batch 16: ours as val.py runs it (square letterbox), the peer on its own yolov3-tiny.yaml, as square and as
its command runs it (`rect`: batches of like shapes with less padding). Ours in bf16 is `val.py --precision bf16`. The
weights are random; the biases of both heads are set so that about as many boxes pass the confidence threshold (.001) as
with trained weights. Both in one thread; what another one decodes ahead counts, for it is CPU time that is measured.
"""

import contextlib
import functools
import io
import json
import statistics
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import cv2
import torch
from torch import Tensor

from benchmarks.measuring.photos import copy_photos, open_split, write_data_yaml
from benchmarks.measuring.side_by_side import conclude, flags, in_turns, positive_int, spread
from benchmarks.measuring.watch import run_watched
from data.data_yaml import read_data_yaml
from data.dataset import DetectionDataset
from data.loader import build_loader
from data.split import load_split
from engine.validate.collect import collect
from engine.validate.weights import at_precision
from models.families import build_detector
from models.kernels.kept_memory import freed_memory_kept
from utils.config.knobs import Config, RunConfig
from utils.config.sources import hyperparameters, model_config
from utils.errors import run_command
from utils.ultralytics_only import benchmark_peer

BATCH, CLASSES = 16, 80
CANDIDATES = 500
CONFIDENCE = 0.001
OURS, OURS_BF16, PEER, PEER_RECT = "this project", "this project, bf16", "ultralytics, square", "ultralytics, rect"


@torch.no_grad()
def shift_bias(biases: list[Tensor], scores: Callable[[], Tensor]) -> None:
    """Add one number to all biases so that CANDIDATES scores (B, ...) an image exceed the confidence threshold."""
    low, high = -20.0, 20.0
    for _ in range(12):
        middle = (low + high) / 2
        for bias in biases:
            bias += middle
        found = scores()
        passing = int((found > CONFIDENCE).sum()) / len(found)
        for bias in biases:
            bias -= middle
        low, high = (middle, high) if passing < CANDIDATES else (low, middle)
    for bias in biases:
        bias += low


def ours(data: Path, imgsz: int, photos: Tensor, bf16: bool) -> Callable[[], list[float]]:
    """Return a function that validates with this project, in bf16 or float32, and returns images per second."""
    names = tuple(f"class {number}" for number in range(CLASSES))
    model = model_config("yolov3-tiny", {})
    config = Config(RunConfig(imgsz=(imgsz,)), model, hyperparameters("", {}), names)
    detector = build_detector(config).eval()
    detector.network.to(memory_format=torch.channels_last)

    def scores() -> Tensor:
        raw = detector.network(photos)
        return raw[..., 4:5].sigmoid() * raw[..., 5:].sigmoid()

    objectness = [conv.bias.view(-1, 5 + CLASSES)[:, 4] for conv in detector.network.head.convs]
    shift_bias(objectness, scores)
    measured = at_precision(detector, detector.network, config, bf16)
    index = load_split(read_data_yaml(str(data), data.parent), "val", data.parent / "cache")
    loader = build_loader(DetectionDataset(index, (imgsz, imgsz)), BATCH, 0, False, 0)

    def measure() -> list[float]:
        start = time.process_time()
        with freed_memory_kept() as keep:
            collect(measured, loader, index, names, torch.device("cpu"), lambda *_: keep()).compute()
        return [len(index) / (time.process_time() - start)]

    return measure


def peers(data: Path, imgsz: int, photos: Tensor, rect: bool) -> Callable[[], list[float]]:
    """Return a function that validates with the peer and returns images per second."""
    peer = benchmark_peer()
    model = peer.Model("yolov3-tiny.yaml", nc=CLASSES, verbose=False).eval()
    classes = [branch[-1].bias for branch in model.model[-1].cv3]
    shift_bias(classes, lambda: model(photos)[0][:, 4:])
    settings = {"data": str(data), "imgsz": imgsz, "batch": BATCH, "rect": rect, "plots": False, "device": "cpu"}

    def measure() -> list[float]:
        folder = data.parent / "peer"
        validator = peer.Validator(args={**settings, "mode": "val", "verbose": False}, save_dir=folder)
        starts = []
        # Not before: the peer reads and checks the labels until then.
        validator.callbacks["on_val_start"].append(lambda _: starts.append(time.process_time()))
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            validator(model=model)
        return [validator.seen / (time.process_time() - starts[0])]

    return measure


SIDES = {
    OURS: functools.partial(ours, bf16=False),
    OURS_BF16: functools.partial(ours, bf16=True),
    PEER: functools.partial(peers, rect=False),
    PEER_RECT: functools.partial(peers, rect=True),
}


def one_side(settings: Namespace) -> list[float]:
    """Return what one side measures, in this process."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    data = Path(settings.folder) / "data.yaml"
    index = load_split(read_data_yaml(str(data), data.parent), "val", data.parent / "cache")
    sample = DetectionDataset(index, (settings.imgsz, settings.imgsz))
    photos = torch.stack([sample[row].image for row in range(BATCH)]).float() / 255
    return SIDES[settings.side](data, settings.imgsz, photos)()


def in_own_process(side: str, settings: Namespace, folder: str) -> Callable[[], list[float]]:
    """Return a function that measures a side in a process of its own.

    What one asks of the C library must not touch others.
    """
    task = ("--side", side, "--folder", folder, "--imgsz", settings.imgsz)
    return lambda: json.loads(run_watched("benchmarks.validation", *task).output.splitlines()[-1])


def main() -> int:
    """Print and write the table."""
    parser = flags(__doc__, "validation")
    parser.add_argument("--imgsz", type=positive_int, default=320, help="network input in pixels (default 320)")
    parser.add_argument(
        "--photos", type=positive_int, default=1000, help="photos to read, repeated where fewer (default 1000)"
    )
    parser.add_argument("--side", default="", help="for the benchmark itself: be one side, on the photos of --folder")
    parser.add_argument("--folder", default="", help="for the benchmark itself")
    settings: Namespace = parser.parse_args()
    if settings.side:
        print(json.dumps(one_side(settings)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        copy_photos(open_split(settings, "val"), Path(folder), "val", settings.photos)
        write_data_yaml(Path(folder), CLASSES)
        found = in_turns({name: in_own_process(name, settings, folder) for name in SIDES}, settings.turns)
    best = statistics.median(found[OURS])
    rows = [
        {
            "side": name,
            **{f"img/s {key}": value for key, value in spread(speeds).items()},
            "ours / this": round(best / statistics.median(speeds), 2),
        }
        for name, speeds in found.items()
    ]
    conclude("validation", rows, settings.out)
    return 0


if __name__ == "__main__":
    run_command(main)
