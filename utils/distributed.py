"""The processes of a run that torchrun started, and what they do together."""

import contextlib
import datetime
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn

TIMEOUT = datetime.timedelta(minutes=30)


@dataclass(frozen=True)
class Group:
    """This process's place among the processes of a run, of which `local_size` are on this machine."""

    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    local_size: int = 1

    @property
    def main(self) -> bool:
        """Whether this process writes, prints and decides for all."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of a tensor over all processes."""
        if self.world_size > 1:
            values = values.clone()
            distributed.all_reduce(values)
        return values

    def gather(self, part: Any) -> list[Any]:
        """Return every process's part at the main process, nothing elsewhere."""
        if self.world_size == 1:
            return [part]
        parts = [None] * self.world_size if self.main else None
        distributed.gather_object(part, parts)
        return parts or []

    def share(self, value: Any) -> Any:
        """Return the main process's value, at all processes."""
        if self.world_size == 1:
            return value
        box = [value]
        distributed.broadcast_object_list(box)
        return box[0]

    def align(self, module: nn.Module) -> None:
        """Give all processes the main one's parameters and buffers."""
        if self.world_size > 1:
            for tensor in module.state_dict().values():
                distributed.broadcast(tensor, src=0)


def group_of_environment() -> Group:
    """Return the group as torchrun's environment variables describe it; one process without them."""
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        return Group()
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", world_size))
    return Group(int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"]), world_size, local_size)


def restart_note(group: Group, project: Path) -> Path | None:
    """Return where a job under torchrun notes its run folder, for a restart to find; None elsewhere."""
    job = os.environ.get("TORCHELASTIC_RUN_ID")
    if group.world_size == 1 or job is None:
        return None
    # Without a rendezvous id of its own (static rendezvous) a job is known by its port.
    name = os.environ.get("MASTER_PORT", "") if job == "none" else Path(job).name
    return project / f".torchrun-{name}"


def restarts() -> int:
    """Return how often torchrun has started the processes of this job anew."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


@contextlib.contextmanager
def joined(group: Group, device: torch.device) -> Iterator[None]:
    """Yield the process group while the block runs; only the main process prints."""
    if group.world_size == 1:
        yield
        return
    store, rank, world_size = next(distributed.rendezvous("env://", timeout=TIMEOUT))
    # After a restart the store can still hold the addresses of the processes that died.
    store = distributed.PrefixStore(f"restart-{restarts()}", store)
    backend = "nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, timeout=TIMEOUT, store=store, rank=rank, world_size=world_size)
    try:
        with contextlib.ExitStack() as stack:
            if not group.main:
                nowhere = stack.enter_context(Path(os.devnull).open("w"))
                stack.enter_context(contextlib.redirect_stdout(nowhere))
            yield
        distributed.barrier()
    finally:
        if sys.exc_info()[0] is None:
            distributed.destroy_process_group()
