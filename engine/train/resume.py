"""Going on with a run that was interrupted."""

import contextlib
import math
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from data.data_yaml import data_root
from data.pixel_limit import pixels_allowed
from engine.settings.configure import Plan, check_steps, open_data
from engine.settings.epochs import closing_epochs
from engine.train.run import claimed, run
from engine.train.trainer import build_schedule, ended
from utils.checkpoint import load_checkpoint, newest, require_model, save_checkpoint
from utils.config.flags import parsed
from utils.config.knobs import Config, Hyperparameters, RunConfig, checked, plain
from utils.config.sources import parse_settings
from utils.distributed import group_of_environment, restart_note, restarts
from utils.errors import UserError, printable

BEST_PARTS = ("config", "names", "epoch", "metrics", "model")
RESUMED_PARTS = {"network", "average_updates", "optimizer", "scaler", "data", "best"}
SHORT_FOR = {"loss": "box_loss", "assign": "assigner"}
RESUME_FLAGS = ("epochs", "device", "workers", "cache")
ALLOWED = f"only {', '.join('--' + name for name in RESUME_FLAGS)} may be given; start a new run instead"


def resume(flags: Mapping[str, Any]) -> Path:
    """Continue the run that `flags["resume"]` names (newest, a folder or a last.pt) to its last epoch, or to `epochs`.

    One that lacks nothing but its final validation gets that. UserError where the run is complete, or another flag
    would change it, or another process trains it.
    """
    path = resume_path(flags["resume"])
    folder = run_folder_of(path)
    with claimed(folder) if group_of_environment().main else contextlib.nullcontext():
        return _resume(path, folder, flags)


def _resume(path: Path, folder: Path, flags: Mapping[str, Any]) -> Path:
    path, contents = load_last(path)
    require_resumable(contents, path)
    config = Config.from_dict(contents["config"], str(path))
    changed = changes(flags, config)
    if changed:
        raise UserError(f"--resume keeps the settings of its run; {changed} would change it: {ALLOWED}")
    kept = {name: flags[name] for name in RESUME_FLAGS if name in flags}
    before, config = config, replace(config, run=parsed(RunConfig, {**plain(config.run), **kept}))
    done = contents["epoch"]
    over = ended(config.run, done, contents["best"]["epoch"])
    if over and ((folder / "metrics.json").is_file() or config.run.epochs != before.run.epochs):
        more = f"--epochs N (above {done}) extends the run" if done >= config.run.epochs else "start a new run instead"
        raise UserError(f"{printable(path)}: {over}; {more}")
    steps = math.ceil(contents["data"]["images"] / before.run.batch_size)
    contents.setdefault("warmup_steps", build_schedule(before, steps).warmup_steps)
    if config.run.epochs != before.run.epochs:
        require_steps(config)
    if config.run.epochs != before.run.epochs and group_of_environment().main:
        print(change_of_schedule(before, config, done, steps, contents["warmup_steps"]))
    root = data_root(config.run.data_root)
    with pixels_allowed(config.run.max_pixels):
        spec = open_data(config.run.data, root, config.run.val, config.run.seed, path.parents[1])
    if spec.names != config.names:
        raise UserError(
            f"{printable(spec.shown)}: its classes differ from the run: {printable(', '.join(spec.names), 120)} "
            f"now, {printable(', '.join(config.names), 120)} then"
        )
    if group_of_environment().main:
        contents["best"] = whole_best(path, contents)
    return run(Plan(config, spec), contents, folder)


def run_folder_of(path: Path) -> Path:
    """Return the folder of the run that a last.pt lies in; UserError where it does not lie as train.py writes it."""
    if path.absolute().parent.name != "weights":
        raise UserError(f"--resume {printable(path)}: expected a run folder, or the weights/last.pt in one")
    return path.parents[1] if len(path.parents) > 1 else path.absolute().parents[1]


