"""A training step and a validation batch on grey images before the real ones: what they take, and what would fit."""

import copy
import gc
import math
import re
from dataclasses import replace
from pathlib import Path

import torch

from alignyolo.targets import Targets
from data.labels.index import LabelIndex
from data.loader import Batch
from engine.batches import to_device
from engine.failures import is_out_of_memory
from engine.resources import room_on
from engine.train.epoch import SMALLEST, autocast, largest_size, resized, scaled_size
from engine.train.trainer import frozen_modules
from models.detector import AnyDetector
from utils.config.knobs import Config, ModelConfig
from utils.device import autocast_dtype
from utils.distributed import Group
from utils.errors import UserError
from utils.hardware import gib
from utils.letterbox import PADDING, Letterbox
from utils.optim import build_optimizer

# ultralytics' autobatch fills the same share of a GPU.
FILLED = 0.6
MOST = 1024


class Rehearsal:
    """A copy of the run's detector that trains and validates on grey images with real boxes.

    Nothing of it reaches the run: no weight, statistic or random generator. `exact`: peaks are the device's own count.
    """

    def __init__(
        self,
        config: Config,
        detector: AnyDetector,
        index: LabelIndex,
        device: torch.device,
        group: Group,
    ) -> None:
        run, hyper = config.run, config.hyper
        self.config = config
        self.index, self.device, self.image_size = index, device, run.image_size
        self.dtype = autocast_dtype(run.amp, device)
        self.step_size = largest_size(run.image_size, max(config.model.strides)) if run.multi_scale else run.image_size
        self.exact = device.type == "cuda"
        self.before = _resident()
        # In one process alone: the others would never answer the copy's question for sums over the group.
        self.detector = copy.deepcopy(detector, {id(group): Group()})
        network = self.detector.network.to(device, memory_format=torch.channels_last)
        frozen_modules(network, run.freeze)
        self.optimizer = build_optimizer(run.optimizer, network, hyper.lr0, hyper.momentum, 0.0)
        self.average = copy.deepcopy(network)

    @property
    def least_images(self) -> int:
        """How many images the smallest batch has that can be trained on."""
        return 2 if one_value_a_channel(self.config, self.step_size) else 1

    def step(self, images: int) -> None:
        """Train on a batch of grey images at the largest size that the run will see."""
        self.detector.train()
        pixels, targets = resized(*to_device(self._batch(images), self.device), self.step_size)
        with autocast(self.device, self.dtype):
            losses = self.detector(pixels, targets)
        sum(losses.values()).backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def validate(self, images: int) -> None:
        """Detect on a batch of grey images at the validation's size."""
        with torch.inference_mode():
            self.detector.with_network(self.average).eval()(to_device(self._batch(images), self.device)[0])

    def peak(self, images: int, validation: int) -> int | None:
        """Return the most bytes that a step on `images` and a validation batch take together with the weights.

        On a CPU it is the growth of the process, None where the system does not tell.
        """
        if self.exact:
            torch.cuda.reset_peak_memory_stats(self.device)
        elif self.before is None:
            return None
        self.step(images)
        self.validate(validation)
        if self.exact:
            return torch.cuda.max_memory_allocated(self.device)
        grown = _resident(peak=True)
        return None if grown is None or self.before is None else max(grown - self.before, 0)

    def _batch(self, images: int) -> Batch:
        """Return grey images with the truths of the photos that have most, as the data loader would give them."""
        height, width = self.image_size
        rows = self.index.starts[1:] - self.index.starts[:-1]
        fullest = [int(row) for row in rows.argsort(kind="stable")[::-1][:images]]
        truths = [(Letterbox.fit(self.index.sizes[row], self.image_size), *self.index.of(row)) for row in fullest]
        boxes = [torch.from_numpy(box.boxes(found)) for box, found, _ in truths]
        targets = Targets.stack(boxes, [torch.from_numpy(labels) for _, _, labels in truths])
        pixels = torch.full((images, height, width, 3), PADDING, dtype=torch.uint8).permute(0, 3, 1, 2)
        return Batch(pixels, targets, torch.tensor(fullest), [])


def one_value_a_channel(config: Config, size: tuple[int, int]) -> bool:
    """Tell whether YOLOv3's deepest features of an image of (height, width) are one cell."""
    return isinstance(config.model, ModelConfig) and max(size) <= max(config.model.strides)


def require_batches(config: Config, images: int, group: Group) -> None:
    """Raise UserError where an epoch of so many images has a batch of one that normalisation cannot be trained on."""
    if config.run.batch_size < 0:
        return
    stride = max(config.model.strides)
    size = scaled_size(config.run.image_size, SMALLEST, stride) if config.run.multi_scale else config.run.image_size
    batch, share = config.run.batch_size // group.world_size, math.ceil(images / group.world_size)
    last = share % batch or batch
    if last == 1 and one_value_a_channel(config, size):
        # Of sides of three strides --multi-scale makes two or more.
        drawn, least = ":", stride
        if config.run.multi_scale:
            drawn, least = f" with --multi-scale, which draws {max(size)} px,", 2 * stride
        raise UserError(
            f"--imgsz {' '.join(map(str, config.run.imgsz))}{drawn} a batch of one image has one value a channel "
            f"there, of which normalisation knows no statistics, and the last of {images} images at --batch-size "
            f"{config.run.batch_size} is one: expected another --batch-size, or sides above {least}"
        )


