"""Where a run's configuration comes from: defaults < YAML files < `--set` and flags."""

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from utils.config.foreign_hyp import translated
from utils.config.knobs import Hyperparameters, ModelConfig, TorchvisionConfig, build, checked, model_kind
from utils.config.model_shape import checked_model
from utils.config.yaml_file import find_yaml, read_mapping
from utils.errors import UserError, nearest, printable

ROOT = Path(__file__).resolve().parents[2]
MODELS, HYPS, DATA = ROOT / "models", ROOT / "data" / "hyps", ROOT / "data"


def parse_settings(settings: Sequence[str]) -> dict[str, Any]:
    """Return `key=value` strings as a mapping, values read as YAML.

    UserError with the nearest name for an unknown key.
    """
    known = {
        each.name for kind in (Hyperparameters, ModelConfig, TorchvisionConfig) for each in dataclasses.fields(kind)
    }
    values = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise UserError(f"--set {printable(setting)!r}: expected key=value")
        if key not in known:
            raise UserError(f"--set: unknown key {printable(key)!r}{nearest(key, known)}")
        try:
            values[key] = yaml.safe_load(text)
        except yaml.YAMLError:
            values[key] = text
    return values


def hyperparameters(hyp: str, overrides: Mapping[str, Any], base: str = "") -> Hyperparameters:
    """Return the hyperparameters of a YAML over those of `base` (defaults for ""), with overrides.

    Keys of ultralytics that mean nothing here only warn.
    """
    values: dict[str, Any] = {}
    where = "--set"
    for name in filter(None, (base, hyp)):
        path = find_yaml(name, HYPS, "hyperparameter YAML")
        where = str(path)
        ours, notes = translated(read_mapping(path), where)
        for note in notes:
            print(f"note: {where}: {note}", file=sys.stderr)
        values |= checked(Hyperparameters, ours, where)
    given = checked(Hyperparameters, _only(Hyperparameters, overrides), "--set")
    return build(
        Hyperparameters, {**values, **given}, _blamed(lambda: build(Hyperparameters, values, where), given, where)
    )


def model_config(cfg: str, overrides: Mapping[str, Any]) -> ModelConfig | TorchvisionConfig:
    """Return the model of a YAML, with overrides; UserError for one that this kind of model does not have."""
    path = find_yaml(cfg, MODELS, "model YAML")
    values = read_mapping(path)
    kind = model_kind(values)
    meant = overrides.keys() - _only(Hyperparameters, overrides).keys() - _only(kind, overrides).keys()
    if meant:
        raise UserError(f"--set {min(meant)}: no key of {path.name}, which has {', '.join(_keys(kind))}")
    given = checked(kind, _only(kind, overrides), "--set")

    def built(values: Mapping[str, Any], where: str) -> ModelConfig | TorchvisionConfig:
        model = build(kind, values, where)
        return model if isinstance(model, TorchvisionConfig) else checked_model(model, where)

    return built({**values, **given}, _blamed(lambda: built(values, str(path)), given, str(path)))


def _blamed(alone: Callable[[], Any], given: Mapping[str, Any], file: str) -> str:
    """Return whose mistake it is where a file and `--set` do not fit together: the file's, if it is wrong `alone`."""
    if given:
        with contextlib.suppress(UserError):
            alone()
            return "--set"
    return file


def _keys(kind: type) -> list[str]:
    """Return the names of a dataclass's fields."""
    return [each.name for each in dataclasses.fields(kind)]


def _only(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values whose keys are fields of a dataclass."""
    return {key: value for key, value in values.items() if key in _keys(kind)}