def whole_best(path: Path, contents: Mapping[str, Any]) -> dict[str, Any]:
    """Return the best epoch {ap, epoch} of a run whose last.pt is read, with a best.pt that is whole and of that epoch.

    Where it is damaged, missing or of another epoch it is made anew from last.pt or last_prev.pt, whichever is of that
    epoch. Where neither is, that epoch is lost, and the last one takes its place; a line says so before anything is
    trained.
    """
    best, file = contents["best"], path.with_name("best.pt")
    keep = file.with_name("best_damaged.pt") if file.is_file() else None
    try:
        found = require_model(load_checkpoint(file, "meta"), file).get("epoch")
        if found == best["epoch"] + 1:
            return best
        told = f"warning: {printable(file)}: of epoch {found}; the run's best is epoch {best['epoch'] + 1}"
    except UserError as error:
        told = f"warning: {error}"
    source: Mapping[str, Any] = contents
    if contents["epoch"] != best["epoch"] + 1:
        with contextlib.suppress(UserError):
            before = load_checkpoint(path.with_name("last_prev.pt"))
            source = before if before["epoch"] == best["epoch"] + 1 else contents
    if source["epoch"] != best["epoch"] + 1:
        lost = f"epoch {best['epoch'] + 1} (AP {best['ap']:.4f}), the best, is lost"
        best = {"ap": source["metrics"]["ap"], "epoch": source["epoch"] - 1}
        told += f"; {lost}: the best from epoch {source['epoch']} (AP {best['ap']:.4f}) on counts"
    else:
        told += f"; made anew, epoch {source['epoch']} was in another file too"
    save_checkpoint(file, {name: source[name] for name in BEST_PARTS}, previous=keep)
    print(told, file=sys.stderr)
    return best


def changes(flags: Mapping[str, Any], config: Config) -> str:
    """Return the flags that a resumed run cannot take, each with what the run has instead.

    Empty where there is none: what equals the run's is no change.
    """
    said = {}
    for name, value in flags.items():
        if value is None or name in ("resume", "set", *RESUME_FLAGS):
            continue
        if name in SHORT_FOR:
            has = getattr(config.hyper, SHORT_FOR[name])
        else:
            value, has = getattr(parsed(RunConfig, {name: value}), name), getattr(config.run, name)
        if value != has:
            said[name] = f"{as_typed(name, value)} (the run has {as_typed(name, has, alone=False)})"
    settings = [text for text in flags.get("set") or () if not is_set(text, config)]
    if settings:
        said["set"] = as_typed("set", settings)
    # Photos in memory are the same as on disk, those painted on the device differ from them in rounding.
    cache = flags.get("cache", config.run.cache)
    if "device" in (cache, config.run.cache) and cache != config.run.cache:
        said["cache"] = f"{as_typed('cache', cache)} (the run has {as_typed('cache', config.run.cache, alone=False)})"
    return ", ".join(said[name] for name in sorted(said))


def is_set(text: str, config: Config) -> bool:
    """Say whether a `--set KEY=VALUE` is what a run has already."""
    ((key, value),) = parse_settings([text]).items()
    part = config.hyper if hasattr(config.hyper, key) else config.model
    kind = type(part)
    return key in plain(part) and checked(kind, {key: value}, "--set")[key] == getattr(part, key)


def as_typed(name: str, value: Any, alone: bool = True) -> str:
    """Return a flag as a person types it; its value only, where that says enough, unless it stands `alone`."""
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{flag}" if value else f"--no-{flag}"
    words = printable(" ".join(map(str, value)) if isinstance(value, (list, tuple)) else value)
    return f"--{flag} {words or repr('')}" if alone else words or "none"


def require_steps(config: Config) -> None:
    """Raise UserError where another number of epochs leaves steps of the learning rate without an effect."""
    hyper, defaults = config.hyper, Hyperparameters()
    if config.run.cos_lr or hyper.lr_schedule != "steps":
        return
    chosen = [key for key in ("lr_schedule", "lr_steps") if getattr(hyper, key) != getattr(defaults, key)]
    try:
        check_steps(config.run, hyper, chosen)
    except UserError as error:
        what = str(error).removeprefix("--set ").partition("; expected")[0]
        raise UserError(f"{what}; --resume keeps them: expected more epochs, or a new run") from None


