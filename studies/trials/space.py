"""What a search tries: keys of train.py's configuration, each with its range or its choices."""

import itertools
import re
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from engine.settings.configure import plan_run
from engine.settings.used_settings import Choices, readers_of, unread
from studies.comparison.recipe import OWN_FLAGS, as_flags
from train import parse_flags as train_flags
from utils.config.knobs import Config, Hyperparameters, ModelConfig, RunConfig, TorchvisionConfig, checked
from utils.errors import UserError, nearest, printable

SETTINGS = (Hyperparameters, ModelConfig, TorchvisionConfig)
NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
RANGE = re.compile(rf"({NUMBER})\.\.({NUMBER})(:log)?")
MAX_COMBINATIONS = 1000


class Suggester(typing.Protocol):
    """What a trial of Optuna offers."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """Choose a number."""

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        """Choose a whole number."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Choose one of several values."""


@dataclass(frozen=True)
class Dimension:
    """One key: its choices, or the two ends of its range."""

    key: str
    choices: tuple[Any, ...] = ()
    low: float = 0
    high: float = 0
    log: bool = False
    whole: bool = False

    def suggest(self, trial: Suggester) -> Any:
        """Let a trial choose a value."""
        if self.choices:
            return trial.suggest_categorical(self.key, self.choices)
        if self.whole:
            return trial.suggest_int(self.key, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(self.key, self.low, self.high, log=self.log)

    def holds(self, value: Any) -> bool:
        """Say whether a value is one that the search could try."""
        if self.choices:
            return value in self.choices
        return isinstance(value, (int, float)) and self.low <= value <= self.high


def read_space(searches: Sequence[str]) -> tuple[Dimension, ...]:
    """Read KEY=LOW..HIGH, KEY=LOW..HIGH:log and KEY=A,B,C, choices first; UserError for a mistake."""
    dimensions = [read_dimension(text) for text in searches]
    keys = [each.key for each in dimensions]
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice:
        raise UserError(f"--search: {twice} stands there twice")
    return tuple(sorted(dimensions, key=lambda each: not each.choices))


def read_dimension(text: str) -> Dimension:
    """Read one key with what to try; UserError where the key is unknown or a value is not in its range."""
    key, equals, values = text.partition("=")
    where = f"--search {printable(text)}"
    kind = next((kind for kind in (*SETTINGS, RunConfig) if key in names_of(kind)), None)
    if kind is None or key in OWN_FLAGS:
        known = [name for each in (*SETTINGS, RunConfig) for name in names_of(each) if name not in OWN_FLAGS]
        raise UserError(f"--search: unknown key {printable(key)!r}{nearest(key, known)}")
    if not equals or not values:
        raise UserError(f"{where}: expected KEY=LOW..HIGH, KEY=LOW..HIGH:log or KEY=A,B,C")
    found = RANGE.fullmatch(values)
    if not found:
        if ".." in values:
            raise UserError(f"{where}: expected two numbers, such as {key}=0.1..0.5 or {key}=0.001..0.1:log")
        return Dimension(key, tuple(single(checked(kind, {key: value}, where)[key]) for value in values.split(",")))
    low, high = (checked(kind, {key: end}, where)[key] for end in found.group(1, 2))
    if isinstance(low, bool) or not isinstance(low, (int, float)):
        raise UserError(f"{where}: {key} is no number; expected {key}=A,B,C")
    log = bool(found.group(3))
    if low >= high or (log and low <= 0):
        raise UserError(f"{where}: expected a low end below the high one{', both above 0 for :log' if log else ''}")
    return Dimension(key, (), low, high, log, isinstance(low, int))


def single(value: Any) -> Any:
    """Return the number of a list that has one, such as the side of --imgsz 320; anything else as it is."""
    return value[0] if isinstance(value, tuple) and len(value) == 1 else value


def names_of(kind: type) -> list[str]:
    """List the fields of a dataclass."""
    return [each.name for each in fields(kind)]


def as_arguments(settings: Mapping[str, Any]) -> list[str]:
    """Turn settings into arguments of train.py."""
    own = {key: value for key, value in settings.items() if key in names_of(RunConfig)}
    others = [part for key, value in settings.items() if key not in own for part in ("--set", f"{key}={value}")]
    return [*as_flags(own, "--search"), *others]


def config_of(shared: Sequence[str], settings: Mapping[str, Any]) -> Config:
    """Resolve the configuration of a run with these settings; UserError where train.py would refuse it.

    Settings that other settings leave unread have to be left out before.
    """
    return plan_run(train_flags([*shared, *as_arguments(settings)])).config


def choose(space: Sequence[Dimension], trial: Suggester, shared: Sequence[str]) -> dict[str, Any]:
    """Let a trial choose a value of every key that the run reads with the choices made before it."""
    settings: dict[str, Any] = {}
    for dimension in space:
        if is_read(dimension.key, settings, shared):
            settings[dimension.key] = dimension.suggest(trial)
    return settings


def is_read(key: str, settings: Mapping[str, Any], shared: Sequence[str]) -> bool:
    """Say whether a run with these settings would read a key."""
    if key in names_of(RunConfig) and key != "close_mosaic":
        return True
    config = config_of(shared, settings)
    return not unread([key], Choices(config.run, config.model, config.hyper))


def check_space(space: Sequence[Dimension], shared: Sequence[str]) -> None:
    """Raise UserError for a combination of choices that train.py refuses, and for a key that none of them reads."""
    chosen = [each for each in space if each.choices]
    combinations = itertools.product(*(each.choices for each in chosen))
    read: set[str] = set()
    for values in itertools.islice(combinations, MAX_COMBINATIONS):
        settings: dict[str, Any] = {}
        for dimension, value in zip(chosen, values, strict=True):
            if is_read(dimension.key, settings, shared):
                settings[dimension.key] = value
        config_of(shared, settings)
        read |= settings.keys() | {each.key for each in space if is_read(each.key, settings, shared)}
    for dimension in space:
        if dimension.key not in read:
            raise UserError(f"--search {dimension.key}: no run reads it; it is read by {readers_of(dimension.key)}")


def start_of(space: Sequence[Dimension], shared: Sequence[str]) -> dict[str, Any]:
    """Find what the flags without the search say of the keys, as far as the search could try it: the first trial."""
    config = config_of(shared, {})
    values = {**vars(config.run), **vars(config.model), **vars(config.hyper)}
    return {each.key: single(values[each.key]) for each in space if each.holds(single(values.get(each.key)))}
