"""Training samples per second of one core, from disk and from RAM, beside the ultralytics package's data set class.

python -m benchmarks.data_pipeline [--imgsz 640] [--photos 1000] [--turns 3] [--yolov5]

Both sides make whole batches of 16 in this process: mosaic, affine (translate .1, scale .5), HSV and a flip. The photos
are repeated until there are many more than the peer's buffer of decoded photos (128) holds, as in any data set that
needs no cache; files are in the operating system's cache. With the photos in RAM there is a third side, --cache device:
whole batches painted by torch, in seconds of the GPU where there is one, else on the same core. --yolov5 adds the
yolov5 package, from whose code ultralytics/yolov3 has its data set class (docs/performance.md says how to install it).
"""

import itertools
import statistics
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks.measuring.photos import copy_photos, open_split, write_data_yaml
from benchmarks.measuring.side_by_side import conclude, flags, in_turns, positive_int, silence, spread
from benchmarks.measuring.yolov5_package import YOLOV5, add_flag, check_flag
from data.augment.augmentation import Augmentation
from data.augment.on_device import DevicePhotos
from data.data_yaml import read_data_yaml
from data.dataset import DetectionDataset
from data.loader import build_loader
from data.split import load_split
from utils.errors import run_command
from utils.ultralytics_only import benchmark_peer

BATCH = 16
CPU = torch.device("cpu")
OURS, PEER, ON_DEVICE = "this project", "ultralytics", "this project, --cache device"
SHARED = (
    "hsv_h",
    "hsv_s",
    "hsv_v",
    "degrees",
    "translate",
    "scale",
    "shear",
    "perspective",
    "flipud",
    "fliplr",
    "mosaic",
)


def our_dataset(data: Path, imgsz: int, cache: bool, group: int = 0) -> DetectionDataset:
    """Return the photos as train.py augments them, in memory or not."""
    index = load_split(read_data_yaml(str(data), data.parent), "train", data.parent / "cache")
    return DetectionDataset(index, (imgsz, imgsz), Augmentation(), 0, cache, group)


def our_batches(data: Path, imgsz: int, cache: bool) -> Iterator:
    """Yield batches as train.py makes them with --cache, or else with `mosaic_from: batch`."""
    return endless(build_loader(our_dataset(data, imgsz, cache, 0 if cache else BATCH), BATCH, 0, True, 0))


def painted_batches(data: Path, imgsz: int, device: torch.device) -> Iterator:
    """Yield batches as train.py makes them with --cache device."""
    dataset = our_dataset(data, imgsz, False)
    photos = DevicePhotos(dataset.store(device))
    return photos.painted(endless(build_loader(dataset, BATCH, 0, True, 0)))


def peer_loader(data: Path, imgsz: int, cache: bool) -> DataLoader:
    """Return batches as the peer's trainer makes them on a CPU, with the same augmentation."""
    peer, names = benchmark_peer(), {number: str(number) for number in range(80)}
    hyper = peer.get_cfg(overrides={**same_augmentation(), "task": "detect"})
    with silence():
        dataset: Dataset = peer.Dataset(
            img_path=str(data.parent / "images" / "train"),
            imgsz=imgsz,
            cache="ram" if cache else None,
            augment=True,
            hyp=hyper,
            batch_size=BATCH,
            data={"names": names, "channels": 3},
            task="detect",
        )
    return DataLoader(dataset, BATCH, shuffle=True, collate_fn=dataset.collate_fn)


def yolov5_loader(data: Path, imgsz: int, cache: bool) -> DataLoader:
    """Return batches as the yolov5 package's trainer makes them, with the same augmentation."""
    with silence():
        from yolov5.utils.dataloaders import LoadImagesAndLabels

        images, kept = str(data.parent / "images" / "train"), "ram" if cache else False
        dataset = LoadImagesAndLabels(images, imgsz, BATCH, augment=True, hyp=same_augmentation(), cache_images=kept)
    return DataLoader(dataset, BATCH, shuffle=True, collate_fn=dataset.collate_fn)


def same_augmentation() -> dict[str, float]:
    """Return our default augmentation by the names that the peers have too."""
    return {name: getattr(Augmentation(), name) for name in SHARED} | {"mixup": 0.0, "copy_paste": 0.0}


def endless(loader: DataLoader) -> Iterator:
    """Yield the loader's batches, epoch after epoch."""
    for epoch in itertools.count():
        if hasattr(loader.sampler, "set_epoch"):
            loader.sampler.set_epoch(epoch)
        yield from loader


def seconds(device: torch.device) -> float:
    """Return CPU time, what one core takes on a machine with nothing else to do; wall time of a GPU, its work done."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def meter(source: Iterator, batches: int, device: torch.device = CPU) -> Callable[[], list[float]]:
    """Return a function that makes so many batches and returns samples per second, after a warm-up."""
    for _ in range(10):
        next(source)

    def measure() -> list[float]:
        cv2.setNumThreads(0)
        start = seconds(device)
        for _ in range(batches):
            next(source)
        return [batches * BATCH / (seconds(device) - start)]

    return measure


def compare(settings: Namespace, data: Path, cache: bool) -> list[dict[str, object]]:
    """Return the rows of both sides, from RAM with `cache`, else from disk."""
    source = "RAM" if cache else "disk"
    print(f"from {source}")
    sides = {
        OURS: meter(our_batches(data, settings.imgsz, cache), settings.batches),
        PEER: meter(endless(peer_loader(data, settings.imgsz, cache)), settings.batches),
    }
    if settings.yolov5:
        sides[YOLOV5] = meter(endless(yolov5_loader(data, settings.imgsz, cache)), settings.batches)
    if cache:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        sides[ON_DEVICE] = meter(painted_batches(data, settings.imgsz, device), settings.batches, device)
    found = in_turns(sides, settings.turns)
    best = statistics.median(found[OURS])
    return [
        {
            "side": f"{name}, {source}",
            **{f"img/s {key}": value for key, value in spread(speeds).items()},
            "ours / this": round(best / statistics.median(speeds), 2),
        }
        for name, speeds in found.items()
    ]


def main() -> int:
    """Print and write the table."""
    parser = flags(__doc__, "data_pipeline")
    parser.add_argument("--imgsz", type=positive_int, default=640, help="network input in pixels (default 640)")
    parser.add_argument(
        "--photos", type=positive_int, default=1000, help="photos to read, repeated where fewer (default 1000)"
    )
    parser.add_argument("--batches", type=positive_int, default=12, help="batches of each turn (default 12)")
    add_flag(parser)
    settings = parser.parse_args()
    check_flag(settings)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        copy_photos(open_split(settings), Path(folder), "train", settings.photos)
        data = write_data_yaml(Path(folder), 80)
        rows = [row for cache in (False, True) for row in compare(settings, data, cache)]
    conclude("data_pipeline", rows, settings.out)
    return 0


if __name__ == "__main__":
    run_command(main)
