"""What a search tries: keys of train.py's configuration, each with its range or its choices."""

import contextlib
import copy
import itertools
import re
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from engine.settings.configure import choices_of, overrides_of, plan_run
from engine.settings.used_settings import Choices, readers_of, unread
from studies.comparison.recipe import OWN_FLAGS, as_flags
from train import parse_flags as train_flags
from utils.config.knobs import Config, Hyperparameters, ModelConfig, RunConfig, TorchvisionConfig, checked
from utils.errors import UserError, nearest, printable

SETTINGS = (Hyperparameters, ModelConfig, TorchvisionConfig)
# What decides on which photos and labels runs are measured: with different ones their scores say nothing of each other.
MEASURED = ("data", "data_root", "val", "max_pixels", "bad_labels")
NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
RANGE = re.compile(rf"({NUMBER})\.\.({NUMBER})(:log)?")
MAX_COMBINATIONS = 1000
MAX_ENDS = 81  # of four ranges with both ends and without


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
    if key in MEASURED:
        raise UserError(
            f"{where}: {key} decides on which photos or labels a run is measured, so that runs could not be compared: "
            f"expected one --{key.replace('_', '-')} for all"
        )
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
    """Let a trial choose a value of every key that the run reads with its other choices."""
    by_key = {each.key: each for each in space}
    return settled(list(by_key), lambda key: by_key[key].suggest(trial), shared)


def settled(keys: Sequence[str], ask: Callable[[str], Any], shared: Sequence[str]) -> dict[str, Any]:
    """Ask for the value of every key that a run with the other values reads, whatever the order of the keys."""
    settings: dict[str, Any] = {}
    classes = class_count(shared)
    count = -1
    while len(settings) > count:  # what a later key makes readable had been passed over
        count = len(settings)
        for key in keys:
            if key not in settings and read_of([key], settings, shared, classes):
                settings[key] = ask(key)
    kept = read_of(settings, settings, shared, classes)
    while len(kept) < len(settings):
        settings = {key: settings[key] for key in kept}
        kept = read_of(settings, settings, shared, classes)
    return settings


def is_read(key: str, settings: Mapping[str, Any], shared: Sequence[str]) -> bool:
    """Say whether a run with these settings would read a key."""
    return bool(read_of([key], settings, shared, class_count(shared)))


def class_count(shared: Sequence[str]) -> int:
    """Return how many classes the data set of a run has."""
    return len(config_of(shared, {}).names)


def read_of(keys: Collection[str], settings: Mapping[str, Any], shared: Sequence[str], classes: int) -> list[str]:
    """List those of the keys that a run with these settings would read."""
    return read_by(keys, half_set(shared, settings, classes))


def read_by(keys: Collection[str], chosen: Choices) -> list[str]:
    """List those of the keys that a run with these choices would read."""
    flags = {key for key in names_of(RunConfig) if key != "close_mosaic"}
    missed = unread([key for key in keys if key not in flags], chosen)
    return [key for key in keys if key not in missed]


def half_set(shared: Sequence[str], settings: Mapping[str, Any], classes: int) -> Choices:
    """Resolve settings that others may still join; where one contradicts what its partner is now, without that one.

    A low end above the default of its high end is right as soon as the high end is chosen too.
    """
    for left_out in (None, *settings):
        kept = {key: value for key, value in settings.items() if key != left_out}
        flags = train_flags([*shared, *as_arguments(kept)])
        with contextlib.suppress(UserError):
            return choices_of(flags, overrides_of(flags))._replace(classes=classes)
    flags = train_flags(shared)
    return choices_of(flags, overrides_of(flags))._replace(classes=classes)


def check_space(space: Sequence[Dimension], shared: Sequence[str]) -> None:
    """Raise UserError for a choice that train.py refuses beside all others, and for a key that no run reads."""
    classes = class_count(shared)  # what is wrong without the search is no choice's mistake
    chosen, ranges = ([each for each in space if bool(each.choices) == wanted] for wanted in (True, False))
    combinations = itertools.product(*(each.choices for each in chosen))
    read: set[str] = set()
    accepted: list[tuple[dict[str, Any], Choices]] = []
    taken: set[tuple[str, Any]] = set()
    refused: dict[tuple[str, Any], UserError] = {}
    for values in itertools.islice(combinations, MAX_COMBINATIONS):
        fixed = {each.key: value for each, value in zip(chosen, values, strict=True)}
        settings = settled(list(fixed), fixed.__getitem__, shared)
        error = refusal(settings, ranges, shared)
        if error:
            refused |= {pair: error for pair in settings.items() if pair not in refused}
        else:
            taken |= set(settings.items())
            resolved = half_set(shared, settings, classes)
            read.update(settings, read_by([each.key for each in space], resolved))
            left_out = {key: value for key, value in fixed.items() if key not in settings}
            accepted.append((left_out, resolved))
    for pair, error in refused.items():
        if pair not in taken:
            raise error
    missed = [each.key for each in space if each.key not in read]
    for left_out, resolved in accepted:
        if missed:
            missed = unread_at_ends(missed, ranges, left_out, resolved)
    if missed:
        raise UserError(f"--search {missed[0]}: no run reads it; it is read by {readers_of(missed[0])}")


def unread_at_ends(
    keys: Collection[str], ranges: Sequence[Dimension], left_out: Mapping[str, Any], resolved: Choices
) -> list[str]:
    """List those of the keys that a run reads at no ends of the ranges, with the choices that are unread without them.

    Many ranges are taken at their low ends together and at their high ones, then in the order of the ends.
    """
    corners = [[each.low for each in ranges], [each.high for each in ranges]]
    missed = list(keys)
    for ends in itertools.islice(
        itertools.chain(corners, itertools.product(*((each.low, each.high) for each in ranges))), MAX_ENDS
    ):
        values = {**left_out, **{each.key: end for each, end in zip(ranges, ends, strict=True)}}
        read = read_by(missed, with_values(resolved, values))
        missed = [key for key in missed if key not in read]
    return missed


def with_values(resolved: Choices, values: Mapping[str, Any]) -> Choices:
    """Return the choices of a run with other values, unchecked: ends that contradict each other say what is read."""
    parts = {}
    for name in ("run", "model", "hyper"):
        parts[name] = copy.copy(getattr(resolved, name))
        vars(parts[name]).update({key: value for key, value in values.items() if hasattr(parts[name], key)})
    return resolved._replace(**parts)


def refusal(settings: Mapping[str, Any], ranges: Sequence[Dimension], shared: Sequence[str]) -> UserError | None:
    """Return why train.py refuses settings whatever is chosen of the ranges, as far as their ends show it."""
    first = None
    for ends in itertools.islice(itertools.product(*((None, each.low, each.high) for each in ranges)), MAX_ENDS):
        joined = {each.key: end for each, end in zip(ranges, ends, strict=True) if end is not None}
        try:
            config_of(shared, {**settings, **joined})
            return None
        except UserError as error:
            first = first or error
    return first


def present_values(space: Sequence[Dimension], shared: Sequence[str]) -> dict[str, Any]:
    """Find what the flags without the search say of the keys that such a run reads."""
    config = config_of(shared, {})
    values = {**vars(config.run), **vars(config.model), **vars(config.hyper)}
    return {key: single(values[key]) for key in read_of([each.key for each in space], {}, shared, len(config.names))}


def out_of_reach(space: Sequence[Dimension], shared: Sequence[str]) -> dict[str, Any]:
    """Find the keys whose present value the search cannot try: no trial has the settings without a search then."""
    values = present_values(space, shared)
    return {each.key: values[each.key] for each in space if each.key in values and not each.holds(values[each.key])}
