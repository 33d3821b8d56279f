"""How many loading processes a run has, and which photos it keeps in memory: what this machine can bear."""

from dataclasses import dataclass

import torch

from data.dataset import cache_bytes
from data.labels.index import LabelIndex
from utils.config.knobs import RunConfig
from utils.device import worker_count
from utils.distributed import Group
from utils.errors import UserError
from utils.hardware import available_memory, free_shared_memory, gib, usable_cores

# Batches of each loading process that can be in shared memory at once: two waiting and one in the making.
BATCHES_EACH = 3
# The share of the free memory that cached photos may take.
CACHED = 0.8
# The share of a device's free memory that training and photos may take together: what is left is lost between blocks.
FILLED = 0.95
# Bytes for every pixel of a batch while it is painted on a device: 190 on a CPU, with mixup 240.
PAINTED = 256


@dataclass(frozen=True)
class Resources:
    """Loading processes of each training process, the splits whose photos stay in memory, and a line that says so.

    on_device: the training photos stay on the training device instead.
    """

    workers: int
    cached: frozenset[str]
    said: str
    on_device: bool = False


def loading_processes(
    wanted: int, batch_size: int, image_size: tuple[int, int], processes: int = 1, cores: int | None = None
) -> tuple[int, str]:
    """Return loading processes for each training process, as many as shared memory bears, and what was short."""
    workers, shared = worker_count(wanted, processes, cores), free_shared_memory()
    needed = BATCHES_EACH * batch_size * 3 * image_size[0] * image_size[1] * processes
    if shared is None or workers * needed <= shared:
        return workers, ""
    return shared // needed, f"{workers} would need {gib(workers * needed)} of shared memory"


def room_on(device: torch.device) -> int | None:
    """Return bytes that a device still has for this process; None where it does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    return available_memory() if device.type == "cpu" else None


def device_photos(flags: RunConfig, index: LabelIndex, group: Group, reserved: int, device: torch.device) -> int:
    """Return bytes of the training photos of this machine's processes, each of which keeps all of them on its device.

    All, because every epoch deals the photos to the processes anew, and mosaics are made of any. UserError where they
    do not fit beside `reserved` bytes for training: what is painted elsewhere would differ from it in rounding.
    """
    photos, room = cache_bytes(index, flags.image_size), room_on(device)
    height, width = flags.image_size
    needed = photos + reserved + PAINTED * flags.batch_size // group.world_size * height * width
    sharing = group.local_size if device.type == "cpu" else 1
    if room is not None and needed * sharing > FILLED * room:
        raise UserError(
            f"--cache device: the {len(index)} training photos take {gib(photos * sharing)}, with training "
            f"{gib(needed * sharing)}; {gib(room)} are free on {device}. Try --cache ram or a smaller --imgsz"
        )
    return photos * sharing


def plan_resources(
    flags: RunConfig,
    splits: dict[str, LabelIndex],
    group: Group,
    reserved: int = 0,
    cores: int | None = None,
    device: torch.device | None = None,
) -> Resources:
    """Plan workers by cores and shared memory, and the cache by what is free beside `reserved` bytes."""
    shared, free = free_shared_memory(), available_memory()
    device, on_device = device or torch.device("cpu"), flags.cache == "device"
    cores = cores or usable_cores()
    workers, short = loading_processes(flags.workers, flags.batch_size, flags.image_size, group.local_size, cores)
    notes = [short] if short else []
    cached, taken, stored = set(), 0, 0
    if on_device:
        stored = device_photos(flags, splits["train"], group, reserved, device)
        reserved += stored if device.type == "cpu" else 0
        splits = {split: index for split, index in splits.items() if split != "train"}
    for split, index in splits.items() if flags.cache else ():
        needed = cache_bytes(index, flags.image_size) * group.local_size
        if free is None or taken + needed <= CACHED * (free - reserved):
            cached.add(split)
            taken += needed
        else:
            notes.append(f"--cache: the {split} photos would take {gib(needed)}: they are read from disk instead")
    memory = "" if free is None else f", {gib(free)} of memory"
    memory += "" if shared is None else f", {gib(shared)} of shared memory free"
    plural = "process" if workers == 1 else "processes"
    said = f"machine {cores} cores{memory}: {workers} loading {plural}"
    said += f", {gib(stored)} of photos on {device}" if on_device else ""
    said += f", {gib(taken)} of photos cached" if cached else ""
    return Resources(workers, frozenset(cached), "; ".join([said, *notes]), on_device)
