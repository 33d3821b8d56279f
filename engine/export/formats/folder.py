"""A format that is a folder: its files, and a metadata.yaml beside them."""

from pathlib import Path
from typing import Any

import yaml

from engine.export.job import Job
from utils.errors import UserError, printable


def write_metadata(folder: Path, job: Job) -> None:
    """Write metadata.yaml into the folder."""
    (folder / "metadata.yaml").write_text(yaml.safe_dump(job.metadata(), sort_keys=False), "utf-8")


def read_metadata(folder: Path, *files: str) -> dict[str, Any]:
    """Read metadata.yaml of a folder that holds `files` too; UserError where one is missing or it is none."""
    needed = (*files, "metadata.yaml")
    if missing := [name for name in needed if not (folder / name).is_file()]:
        raise UserError(f"{printable(folder)}: expected a folder with {', '.join(needed)}: no {missing[0]}")
    try:
        metadata = yaml.safe_load((folder / "metadata.yaml").read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{printable(folder / 'metadata.yaml')}: no YAML ({printable(error, 80)})") from None
    if not isinstance(metadata, dict):
        raise UserError(f"{printable(folder / 'metadata.yaml')}: expected keys and values")
    return metadata
