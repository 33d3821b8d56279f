"""What a comparison runs: named variants of the hyperparameters, from a YAML or from lists of losses and assigners."""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from engine.settings.configure import choices_of, overrides_of
from train import parse_flags as train_flags
from utils.config.knobs import (
    CompareConfig,
    Hyperparameters,
    ModelConfig,
    PluginConfig,
    RunConfig,
    TorchvisionConfig,
)
from utils.config.yaml_file import find_yaml, read_mapping
from utils.errors import UserError, nearest, printable

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
KEYS = ("description", "baseline", "trainer", "train", "variants", "grid")
# What the comparison itself decides about a run.
OWN_FLAGS = ("seed", "project", "name", "exist_ok")
# What trains: train.py, or Ultralytics with the plug-in (studies/in_ultralytics.py).
TRAIN_PY, ULTRALYTICS = "train.py", "ultralytics"
TRAINERS = {TRAIN_PY: RunConfig, ULTRALYTICS: PluginConfig}
# What a variant of the latter may set.
PLUGIN_KEYS = ("loss", "assign")


@dataclass(frozen=True)
class Variant:
    """A name and the hyperparameter and model keys that make it; with Ultralytics, its box loss and assigner.

    No hyperparameter file: it would replace the one that all variants share.
    """

    name: str
    settings: dict[str, Any]
    trainer: str = TRAIN_PY

    def arguments(self) -> list[str]:
        """Return the settings as arguments of what trains."""
        if self.trainer == ULTRALYTICS:
            return list(as_flags(self.settings, self.name, PluginConfig))
        return [part for key, value in self.settings.items() for part in ("--set", f"{key}={value}")]


@dataclass(frozen=True)
class Recipe:
    """The variants of a comparison, the one that the others are compared with, and flags for what trains."""

    description: str
    baseline: str
    variants: tuple[Variant, ...]
    train: tuple[str, ...] = ()

    @property
    def trainer(self) -> str:
        """Return what trains: the same for all variants."""
        return self.variants[0].trainer


def read_recipe(name: str) -> Recipe:
    """Read the recipe of a YAML, by path or by its name in studies/recipes and below; UserError for a mistake."""
    path = recipe_file(name)
    values, where = read_mapping(path), printable(path)
    for key in values:
        if key not in KEYS:
            raise UserError(f"{where}: unknown key {printable(key)!r}{nearest(str(key), KEYS)}")
    if ("variants" in values) == ("grid" in values):
        raise UserError(f"{where}: expected either variants or grid")
    trainer = str(values.get("trainer", TRAIN_PY))
    if trainer not in TRAINERS:
        raise UserError(f"{where}: trainer: {printable(trainer)!r}{nearest(trainer, TRAINERS)}")
    if "grid" in values:
        variants = grid(_mapping(values["grid"], where, "grid"), where, trainer)
    else:
        named = _mapping(values["variants"], where, "variants")
        variants = tuple(
            Variant(_name(key, where), _settings(value or {}, f"{where}: {printable(key)}", trainer), trainer)
            for key, value in named.items()
        )
    baseline = str(values.get("baseline", variants[0].name))
    train = as_flags(_mapping(values.get("train", {}), where, "train", empty=True), where, TRAINERS[trainer])
    return Recipe(str(values.get("description", "")).strip(), checked_baseline(baseline, variants), variants, train)


def recipe_file(name: str) -> Path:
    """Return the YAML that a name in studies/recipes, in a folder there, or a path means; UserError without one."""
    shipped = {path.stem: path for path in RECIPES.rglob("*.yaml")}
    if name not in shipped and len(Path(name).parts) == 1 and not Path(name).suffix:
        raise UserError(f"no recipe named {printable(name)!r} in {RECIPES.name}/{nearest(name, shipped)}")
    return shipped.get(name) or find_yaml(name, RECIPES, "recipe")


def from_lists(
    losses: Sequence[str], assigners: Sequence[str], baseline: str = "", given: Hyperparameters | None = None
) -> Recipe:
    """Combine every loss with every assigner; for a list that is not given stands what the runs have anyway."""
    given = given or Hyperparameters()
    axes = {"box_loss": losses or (given.box_loss,), "assigner": assigners or (given.assigner,)}
    variants = grid(axes, "--losses, --assigners")
    return Recipe("", checked_baseline(baseline or variants[0].name, variants), variants)


