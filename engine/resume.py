"""Going on with a run that was interrupted."""

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from data.data_yaml import data_root
from engine.plan import Plan, open_data
from engine.training import run
from utils.checkpoint import load_checkpoint, newest
from utils.config import Config, RunConfig, plain
from utils.distributed import group_of_environment, restart_note, restarts
from utils.errors import UserError, printable
from utils.flags import parsed

RESUME_FLAGS = {"resume", "epochs", "device", "workers", "cache", "set"}


def resume(flags: Mapping[str, Any]) -> Path:
    """Continues the run that `flags["resume"]` names (newest, a folder or a last.pt) to its last epoch, or to `epochs`.

    UserError where the run is complete, or another flag would change it.
    """
    path = resume_path(flags["resume"])
    path, contents = load_last(path)
    if "optimizer" not in contents:
        raise UserError(f"{printable(path)}: holds weights only; --resume needs the last.pt of a run")
    changed = sorted(name for name, value in flags.items() if value and name not in RESUME_FLAGS)
    if changed or flags.get("set"):
        names = ", ".join("--" + name.replace("_", "-") for name in changed) or "--set"
        raise UserError(f"--resume keeps the settings of its run; {names} would change it: start a new run instead")
    config = Config.from_dict(contents["config"], str(path))
    kept = {name: flags[name] for name in ("epochs", "device", "workers", "cache") if name in flags}
    config = replace(config, run=parsed(RunConfig, {**plain(config.run), **kept}))
    done = contents["epoch"]
    if done >= config.run.epochs:
        raise UserError(f"{printable(path)}: all {done} epochs are done; --epochs N (above {done}) extends the run")
    spec = open_data(config.run.data, data_root(config.run.data_root))
    if spec.names != config.names:
        raise UserError(f"{printable(spec.yaml)}: its classes differ from those of the run: {', '.join(config.names)}")
    return run(Plan(config, spec), contents, path.parents[1])


def resume_after_restart(plan: Plan) -> Path | None:
    """Goes on with the run that torchrun has started anew; None at a first start, or before an epoch was saved."""
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
    if not last.is_file():
        return None
    _, contents = load_last(last)
    return run(plan, contents, folder)


def load_last(path: Path) -> tuple[Path, dict[str, Any]]:
    """A last.pt and its contents, or, with a message, the one before it where the newest is missing or damaged."""
    previous = path.with_name("last_prev.pt")
    try:
        return path, load_checkpoint(path)
    except UserError as error:
        if path.name != "last.pt" or not previous.is_file():
            raise
        print(f"warning: {error}; going on from {printable(previous)}", file=sys.stderr)
        return previous, load_checkpoint(previous)


def resume_path(name: str) -> Path:
    """The last.pt that --resume means."""
    if name == "newest":
        return newest(Path("runs/train"), "last.pt")
    path = Path(name)
    return path / "weights" / "last.pt" if path.is_dir() else path
