"""The guard of a training run: steps that are not finite are skipped, named, and after some in a row stop the run."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from utils.errors import DivergedError


@dataclass(frozen=True, eq=False)
class Place:
    """Where a batch was: epoch and batch counted from 0, learning rate, the batch itself, how to ask the amp scale."""

    epoch: int
    index: int
    lr: float
    batch: Any
    scale: Callable[[], float] | None = None


@dataclass(frozen=True, eq=False)
class Judged:
    """A batch that was judged: its losses, where it was, and whether it completes an optimiser step."""

    losses: dict[str, Tensor]
    place: Place
    steps: bool = False


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
    """Watches every batch without waiting for the device: it is judged on the device, and read one batch later.

    Gradients add up over some batches to an optimiser step, which is skipped, and counted, as a whole.
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
        self.pending: tuple[Verdict, Judged] | None = None
        self.culprit: Judged | None = None
        self.bad: Tensor | None = None
        self.in_a_row = 0
        self.skipped = 0

    def before(self) -> None:
        """Remember the batch statistics, which a NaN in the forward pass would spoil for good."""
        if self.buffers:  # VGG16 has none
            torch._foreach_copy_(self.saved, self.buffers)

    def after_backward(self, losses: dict[str, Tensor], place: Place) -> None:
        """Judge a batch's losses and give the statistics back if they are not finite; reports on the batch before."""
        self.report()
        values = torch.stack([value.detach() for value in losses.values()])
        bad = self.over_ranks((~values.isfinite().all()).float()) > 0
        for buffer, saved in zip(self.buffers, self.saved, strict=True):
            buffer.copy_(torch.where(bad, saved, buffer))
        self.bad = bad if self.bad is None else self.bad | bad
        self.pending = (Verdict(bad), Judged(losses, place))

    def before_step(self, optimizer: torch.optim.Optimizer, norm: Tensor | None) -> None:
        """Let the optimiser skip the update, on the device, if a loss since the last or the norm was not finite.

        Without a `norm` it is left to a float16 scaler, which skips steps itself while it looks for its scale: only a
        bad loss counts there.
        """
        assert self.bad is not None  # before_step follows after_backward
        assert self.pending is not None
        bad = self.bad if norm is None else self.bad | ~norm.isfinite()
        self.pending = (Verdict(bad), replace(self.pending[1], steps=True))
        if norm is not None:
            optimizer.found_inf = bad.float()  # type: ignore[attr-defined]
        self.bad = None

    def report(self) -> None:
        """Read the verdict on the last batch; DivergedError after `patience` optimiser steps in a row were skipped."""
        if self.pending is None:
            return
        (verdict, judged), self.pending = self.pending, None
        if verdict.read():
            self.culprit = self.culprit or judged
        if judged.steps:
            self._count(self.culprit)
            self.culprit = None

    def _count(self, culprit: Judged | None) -> None:
        """Count an optimiser step, with the first batch that spoilt it."""
        if culprit is None:
            self.in_a_row = 0
            return
        self.in_a_row += 1
        self.skipped += 1
        message = self._message(culprit.losses, culprit.place)
        if self.in_a_row >= self.patience:
            raise DivergedError(
                f"{message}; {self.in_a_row} steps in a row: stopped. The batch is kept in "
                f"{self.keep(culprit.place.batch)}, the last good weights are untouched. Try a lower --set lr0, or "
                "--amp off"
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
