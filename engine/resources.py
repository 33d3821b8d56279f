"""How many loading processes a run has, and which photos it keeps in memory: what this machine can bear."""

from dataclasses import dataclass

from data.dataset import cache_bytes
from data.labels import LabelIndex
from utils.config import RunConfig
from utils.device import worker_count
from utils.distributed import Group
from utils.machine import available_memory, free_shared_memory, gib, usable_cores

# Batches of each loading process that can be in shared memory at once: two waiting and one in the making.
BATCHES_EACH = 3
# The share of the free memory that cached photos may take.
CACHED = 0.8


@dataclass(frozen=True)
class Resources:
    """Loading processes of each training process, the splits whose photos stay in memory, and a line that says so."""

    workers: int
    cached: frozenset[str]
    said: str


def loading_processes(
    wanted: int, batch_size: int, image_size: tuple[int, int], processes: int = 1, cores: int | None = None
) -> tuple[int, str]:
    """Loading processes for each training process, as many as shared memory bears, and what was short."""
    workers, shared = worker_count(wanted, processes, cores), free_shared_memory()
    needed = BATCHES_EACH * batch_size * 3 * image_size[0] * image_size[1] * processes
    if shared is None or workers * needed <= shared:
        return workers, ""
    return shared // needed, f"{workers} would need {gib(workers * needed)} of shared memory"


def plan_resources(
    flags: RunConfig, splits: dict[str, LabelIndex], group: Group, reserved: int = 0, cores: int | None = None
) -> Resources:
    """Workers by cores and shared memory, cache by the memory that is free beside `reserved` bytes for training."""
    shared, free = free_shared_memory(), available_memory()
    cores = cores or usable_cores()
    workers, short = loading_processes(flags.workers, flags.batch_size, flags.image_size, group.local_size, cores)
    notes = [short] if short else []
    cached, taken = set(), 0
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
    said += f", {gib(taken)} of photos cached" if cached else ""
    return Resources(workers, frozenset(cached), "; ".join([said, *notes]))