def recipe_of(config: CompareConfig, shared: Sequence[str] = ()) -> Recipe:
    """Return the recipe that the flags of the command mean; UserError where they contradict each other.

    `shared` are the arguments of what trains, which may say what the lists leave open.
    """
    if bool(config.recipe) == bool(config.losses or config.assigners):
        raise UserError("expected either --recipe or --losses and --assigners")
    if not config.recipe:
        flags = train_flags(shared)
        given = choices_of(flags, overrides_of(flags)).hyper
        return only(from_lists(config.losses, config.assigners, config.baseline, given), config.only)
    recipe = read_recipe(config.recipe)
    baseline = checked_baseline(config.baseline or recipe.baseline, recipe.variants)
    return only(Recipe(recipe.description, baseline, recipe.variants, recipe.train), config.only)


def only(recipe: Recipe, names: Sequence[str]) -> Recipe:
    """Return the recipe with the named variants alone, or as it is; UserError for a name that it lacks."""
    if not names:
        return recipe
    known = [variant.name for variant in recipe.variants]
    for name in names:
        if name not in known:
            raise UserError(f"--only {printable(name)}{nearest(name, known)}")
    if recipe.baseline not in names:
        raise UserError(f"--only leaves out {recipe.baseline}, which the others are compared with: see --baseline")
    return replace(recipe, variants=tuple(variant for variant in recipe.variants if variant.name in names))


def check_overridden(recipe: Recipe, shared: Sequence[str]) -> None:
    """Raise UserError for a `--set` that has no effect since every variant sets its key."""
    if recipe.trainer == ULTRALYTICS:
        return
    for key, value in overrides_of(train_flags(shared)).items():
        own = [variant.settings[key] for variant in recipe.variants if key in variant.settings]
        if len(own) == len(recipe.variants) and any(each != value for each in own):
            raise UserError(f"--set {key}={printable(value)} has no effect: every variant sets {key} itself")


def grid(axes: Mapping[str, Any], where: str, trainer: str = TRAIN_PY) -> tuple[Variant, ...]:
    """Make a variant for every combination of the values of the axes, named after them."""
    lists = []
    for key, values in axes.items():
        if isinstance(values, str) or not isinstance(values, Sequence) or not values:
            raise UserError(f"{where}: {printable(key)}: expected a list of values")
        lists.append(values)
    variants = []
    for combination in itertools.product(*lists):
        settings = dict(zip(axes, combination, strict=True))
        name = _name("-".join(map(str, combination)), where)
        variants.append(Variant(name, _settings(settings, where, trainer), trainer))
    return tuple(variants)


def checked_baseline(name: str, variants: Sequence[Variant]) -> str:
    """Return the baseline, if it is one of the variants."""
    names = [variant.name for variant in variants]
    repeated = sorted({each for each in names if names.count(each) > 1})
    if repeated:
        raise UserError(f"two variants are called {repeated[0]!r}")
    if name not in names:
        raise UserError(f"baseline {printable(name)!r}{nearest(name, names)}")
    return name


def as_flags(values: Mapping[str, Any], where: str, kind: type = RunConfig) -> tuple[str, ...]:
    """Return values of the flags of train.py, or of another command, as its arguments."""
    known = [each.name for each in fields(kind) if each.name not in OWN_FLAGS]
    flags: list[str] = []
    for key, value in values.items():
        if key not in known:
            raise UserError(f"{where}: train: unknown key {printable(key)!r}{nearest(str(key), known)}")
        flag = "--" + key.replace("_", "-")
        if isinstance(value, bool):
            flags.append(flag if value else flag.replace("--", "--no-", 1))
        else:
            flags += [flag, *map(str, value if isinstance(value, (list, tuple)) else [value])]
    return tuple(flags)


def _settings(values: Any, where: str, trainer: str) -> dict[str, Any]:
    """Return the settings of a variant, if what trains knows their keys; it checks the values itself."""
    known = {each.name for kind in (Hyperparameters, ModelConfig, TorchvisionConfig) for each in fields(kind)}
    known = set(PLUGIN_KEYS) if trainer == ULTRALYTICS else known
    for key in _mapping(values, where, "variant", empty=True):
        if key not in known:
            raise UserError(f"{where}: unknown key {printable(key)!r}{nearest(str(key), known)}")
    return dict(values)


def _mapping(values: Any, where: str, what: str, empty: bool = False) -> Mapping:
    if not isinstance(values, Mapping) or not (values or empty):
        raise UserError(f"{where}: {what}: expected `key: value` lines")
    return values


def _name(name: Any, where: str) -> str:
    """Return a variant's name, which becomes the name of a folder."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", str(name)):
        raise UserError(f"{where}: {printable(name)!r}: expected a name of letters, digits and . _ + -")
    return str(name)