class Line:
    """Peaks of a step on 1 and on 2 images, and the straight line through them; none where they cannot be measured.

    On 2 and 3 where normalisation has no statistics of one.
    """

    def __init__(self, rehearsal: Rehearsal):
        least = rehearsal.least_images
        first, second = (rehearsal.peak(images, images) for images in (least, least + 1))
        self.measured = first is not None and second is not None
        self.slope = 1 if first is None or second is None else max(second - first, 1)
        self.first = max(first - (least - 1) * self.slope, 0) if first else 0

    def at(self, images: int) -> int:
        """Return about how many bytes a step on so many images takes."""
        return self.first + self.slope * (images - 1)

    def most(self, room: float) -> int:
        """Return the largest power of two whose step takes at most `room` bytes; 0 if not even one image fits."""
        images = math.floor((room - self.first) / self.slope) + 1
        return power_of_two(min(images, MOST)) if images >= 1 else 0


def power_of_two(number: int) -> int:
    """Return the largest power of two that is not above a number from 1 on."""
    return 2 ** (number.bit_length() - 1)


def rehearsed(
    config: Config,
    detector: AnyDetector,
    index: LabelIndex,
    device: torch.device,
    group: Group,
) -> tuple[Config, int]:
    """Return the config with a batch size that fits where it asks for one (-1), and the bytes that a step will take.

    Prints the peak. UserError, with a batch size that fits, where the one asked for does not; nothing is written yet.
    """
    if device.type == "mps":
        if config.run.batch_size < 0:
            raise UserError("--batch-size -1: cannot be measured on mps; expected a number")
        return config, 0
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        rehearsal = Rehearsal(config, detector, index, device, group)
        try:
            return _rehearsed(config, rehearsal, group)
        finally:
            del rehearsal
            _release(device)


def _rehearsed(config: Config, rehearsal: Rehearsal, group: Group) -> tuple[Config, int]:
    asked, room = config.run.batch_size, room_on(rehearsal.device)
    line = Line(rehearsal) if asked < 0 or not rehearsal.exact else None
    if line is not None and asked < 0:
        asked = _chosen(config, rehearsal, line, room, group)
        config = replace(config, run=replace(config.run, batch_size=asked))
    tried = f"--batch-size {asked} at {rehearsal.step_size[0]}x{rehearsal.step_size[1]} px"
    if line is None or rehearsal.exact:
        peak = _tried(rehearsal, asked, tried, group)
        how = "peak of one training step and one validation batch"
    else:
        peak = line.at(asked // group.world_size) if line.measured else 0
        how = "about, from a step and a validation of 1 and of 2 images"
        if room and peak * group.local_size > room:
            fits = line.most(room / group.local_size) * group.world_size
            raise UserError(
                f"{tried} does not fit: it takes {gib(peak * group.local_size)} ({how}), {gib(room)} are free; "
                f"{_advice(fits)}"
            )
    if peak:
        print(f"memory {gib(peak)} for {tried} ({how}), {gib(room or 0)} free")
    return config, peak


def _tried(rehearsal: Rehearsal, batch: int, tried: str, group: Group) -> int:
    """Return the peak of the whole batch, which is run; UserError with the largest half, quarter, ... that runs."""
    images = batch // group.world_size
    peak = _peak_or_none(rehearsal, images, batch)
    if peak is not None:
        return peak
    smaller = images // 2
    while smaller and _peak_or_none(rehearsal, smaller, smaller * group.world_size) is None:
        smaller //= 2
    raise UserError(f"{tried}: out of memory on {rehearsal.device}; {_advice(smaller * group.world_size)}")


def _chosen(config: Config, rehearsal: Rehearsal, line: "Line", room: int | None, group: Group) -> int:
    """Return the batch size that -1 stands for.

    Fills 60 % of the memory, at most the data set and what is of any use.
    """
    if not line.measured or room is None:
        raise UserError("--batch-size -1: this system does not tell how much memory a step takes; expected a number")
    share = 1 if rehearsal.exact else group.local_size
    fits = line.most(FILLED * room / share)
    # A CPU computes no faster on more images than an optimiser step is meant for.
    useful = MOST if rehearsal.exact else config.hyper.nominal_batch
    limit = min(useful, len(rehearsal.index)) // group.world_size
    batch = power_of_two(max(min(fits, limit), 1)) * group.world_size
    print(
        f"--batch-size -1: {batch} ({gib(room)} of memory, of which {FILLED:.0%} are filled, would take "
        f"{fits * group.world_size}; at most {useful} and the {len(rehearsal.index)} training images)"
    )
    return batch


def _peak_or_none(rehearsal: Rehearsal, images: int, validation: int) -> int | None:
    """Return the peak, None when the device runs out of memory."""
    try:
        return rehearsal.peak(images, validation)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    # Only here, where the error no longer holds the tensors of the step.
    rehearsal.optimizer.zero_grad(set_to_none=True)
    _release(rehearsal.device)
    return None


def _advice(batch: int) -> str:
    """Return what to do about a batch that does not fit."""
    return f"--batch-size {batch} fits" if batch else "not even one image fits: try a smaller --imgsz or --cfg"


def _release(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _resident(peak: bool = False) -> int | None:
    """Return the bytes that this process occupies, or with `peak` the most since it was asked without."""
    try:
        if not peak:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(r"^VmHWM:\s+(\d+) kB" if peak else r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else None