def change_of_schedule(before: Config, after: Config, done: int, steps_per_epoch: int, warmup_steps: int) -> str:
    """Return what another number of epochs does to the learning rate of a run of which `done` epochs are over."""
    schedules = [
        replace(build_schedule(config, steps_per_epoch), warmup_limit=warmup_steps) for config in (before, after)
    ]
    first, second = (schedule.at(done * steps_per_epoch).lr for schedule in schedules)
    stepwise = schedules[1].decay_shape == "steps"
    course = f": {schedules[1].describe()}" if stepwise else f" decays until epoch {after.run.epochs}"
    last = closing_epochs(after.run) if after.hyper.mosaic and not after.run.rect else 0
    closing = f", mosaic ends {last} epochs before it" if last else ""
    if after.run.epochs - last <= done:
        closing = ", without mosaic from here on"
    return (
        f"--epochs {after.run.epochs} instead of {before.run.epochs}: the learning rate now"
        f"{course}{closing}; it goes on at {second:.3g}, not {first:.3g}"
    )


def resume_after_restart(plan: Plan) -> Path | None:
    """Go on with the run that torchrun has started anew; None at a first start, or before an epoch was saved."""
    group = group_of_environment()
    note = restart_note(group, Path(plan.config.run.project))
    if note is None:
        return None
    if restarts() == 0:
        if group.main:
            note.unlink(missing_ok=True)
        return None
    if not note.is_file():
        return None
    folder = Path(note.read_text(encoding="utf-8"))
    last = folder / "weights" / "last.pt"
    if not any(each.is_file() for each in (last, last.with_name("last_prev.pt"))):
        return None
    with claimed(folder) if group.main else contextlib.nullcontext():
        path, contents = load_last(last)
        if group.main:
            contents["best"] = whole_best(path, contents)
        # The config of the checkpoint, not of the flags: what was measured or fitted is resolved in it.
        return run(replace(plan, config=Config.from_dict(contents["config"], str(path))), contents, folder)


def load_last(path: Path) -> tuple[Path, dict[str, Any]]:
    """Load a last.pt, or with a message the one before it where the newest is missing or damaged."""
    previous = path.with_name("last_prev.pt")
    try:
        return path, load_checkpoint(path)
    except UserError as error:
        if path.name != "last.pt" or not previous.is_file():
            raise
        print(f"warning: {error}; going on from {printable(previous)}", file=sys.stderr)
        return previous, load_checkpoint(previous)


def require_resumable(contents: dict[str, Any], path: Path) -> None:
    """Raise UserError for a checkpoint that lacks what a run goes on with."""
    missing = sorted(RESUMED_PARTS - require_model(contents, path).keys())
    if missing:
        what = "weights only" if "optimizer" in missing else f"no {' and '.join(missing)}"
        raise UserError(f"{printable(path)}: holds {what}; --resume needs the last.pt of a run")


def resume_path(name: str) -> Path:
    """Return the last.pt that --resume means, also where only last_prev.pt is left beside it.

    UserError, which says what was looked for, where neither is there.
    """
    if name == "newest":
        return newest(Path("runs/train"), "last.pt")
    given = Path(name)
    path = given / "weights" / "last.pt" if given.is_dir() else given
    if path.is_file() or path.with_name("last_prev.pt").is_file():
        return path
    said = f"--resume {printable(name)}: "
    if not given.is_dir():
        raise UserError(f"{said}not found: no such run folder and no such file ({printable(path.absolute())})")
    runs = sorted(each.parents[1].name for each in given.glob("*/weights/last*.pt"))
    inside = f"; it holds the runs {printable(', '.join(dict.fromkeys(runs)), 120)}: name one" if runs else ""
    saved = "a run without a complete epoch leaves none; start it again" if (given / "config.yaml").is_file() else ""
    raise UserError(
        f"{said}neither weights/last.pt nor weights/last_prev.pt in {printable(given.absolute())}"
        f"{inside or (saved and f': {saved}') or '; expected the folder of a run'}"
    )
