"""A format that is a folder: its files, and a metadata.yaml beside them."""

from pathlib import Path
from typing import Any

import yaml

from engine.export.job import Job
from utils.config.yaml_file import read_mapping
from utils.errors import UserError, printable


def write_metadata(folder: Path, job: Job) -> None:
    """Write metadata.yaml into the folder."""
    (folder / "metadata.yaml").write_text(yaml.safe_dump(job.metadata(), sort_keys=False), "utf-8")


def read_metadata(folder: Path, *files: str) -> dict[str, Any]:
    """Read metadata.yaml of a folder that holds `files` too; UserError where one is missing or it is none."""
    needed = (*files, "metadata.yaml")
    if missing := [name for name in needed if not (folder / name).is_file()]:
        raise UserError(f"{printable(folder)}: expected a folder with {', '.join(needed)}: no {missing[0]}")
    return read_mapping(folder / "metadata.yaml")
