"""The folder of a run: its name, results.csv, and the JSON files that say what was run and on what."""

import csv
import io
import itertools
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib import metadata
from numbers import Integral
from pathlib import Path
from typing import Any

from utils.errors import UserError, printable

PACKAGES = ("torch", "torchvision", "numpy", "opencv-python", "ultralytics", "hotcoco", "tensorboard")
REPOSITORY = Path(__file__).resolve().parents[1]


def new_run_folder(project: Path, name: str, exist_ok: bool) -> Path:
    """Make project/name, or name2, name3, ... where that exists; with `exist_ok` an existing folder is used again.

    UserError when it cannot be made.
    """
    first = Path(project) / name
    if Path(name).name in ("", ".."):
        raise UserError(f"--name {printable(name)!r}: expected the name of a folder")
    try:
        if exist_ok:
            first.mkdir(parents=True, exist_ok=True)
            return first
        first.parent.mkdir(parents=True, exist_ok=True)
        numbered = (first if number == 1 else first.with_name(f"{first.name}{number}") for number in itertools.count(1))
        return next(folder for folder in numbered if _made(folder))
    except (OSError, ValueError) as error:
        raise UserError(f"{printable(first.absolute())}: cannot make this run folder ({printable(error)})") from None


def _made(folder: Path) -> bool:
    """Make a folder and return True, or False where it is there already; OSError where it cannot be made."""
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    return True


def write_atomically(path: Path, text: str, synced: bool = True) -> None:
    """Replace a UTF-8 text file as a whole: a crash leaves the old one or the new one.

    Of the whole machine too if it is `synced`, which takes some milliseconds: too long for thousands of files.
    """
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(encoded(text))
        file.flush()
        if synced:
            os.fsync(file.fileno())
    temporary.replace(path)


def write_json(path: Path, document: object) -> None:
    """Write plain types as JSON; ValueError for NaN, which JSON does not know."""
    write_atomically(path, json_text(document, indent=2, allow_nan=False) + "\n")


def encoded(text: str) -> bytes:
    """Return text as UTF-8.

    File names of another encoding, as old archives hold them, as the bytes that they are on disk.
    """
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half a character, as JSON can spell it
        return text.encode("utf-8", "backslashreplace")


def json_text(document: object, **layout: Any) -> str:
    """Return JSON with letters of all scripts as they are; spelt in ASCII where a name in it is no UTF-8."""
    text = json.dumps(document, ensure_ascii=False, **layout)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return json.dumps(document, **layout)
    return text


def write_csv(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Write rows of the same columns; floats so that they read back exactly, None as an empty cell."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
    write_atomically(path, buffer.getvalue())


def read_csv(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file as text; UserError for one that is not whole."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{printable(path)}: cannot be read as CSV ({printable(error)})") from None
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise UserError(f"{printable(path)}:{number}: expected as many cells as the header has")
    return rows


def _epochs(path: Path) -> list[dict]:
    """Return the rows of a results.csv as text; UserError for a damaged one."""
    rows = read_csv(path)
    if rows and not all(row.get("epoch", "").isdigit() for row in rows):
        raise UserError(f"{printable(path)}:1: expected a column named epoch with whole numbers")
    return rows


class ResultsCsv:
    """results.csv, one row per epoch under a header that the first row fixes; every change replaces the whole file."""

    def __init__(self, path: Path, known: Sequence[Mapping[str, object]] | None = None):
        """Take up the rows of a run that is resumed: those `known` from its checkpoint, else those of the file.

        A file that lacks a known row, or tells another, is written anew, and a line says so. UserError for a damaged
        file whose rows nothing else knows.
        """
        self.path = path
        if known is None:
            self.rows: list[dict] = _epochs(path) if path.exists() else []
            return
        self.rows = [dict(row) for row in known]
        lost = self._lost()
        if lost:
            print(f"warning: {printable(path)}: {lost}; written anew from the checkpoint", file=sys.stderr)
            write_csv(self.path, self.rows)

    def _lost(self) -> str:
        """Say why the file does not hold the rows; empty where it does, also if it holds more."""
        if not self.rows:
            return ""
        try:
            found = _epochs(self.path)
        except UserError as error:
            return str(error).removeprefix(f"{printable(self.path)}").lstrip(": ")
        expected = [{key: str(_cell(value)) for key, value in row.items()} for row in self.rows]
        same = sum(first == second for first, second in zip(found, expected, strict=False))
        return "" if same == len(expected) else f"{len(expected) - same} of {len(expected)} rows are lost or changed"

    def plain(self) -> list[dict[str, float | int | None]]:
        """Return the rows as a checkpoint holds them: plain numbers, None for an empty cell."""
        return [{key: _number(value) for key, value in row.items()} for row in self.rows]

    def append(self, row: Mapping[str, object]) -> None:
        """Add an epoch; ValueError when its columns, among them `epoch`, are not those of the rows before."""
        expected = self.rows[0].keys() if self.rows else {"epoch", *row}
        if row.keys() != expected:
            raise ValueError(f"{self.path.name}: columns differ: {sorted(row.keys() ^ expected)}")
        self.rows.append({key: row[key] for key in self.rows[0]} if self.rows else dict(row))
        write_csv(self.path, self.rows)

    def truncate_to(self, epoch: int) -> None:
        """Drop the rows from `epoch` on, which a resumed run will train again."""
        kept = [row for row in self.rows if int(row["epoch"]) < epoch]
        if len(kept) < len(self.rows):
            self.rows = kept
            write_csv(self.path, kept) if kept else self.path.unlink()


def write_env(path: Path, command: Sequence[str], extra: Mapping[str, object]) -> None:
    """Write env.json: the date, the command line, versions, hardware and git revision, and `extra`."""
    # Here alone: what reads and writes a run's other files starts without torch.
    import torch

    document = {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": shlex.join(command),
        "git": git_revision(REPOSITORY),
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{name.replace("-", "_"): package_version(name) for name in PACKAGES},
        "cpu": cpu_model(),
        "cpu_cores": os.cpu_count(),
        "memory_gib": memory_gib(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        **extra,
    }
    write_json(path, document)


def package_version(name: str) -> str | None:
    """Return the installed version of a package without importing it; None when it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def cpu_model() -> str:
    """Return the processor's name as Linux gives it, elsewhere as Python does."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def memory_gib() -> float | None:
    """Return the machine's memory in GiB; None where the system does not say."""
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)


def git_revision(folder: Path) -> str | None:
    """Return the commit that is checked out in a folder, with `-dirty` for changed files.

    None without a checkout or git.
    """
    if not (folder / ".git").exists():
        return None
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def _number(value: object) -> float | int | None:
    """Return a cell, or what is to become one, as a plain number."""
    if value is None or value == "":
        return None
    if isinstance(value, Integral) or (isinstance(value, str) and value.lstrip("-").isdigit()):
        return int(value)
    return float(value)  # type: ignore[arg-type]


def _cell(value: object) -> object:
    """Return a CSV cell: floats with every digit that reading back needs, nothing for None and NaN."""
    if value is None or value != value:
        return ""
    return repr(float(value)) if hasattr(value, "__float__") and not isinstance(value, Integral) else value
