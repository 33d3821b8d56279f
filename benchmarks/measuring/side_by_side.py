"""What the benchmarks share: flags, two sides measured in turns, and a table with the JSON beside it."""

import argparse
import contextlib
import datetime
import io
import os
import platform
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from utils.config.flags import Parser
from utils.device import cpu_capabilities, cpu_has_bf16
from utils.run_folder import write_json

PACKAGES = ("torch", "torchvision", "ultralytics", "opencv-python", "numpy")
# What decides how fast a CPU multiplies: AMX is Intel's from 2023 on, the others are older or AMD's too.
FEATURES = ("amx_bf16", "amx_int8", "avx512_bf16", "avx512_vnni", "avx_vnni", "avx512_f", "avx2")


def positive_int(text: str) -> int:
    """Read a flag's whole number from 1 on."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number from 1 on")
    return int(text)


def flags(about: str | None, name: str, photos: bool = True, turns: bool = True) -> argparse.ArgumentParser:
    """Return the flags that most benchmarks take; `about` is the module's docstring."""
    parser = Parser(prog=f"python -m benchmarks.{name}", description=(about or "").splitlines()[0])
    if photos:
        parser.add_argument("--data", default="coco128", help="data YAML or built-in name (default coco128)")
        parser.add_argument("--data-root", default="", help="folder of the built-in data sets")
    if turns:
        parser.add_argument(
            "--turns", type=positive_int, default=2, help="how often each side has its turn (default 2)"
        )
    parser.add_argument("--out", default="runs/benchmarks", help="folder of the JSON files (default runs/benchmarks)")
    return parser


def training_flags(parser: argparse.ArgumentParser, epochs: int, meaning: str) -> argparse.Namespace:
    """Add the flags of a benchmark that trains, each side in a process of its own, and read them."""
    parser.add_argument("--epochs", type=positive_int, default=epochs, help=f"{meaning} (default {epochs})")
    parser.add_argument("--imgsz", type=positive_int, default=320, help="network input in pixels (default 320)")
    parser.add_argument("--batch", type=positive_int, default=16, help="images per step (default 16)")
    parser.add_argument("--task", default="", help="for the benchmark itself: be one side, as this JSON says")
    return parser.parse_args()


def in_turns(sides: Mapping[str, Callable[[], Sequence[float]]], turns: int) -> dict[str, list[float]]:
    """Return every side's numbers, measured A B A B, so that what else the machine does hits all alike."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(turns):
        for name, measure in sides.items():
            numbers = list(measure())
            found[name] += numbers
            print(f"  turn {turn + 1}  {name}: {' '.join(f'{number:.4g}' for number in numbers)}", flush=True)
    return found


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Run the block without what the peers print about themselves."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def spread(numbers: Sequence[float]) -> dict[str, float | int]:
    """Return the median, lowest, highest and count."""
    return {
        "median": statistics.median(numbers),
        "lowest": min(numbers),
        "highest": max(numbers),
        "count": len(numbers),
    }


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of those packages that are installed."""
    found = {}
    for name in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def machine(packages: Iterable[str] = PACKAGES) -> dict[str, Any]:
    """Return the device, the versions and the date, as every result is stored with them."""
    cpu = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        named = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        cpu = named[0] if named else cpu
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "bf16": cpu_has_bf16(),
        "features": [name for name in FEATURES if cpu_capabilities().get(name)],
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "packages": versions(packages),
        "load": os.getloadavg()[0],
        "date": datetime.date.today().isoformat(),
    }


def conclude(
    name: str,
    rows: Sequence[Mapping[str, object]],
    out: str,
    packages: Iterable[str] = PACKAGES,
    setup: Mapping[str, object] | None = None,
) -> None:
    """Print the rows as a table below two lines on the machine, and write both to out/name.json.

    `packages` are those whose versions are stored, `setup` what else the file should say.
    """
    about = machine(packages)
    cores = f"{about['cores']} x {about['cpu']} ({'with' if about['bf16'] else 'without'} bf16)"
    packages = "  ".join(f"{package} {number}" for package, number in about["packages"].items())
    print(f"{about['gpu'] or cores}, {about['date']}, load {about['load']:.1f}")
    print(f"python {about['python']}  {packages}")
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [columns, *([_shown(row.get(column, "")) for column in columns] for row in rows)]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    for first, *rest in lines:
        numbers = (cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))
        print("  ".join([first.ljust(widths[0]), *numbers]))
    path = Path(out) / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"benchmark": name, "machine": about, **(setup or {}), "rows": [dict(row) for row in rows]})
    print(f"written to {path}")


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
