"""One epoch of training."""

import math
import random
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional

from alignyolo.targets import Targets
from engine.batches import to_device
from engine.train.divergence import Guard, Place
from engine.train.epoch_report import EpochReport
from utils.optim import Schedule, apply_settings

# --multi-scale varies the sides of a batch by these factors.
SMALLEST, LARGEST = 0.5, 1.5
# From this many strides a side on the scaled size is rounded up: 256 px for YOLOv3.
MANY_STRIDES = 8


def autocast(device: torch.device, dtype: torch.dtype | None):
    """Return the autocast context of a step, or none for full precision."""
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def resized(images: Tensor, targets: Targets, size: tuple[int, int]) -> tuple[Tensor, Targets]:
    """Return the batch scaled to another (height, width)."""
    height, width = images.shape[-2:]
    images = functional.interpolate(images, size=size, mode="bilinear", align_corners=False)
    scale = targets.boxes.new_tensor([size[1] / width, size[0] / height]).repeat(2)
    return images, targets._replace(boxes=targets.boxes * scale)


def scaled_size(size: tuple[int, int], factor: float, stride: int) -> tuple[int, int]:
    """Return a (height, width) times a factor in whole strides: the nearest, or the next above where a side has many.

    Rounding up favours large sizes by half a stride. That is a fortieth of 640 px, and what every run there has drawn
    so far; of 64 px it is a quarter, and 32 px would never be drawn.
    """
    height, width = (_whole_strides(side / stride, factor) * stride for side in size)
    return height, width


def _whole_strides(count: float, factor: float) -> int:
    """Return how many strides `factor` makes of `count`."""
    return max(math.ceil(count * factor) if count >= MANY_STRIDES else round(count * factor), 1)


def largest_size(size: tuple[int, int], stride: int) -> tuple[int, int]:
    """Return the largest (height, width) that --multi-scale makes of a batch."""
    return scaled_size(size, LARGEST, stride)


def multi_scale_sizes(stride: int, seed: int) -> Callable[[int, tuple[int, int]], tuple[int, int]]:
    """Make a function of step and (height, width) that draws a size from half to 1.5 times it, in strides."""

    def size_at(step: int, size: tuple[int, int]) -> tuple[int, int]:
        return scaled_size(size, random.Random(f"{seed} {step}").uniform(SMALLEST, LARGEST), stride)

    return size_at


def train_one_epoch(
    detector: nn.Module,
    batches: Iterable,
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    epoch: int,
    report: EpochReport,
    guard: Guard,
    *,
    device: torch.device,
    dtype: torch.dtype | None = None,
    scaler: torch.amp.GradScaler | None = None,
    grad_clip: float = 0.0,
    ranks: int = 1,
    size_at: Callable[[int, tuple[int, int]], tuple[int, int]] | None = None,
    after_step: Callable[[], None] = lambda: None,
    after_batch: Callable[[EpochReport, object], None] = lambda report, batch: None,
) -> None:
    """Train on every batch once; raises DivergedError when the guard has seen too many steps that are not finite.

    With several `ranks` (processes), each trains on its share of the images; their gradients are averaged.
    `after_step` follows each optimiser step (the weight average), `after_batch` each batch (progress, pictures).
    """
    scaler = scaler or torch.amp.GradScaler(enabled=False)
    scale = scaler.get_scale if scaler.is_enabled() else None
    last = schedule.steps_per_epoch - 1
    waiting = 0
    for index, batch in enumerate(batches):
        step = epoch * schedule.steps_per_epoch + index
        settings = schedule.at(step)
        images, targets = to_device(batch, device)
        if size_at is not None:
            images, targets = resized(images, targets, size_at(step, (images.shape[-2], images.shape[-1])))

        guard.before()
        with autocast(device, dtype):
            losses = detector(images, targets)
        # Gradients add up over the images of the nominal batch, as lr0 and the gains expect; ranks average theirs.
        loss = sum(losses.values()) * len(images) * ranks
        scaler.scale(loss).backward()
        report.add(losses, len(images))
        guard.after_backward(losses, Place(epoch, index, settings.lr, batch, scale))

        waiting += 1
        if waiting >= settings.accumulate or index == last:
            apply_settings(optimizer, settings)
            update(optimizer, scaler, grad_clip, guard)
            after_step()
            waiting = 0
        after_batch(report, batch)
    guard.report()


def update(optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, grad_clip: float, guard: Guard) -> None:
    """Clip the norm of all gradients to `grad_clip` (0 = not at all), step, and clear them."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    norm = None
    if grad_clip > 0:
        scaler.unscale_(optimizer)
        norm = nn.utils.clip_grad_norm_(parameters, grad_clip)
    elif not scaler.is_enabled():
        norm = gradient_norm(parameters)
    guard.before_step(optimizer, None if scaler.is_enabled() else norm)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)


def gradient_norm(parameters: Sequence[nn.Parameter]) -> Tensor:
    """Return the norm of all gradients together."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return torch.stack(torch._foreach_norm(gradients)).norm()
