"""Optimiser, parameter groups and the schedule of learning rate, momentum and accumulation."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn


def build_optimizer(kind: str, network: nn.Module, lr: float, momentum: float, decay: float) -> torch.optim.Optimizer:
    """Return SGD with Nesterov momentum or AdamW; only convolution weights decay."""
    biases, weights, norms = [], [], []
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            if name == "bias":
                biases.append(parameter)
            elif isinstance(module, (nn.BatchNorm2d, nn.SyncBatchNorm)):
                norms.append(parameter)
            else:
                weights.append(parameter)
    groups = [
        {"params": biases, "weight_decay": 0.0, "group": "bias"},
        {"params": weights, "weight_decay": decay, "group": "weight"},
        {"params": norms, "weight_decay": 0.0, "group": "norm"},
    ]
    groups = [group for group in groups if group["params"]]
    # The fused kernels can skip a step on the device (engine/train/divergence.py), besides being faster.
    if kind == "adamw":
        return torch.optim.AdamW(groups, lr=lr, betas=(momentum, 0.999), fused=True)
    optimizer = torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=momentum > 0, fused=True)
    if momentum > 0:
        # torch makes these at the first step, without values if it is the one to skip.
        for parameter in (each for group in optimizer.param_groups for each in group["params"]):
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


class StepSettings(NamedTuple):
    """What one training step uses."""

    lr: float
    bias_lr: float
    momentum: float
    accumulate: int


@dataclass(frozen=True)
class Schedule:
    """Learning rate, momentum and accumulation as a pure function of the step: a warm-up, then decay by epochs.

    In the warm-up the learning rate rises from 0 (biases: falls from `warmup_bias_lr`), and the accumulation from
    one batch to the nominal batch. The decay is `linear` or `cosine`, down to `lrf`, or in `steps`: by the factor
    `drop` after each number of epochs in `milestones`.
    """

    steps_per_epoch: int
    epochs: int
    lr0: float
    lrf: float
    decay_shape: str
    momentum: float
    warmup_epochs: float
    warmup_momentum: float
    warmup_bias_lr: float
    accumulate: float
    milestones: tuple[int, ...] = ()
    drop: float = 0.1
    warmup_limit: int | None = None

    @property
    def warmup_steps(self) -> int:
        """Steps of the warm-up: at least 100 of them, but never more than half of the run; 0 where it is off.

        Nor more than `warmup_limit`, those that a run had planned before it was given more epochs.
        """
        if self.warmup_epochs == 0:
            return 0
        steps = max(round(self.warmup_epochs * self.steps_per_epoch), 100)
        half = self.epochs * self.steps_per_epoch // 2
        return min(steps, half if self.warmup_limit is None else min(half, self.warmup_limit))

    def decay(self, epoch: int) -> float:
        """Return the factor on lr0 in an epoch."""
        if self.decay_shape == "steps":
            return self.drop ** sum(epoch >= milestone for milestone in self.milestones)
        progress = epoch / self.epochs
        left = (1 + math.cos(math.pi * progress)) / 2 if self.decay_shape == "cosine" else 1 - progress
        return left * (1 - self.lrf) + self.lrf

    def at(self, step: int) -> StepSettings:
        """Return the settings of a step, counted from the start of the run."""
        lr = self.lr0 * self.decay(step // self.steps_per_epoch)
        accumulate = max(round(self.accumulate), 1)
        if step >= self.warmup_steps:
            return StepSettings(lr, lr, self.momentum, accumulate)
        warm = step / self.warmup_steps
        return StepSettings(
            lr=lr * warm,
            bias_lr=self.warmup_bias_lr + (lr - self.warmup_bias_lr) * warm,
            momentum=self.warmup_momentum + (self.momentum - self.warmup_momentum) * warm,
            accumulate=max(round(1 + (self.accumulate - 1) * warm), 1),
        )

    def describe(self) -> str:
        """Return the learning rate over the run, in a few words."""
        if self.decay_shape != "steps":
            return f"lr {self.lr0:g}, {self.decay_shape} to {self.lr0 * self.lrf:g} over {self.epochs} epochs"
        after = " and ".join(str(milestone) for milestone in self.milestones if milestone < self.epochs)
        falls = f"times {self.drop:g} after epoch {after}" if after else "the same in all"
        return f"lr {self.lr0:g}, {falls} of {self.epochs} epochs"


def apply_settings(optimizer: torch.optim.Optimizer, settings: StepSettings) -> None:
    """Write a step's learning rates and momentum into the optimiser's groups."""
    for group in optimizer.param_groups:
        group["lr"] = settings.bias_lr if group["group"] == "bias" else settings.lr
        if "betas" in group:
            group["betas"] = (settings.momentum, group["betas"][1])
        else:
            group["momentum"] = settings.momentum
