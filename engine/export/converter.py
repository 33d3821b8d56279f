"""Converters that run in a process of their own, since they print, or may end it."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

from utils.errors import CommandError, printable


def run_converter(name: str, tool: str, command: Sequence[str], folder: Path, made: Sequence[Path]) -> None:
    """Run the command of `--format name` in a folder; CommandError, with its last line, unless it has `made` files."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode or not all(file.is_file() for file in made):
        said = (done.stderr.strip() or done.stdout.strip() or "nothing said").splitlines()[-1]
        raise CommandError(f"--format {name}: {tool} ended with code {done.returncode}: {printable(said, 120)}")
