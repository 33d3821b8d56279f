"""Which settings the chosen parts of a run read: one that nothing reads would fake "no difference" in a comparison.

A key that is given by `--set`, a flag or a comparison's variant and that no chosen part reads is an error; in a `--hyp`
file, which may be made for several parts, it is a warning. Similarities, metrics and assigners declare their keys in
alignyolo/registry.py, families in models/families.py; what depends on a value stands here.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, fields
from typing import NamedTuple

from alignyolo.registry import METRICS, SIMILARITIES
from engine.settings.epochs import closing_epochs
from models.families import FAMILIES, family_of
from utils.config.knobs import Hyperparameters, ModelConfig, RunConfig, TorchvisionConfig
from utils.errors import UserError


class Choices(NamedTuple):
    """The resolved settings of a run; `classes` are those of its data set, 0 before it is opened."""

    run: RunConfig
    model: ModelConfig | TorchvisionConfig
    hyper: Hyperparameters
    classes: int = 0

    @property
    def schedule(self) -> str:
        """Return the schedule of the learning rate; `--cos-lr` decides over `lr_schedule`."""
        return "cosine" if self.run.cos_lr else self.hyper.lr_schedule

    @property
    def may_have_mosaics(self) -> bool:
        """Return whether a run has epochs in which images may be mosaics."""
        return not self.run.rect and closing_epochs(self.run) < self.run.epochs

    @property
    def has_single_photos(self) -> bool:
        """Return whether some images of a run are no mosaic."""
        return self.hyper.mosaic < 1 or self.run.rect or closing_epochs(self.run) > 0


@dataclass(frozen=True)
class Reader:
    """A part of a run with the keys that it reads, and whether a run has that part; `title` names it in messages."""

    title: str
    keys: frozenset[str]
    takes_part: Callable[[Choices], bool]


# What every run reads: optimiser and gains, the choices themselves, and the augmentation of single photos.
_OPTIMISER = {"lr0", "momentum", "weight_decay", "warmup_epochs", "nominal_batch", "grad_clip", "ema_decay", "ema_tau"}
_CHOSEN = {"box", "box_gain_match", "box_loss", "assigner", "ggiou_gamma", "cpu_kernels", "repeat_threshold"}
_PHOTOS = {"hsv_h", "hsv_s", "hsv_v", "degrees", "translate", "scale", "shear", "perspective", "flipud", "fliplr"}
_WINDOWS = {"zoom_out", "iou_crop"}


def readers() -> Iterator[Reader]:
    """Yield every part that a run can have."""
    yield Reader("every run", frozenset(_OPTIMISER | _CHOSEN | _PHOTOS), lambda chosen: True)
    yield from _schedules()
    yield from _augmentation()
    yield from _models()
    for name, entry in SIMILARITIES.items():
        yield Reader(f"--loss {name}", frozenset(entry.keys.values()), _has_loss(name))
    yield Reader("--loss smooth_l1", frozenset({"smooth_l1_beta"}), _has_loss("smooth_l1"))
    yield Reader("ggiou_gamma above 0", frozenset({"ggiou_wloc", "balance_metric"}), _is_balanced)
    for name, entry in METRICS.items():
        title = f"ggiou_gamma above 0 with balance_metric {name}"
        yield Reader(title, frozenset(entry.keys.values()), _is_balanced_by(name))
    for family in FAMILIES.values():
        yield Reader(family.title, family.keys, _is_family(family.title))
        several = f"{family.title} with several classes"
        yield Reader(several, family.class_keys, _has_classes(family.title))
        for name, entry in family.assigners.items():
            title = f"--assign {name} of {family.title}"
            yield Reader(title, frozenset(entry.keys.values()), _has_assigner(family.title, name))


def _schedules() -> Iterator[Reader]:
    yield Reader("lr_schedule linear and cosine", frozenset({"lrf"}), lambda chosen: chosen.schedule != "steps")
    yield Reader("lr_schedule steps", frozenset({"lr_steps", "lr_drop"}), lambda chosen: chosen.schedule == "steps")
    yield Reader("a run without --cos-lr", frozenset({"lr_schedule"}), lambda chosen: not chosen.run.cos_lr)
    warm_up = frozenset({"warmup_momentum", "warmup_bias_lr"})
    yield Reader("warmup_epochs above 0", warm_up, lambda chosen: chosen.hyper.warmup_epochs > 0)


def _augmentation() -> Iterator[Reader]:
    title = "a run without --rect with epochs before those of --close-mosaic"
    yield Reader(title, frozenset({"mosaic"}), lambda chosen: chosen.may_have_mosaics)
    made = frozenset({"mixup", "mosaic_from"})
    title = "mosaic above 0 without --rect, with epochs before those of --close-mosaic"
    yield Reader(title, made, lambda chosen: chosen.hyper.mosaic > 0 and chosen.may_have_mosaics)
    closing = frozenset({"close_mosaic"})
    title = "mosaic above 0 without --rect"
    yield Reader(title, closing, lambda chosen: chosen.hyper.mosaic > 0 and not chosen.run.rect)
    title = "a run with images that are no mosaic (mosaic below 1, --rect, or last epochs by --close-mosaic)"
    yield Reader(title, frozenset(_WINDOWS), lambda chosen: chosen.has_single_photos)


def _models() -> Iterator[Reader]:
    own = {each.name for each in fields(ModelConfig)} - {"xy_reach", "pool_padding", "anchors"}
    yield Reader("YOLOv3's model YAMLs", frozenset(own), lambda chosen: isinstance(chosen.model, ModelConfig))
    yield Reader("YOLOv3's model YAMLs without --autoanchor", frozenset({"anchors"}), _has_given_anchors)
    theirs = frozenset(each.name for each in fields(TorchvisionConfig))
    yield Reader("torchvision's model YAMLs", theirs, lambda chosen: isinstance(chosen.model, TorchvisionConfig))
    yield Reader("decode bounded", frozenset({"xy_reach"}), lambda chosen: _model_has(chosen, "decode", "bounded"))
    padded = frozenset({"pool_padding"})
    yield Reader("backbone darknet_tiny", padded, lambda chosen: _model_has(chosen, "backbone", "darknet_tiny"))


def _model_has(chosen: Choices, key: str, value: str) -> bool:
    return getattr(chosen.model, key, None) == value


def _has_given_anchors(chosen: Choices) -> bool:
    return isinstance(chosen.model, ModelConfig) and not chosen.run.autoanchor


def _has_classes(title: str) -> Callable[[Choices], bool]:
    return lambda chosen: family_of(chosen.model).title == title and chosen.classes != 1


def _has_loss(name: str) -> Callable[[Choices], bool]:
    return lambda chosen: chosen.hyper.box_loss == name


def _is_balanced(chosen: Choices) -> bool:
    return chosen.hyper.ggiou_gamma > 0


def _is_balanced_by(metric: str) -> Callable[[Choices], bool]:
    return lambda chosen: _is_balanced(chosen) and chosen.hyper.balance_metric == metric


def _is_family(title: str) -> Callable[[Choices], bool]:
    return lambda chosen: family_of(chosen.model).title == title


def _has_assigner(title: str, name: str) -> Callable[[Choices], bool]:
    return lambda chosen: family_of(chosen.model).title == title and chosen.hyper.assigner == name


def unread(keys: Collection[str], chosen: Choices) -> list[str]:
    """Return the keys, in their order, that no part of the run reads."""
    read = frozenset().union(*(reader.keys for reader in readers() if reader.takes_part(chosen)))
    return [key for key in keys if key not in read]


def readers_of(key: str) -> str:
    """Name the parts that read a key."""
    return " or ".join(reader.title for reader in readers() if key in reader.keys)


def require_read(keys: Collection[str], chosen: Choices) -> None:
    """Raise UserError for the first key that was given and that no part of the run reads, and say what would."""
    for key in unread(keys, chosen):
        flag = f"--{key.replace('_', '-')}" if key in {each.name for each in fields(RunConfig)} else f"--set {key}"
        raise UserError(f"{flag}: nothing in this run reads it; it is read by {readers_of(key)}")


def note_of_unread(keys: Collection[str], chosen: Choices, where: str) -> str:
    """Say in one line which keys of a hyperparameter file no part of the run reads; empty where all are read."""
    idle = unread(keys, chosen)
    return f"note: {where}: nothing in this run reads {', '.join(idle)}" if idle else ""
