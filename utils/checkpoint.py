"""Checkpoints: tensors and plain JSON types only, written whole or not at all, read with weights_only."""

import os
import pickle
import tempfile
from pathlib import Path
from typing import Any

import torch

from utils.errors import UserError, printable

FORMAT = "alignyolo"
VERSION = 1


def save_checkpoint(path: Path, contents: dict[str, Any]) -> None:
    """Writes a checkpoint to a temporary file beside `path`, syncs it and renames it over `path`."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            torch.save({"format": FORMAT, "version": VERSION, **contents}, file)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Reads a checkpoint of this project onto the CPU; UserError for anything else."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"weights not found: {printable(path.absolute())}")
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError, ValueError, OSError) as error:
        reason = printable(str(error).splitlines()[0] if str(error) else type(error).__name__, 120)
        raise UserError(f"{printable(path)}: not a checkpoint of this project, or damaged ({reason})") from None
    if not isinstance(contents, dict) or contents.get("format") != FORMAT:
        raise UserError(f"{printable(path)}: not a checkpoint of this project: expected one that train.py wrote")
    if contents["version"] > VERSION:
        raise UserError(f"{printable(path)}: written by a newer version (format {contents['version']} > {VERSION})")
    return contents


def newest(project: Path, file: str) -> Path:
    """The newest `*/weights/<file>` below a project folder; UserError if there is none."""
    found = sorted(project.glob(f"*/weights/{file}"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise UserError(f"no run with weights/{file} in {project.absolute()}: train first, or name one with --weights")
    return found[-1]
