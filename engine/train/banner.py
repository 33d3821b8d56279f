"""What a run prints at its start and at its end."""

import dataclasses
import textwrap
from pathlib import Path
from typing import Any

import torch

from data.data_yaml import DataSpec
from data.labels.index import LabelIndex
from engine.settings.epochs import closing_epochs
from utils.config.knobs import Config, RunConfig, plain
from utils.errors import printable
from utils.optim import Schedule


def _settings(title: str, config: Any, skip: tuple[str, ...] = ()) -> str:
    """Return a config dataclass as wrapped `key=value` text; a star marks what differs from the default."""
    defaults = {each.name: each.default for each in dataclasses.fields(config)}
    pairs = [
        f"{name}={printable(value)}" + ("*" if getattr(config, name) != defaults[name] else "")
        for name, value in plain(config).items()
        if name not in skip
    ]
    return textwrap.fill("  ".join(pairs), 116, initial_indent=f"{title:<7}", subsequent_indent=" " * 7)


def epochs_line(config: Config) -> str:
    """Say how many epochs there are, and how many of them see whole photos after those with mosaics."""
    epochs, closing = config.run.epochs, closing_epochs(config.run)
    if not config.hyper.mosaic or config.run.rect or not closing:
        return str(epochs)
    if closing >= epochs:
        return f"{epochs}, all without mosaic (--close-mosaic)"
    return f"{epochs}, the last {closing} without mosaic (--close-mosaic)"


def banner(
    config: Config,
    data: DataSpec,
    train_index: LabelIndex,
    val_index: LabelIndex,
    device: torch.device,
    dtype: torch.dtype | None,
    workers: int,
    folder: Path,
    schedule: Schedule,
) -> str:
    """Return the resolved config of a run in one block, the loss and the assignment first."""
    hyper = config.hyper
    gains = f"gains box {hyper.box:g} obj {hyper.obj:g} cls {hyper.cls:g}"
    precision = str(dtype).removeprefix("torch.") + " autocast" if dtype else "float32"
    lines = [
        f"loss   box_loss={hyper.box_loss}  obj_target={hyper.obj_target}  assigner={hyper.assigner}  {gains}",
        f"data   {printable(data.shown)}: {len(train_index)} training and {len(val_index)} validation images, "
        f"{len(train_index.labels)} and {len(val_index.labels)} boxes, {data.num_classes} classes",
        f"rate   {config.run.optimizer}, {schedule.describe()}; {schedule.warmup_steps} of "
        f"{schedule.steps_per_epoch * schedule.epochs} batches are warm-up",
        _settings("model", config.model),
        _settings("run", config.run),
        _settings("hyper", hyper),
        f"epochs {epochs_line(config)}",
        f"device {device}, {precision}, {torch.get_num_threads()} threads, {workers} loading processes; "
        "* marks what differs from the default",
        f"folder {printable(folder)}",
        "words  what the lines below mean: docs/concepts/glossary.md",
    ]
    return "\n".join(lines)


def next_steps(folder: Path, config: Config) -> str:
    """Return what a person can do with the run that just ended."""
    best = folder / "weights" / "best.pt"
    other = "giou" if config.hyper.box_loss != "giou" else "sca"
    made = ("results.png", "val_batch0.jpg") if config.run.plots else ("results.csv", "metrics.csv")
    cfg = "" if config.run.cfg == RunConfig.cfg else f" --cfg {printable(config.run.cfg)}"
    return "\n".join(
        [
            "next:",
            f"  look          {' and '.join(str(folder / name) for name in made)}",
            f"  validate      python val.py --weights {best}",
            f"  another loss  python train.py --data {printable(config.run.data)}{cfg} --loss {other}",
            "  own photos    python train.py --data path/to/them   (README: Train on your own photos)",
        ]
    )
