"""The guard of a training run: steps that are not finite are skipped, named, and after some in a row stop the run."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from utils.errors import DivergedError


@dataclass(frozen=True, eq=False)
class Place:
    """Where a step was: epoch and batch counted from 0, learning rate, the batch itself, how to ask the amp scale."""

    epoch: int
    index: int
    lr: float
    batch: Any
    scale: Callable[[], float] | None = None


class Verdict:
    """A flag that was computed on a device, on its way to the host from now on."""

    def __init__(self, flag: Tensor):
        self.flag, self.arrival = flag, None
        if flag.device.type == "cuda":
            self.flag = torch.empty((), dtype=flag.dtype, pin_memory=True).copy_(flag, non_blocking=True)
            self.arrival = torch.cuda.Event()
            self.arrival.record(torch.cuda.current_stream(flag.device))

    def read(self) -> bool:
        """Wait for the flag, but not for what the device was given to do since."""
        if self.arrival is not None:
            self.arrival.synchronize()
        return bool(self.flag)


class Guard:
    """Watches every step without waiting for the device: a step is judged on the device, and read one step later.

    `image_names(batch)` names the photos of a batch; `keep(batch)` saves it and returns where, before the run stops;
    `over_ranks` sums a tensor over the processes of a run, which all skip a step that is bad at one of them.
    """

    def __init__(
        self,
        network: nn.Module,
        patience: int,
        image_names: Callable[[Any], list[str]] = lambda batch: [],
        keep: Callable[[Any], object] = lambda batch: None,
        over_ranks: Callable[[Tensor], Tensor] = lambda values: values,
    ):
        self.patience, self.image_names, self.keep, self.over_ranks = patience, image_names, keep, over_ranks
        self.buffers = [buffer for buffer in network.buffers() if buffer.is_floating_point()]
        self.saved = [buffer.clone() for buffer in self.buffers]
        self.pending: tuple[Verdict, dict[str, Tensor], Place] | None = None
        self.bad: Tensor | None = None
        self.in_a_row = 0
        self.skipped = 0

    def before(self) -> None:
        """Remember the batch statistics, which a NaN in the forward pass would spoil for good."""
        if self.buffers:  # VGG16 has none
            torch._foreach_copy_(self.saved, self.buffers)

    def after_backward(self, losses: dict[str, Tensor], place: Place) -> None:
        """Judge a step's losses and give the statistics back if they are not finite; reports on the step before."""
        self.report()
        values = torch.stack([value.detach() for value in losses.values()])
        bad = self.over_ranks((~values.isfinite().all()).float()) > 0
        for buffer, saved in zip(self.buffers, self.saved, strict=True):
            buffer.copy_(torch.where(bad, saved, buffer))
        self.bad = bad if self.bad is None else self.bad | bad
        self.pending = (Verdict(bad), losses, place)

    def before_step(self, optimizer: torch.optim.Optimizer, norm: Tensor | None) -> None:
        """Let the optimiser skip the update, on the device, if a loss or the gradient norm was not finite."""
        assert self.bad is not None  # before_step follows after_backward
        assert self.pending is not None
        bad = self.bad if norm is None else self.bad | ~norm.isfinite()
        _, losses, place = self.pending
        self.pending = (Verdict(bad), losses, place)
        optimizer.found_inf = bad.float()  # type: ignore[attr-defined]
        self.bad = None

    def report(self) -> None:
        """Read the verdict on the last step; DivergedError after `patience` bad steps in a row."""
        if self.pending is None:
            return
        (verdict, losses, place), self.pending = self.pending, None
        if not verdict.read():
            self.in_a_row = 0
            return
        self.in_a_row += 1
        self.skipped += 1
        message = self._message(losses, place)
        if self.in_a_row >= self.patience:
            raise DivergedError(
                f"{message}; {self.in_a_row} steps in a row: stopped. The batch is kept in {self.keep(place.batch)}, "
                "the last good weights are untouched. Try a lower --set lr0, or --amp off"
            )
        print(f"warning: {message}; step skipped ({self.in_a_row} of --nan-patience {self.patience})")

    def _message(self, losses: dict[str, Tensor], place: Place) -> str:
        terms = [name for name, value in losses.items() if not bool(value.isfinite())]
        what = f"the {', '.join(terms)} loss is not finite" if terms else "a gradient is not finite"
        names = self.image_names(place.batch)
        shown = f", photos {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}" if names else ""
        scale = f", amp scale {place.scale():g}" if place.scale else ""
        return (
            f"{what} in epoch {place.epoch + 1}, batch {place.index + 1} (learning rate {place.lr:.3g}{scale}{shown})"
        )
