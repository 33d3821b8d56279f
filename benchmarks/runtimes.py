"""Every export format and precision that this machine can run: CPU time of a photo, AP and size, in turns.

python -m benchmarks.runtimes --weights best.pt --data mydata --split test     with AP, and with files in eight bits
python -m benchmarks.runtimes --weights best.pt --peer      beside the same files of ultralytics' own yolov3-tiny.yaml
python -m benchmarks.runtimes                               an untrained YOLOv3-tiny, which takes as long

One process, one thread, one core; the sides have their turns A B C A B C, so that what else the machine does hits all
alike. What cannot be run here is a row that says why. AP is what val.py says of --split; --data calibrates eight bits.
"""

import functools
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.measuring.exported import PEER_RUNS, PEER_WEIGHTS, peer_file, peer_session, untrained_weights
from benchmarks.measuring.side_by_side import PACKAGES, conclude, flags, in_turns, positive_int, silence, spread
from data.open.any_layout import root_for
from data.split import load_split
from engine.export.backend import input_size
from engine.export.check import batches, photos
from engine.export.runtimes import open_backend
from engine.settings.configure import open_data
from export import export
from models.weights.class_rows import names_on
from utils.config.export_formats import EXPORT_FORMATS
from utils.device import cpu_has_bf16
from utils.errors import CommandError, UserError, printable, run_command
from val import validate

PYTORCH, PEER = "pytorch", " of ultralytics"
CLASSES = 80  # of the untrained network
# Formats whose own runtime is there on one system alone: elsewhere PyTorch stands in for it, whose time says nothing.
ONLY_ON = {"coreml": "Darwin"}
# A library that takes as many threads as it likes gets one: it reads this when it is loaded.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OMP_THREAD_LIMIT": "1"}
Rows = dict[str, dict[str, Any]]
Sides = dict[str, Callable[[], object]]


@dataclass(frozen=True)
class Way:
    """A format, what it computes in, and the flag of export.py that a file of it needs."""

    format: str
    precision: str
    flag: str = ""

    @property
    def name(self) -> str:
        """What its row is called."""
        return f"{self.format} {self.precision}"

    @property
    def opened_in(self) -> str:
        """The `--precision` that opens it; a file that stores other numbers than float32 runs as it was exported."""
        return "float32" if self.flag else self.precision


def ways() -> list[Way]:
    """Return PyTorch, and each format that holds a computation, in each precision that it has."""
    found = [Way(PYTORCH, precision) for precision in ("float32", "bf16")]
    for facts in EXPORT_FORMATS.values():
        if facts.graph:
            found += [Way(facts.name, precision) for precision in facts.precisions if precision != "auto"]
            found += [Way(facts.name, "half", "half")] if facts.half else []
            found += [Way(facts.name, "int8", "int8")] if facts.int8 is not None else []
    return found


def chosen(formats: Sequence[str]) -> list[Way]:
    """Return the ways of these formats, all without any; UserError for a format that is none."""
    known = list(dict.fromkeys(way.format for way in ways()))
    for name in formats:
        if name not in known:
            raise UserError(f"--formats {printable(name)}: expected some of {', '.join(known)}")
    return [way for way in ways() if not formats or way.format in formats]


def write(way: Way, weights: Path, settings: Namespace, folder: Path) -> Path:
    """Return the file or folder of a way, written if it is not there yet; CommandError where it cannot be."""
    if way.precision == "bf16" and not cpu_has_bf16():
        raise UserError("this CPU does not multiply bfloat16")
    if way.format == PYTORCH:
        return weights
    if way.flag == "int8" and not settings.data:
        raise UserError("needs photos to calibrate with: --data")
    int8 = {"calibrate": settings.data, "data_root": settings.data_root, "force": True}
    asked: dict[str, Any] = {way.flag: True} if way.flag else {}
    asked |= int8 if way.flag == "int8" else {}
    output = folder / (way.flag or "float32") / "best"
    there = output.with_name(f"best{EXPORT_FORMATS[way.format].suffix}")
    if there.exists():  # bf16 computes with the file of float32
        return there
    asked |= {"imgsz": [settings.imgsz], "format": [way.format], "output": str(output)}
    return export(weights=str(weights), **asked)[0]


def mebibytes(path: Path) -> float:
    """Return the size of a file, or of a folder's files."""
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    return round(sum(file.stat().st_size for file in files) / 2**20, 2)


def average_precision(path: Path, way: Way, settings: Namespace, folder: Path) -> float | None:
    """Return AP as val.py says it; None without a data set or labels."""
    if not settings.data:
        return None
    asked = {"data": settings.data, "data_root": settings.data_root, "split": settings.split}
    asked |= {"imgsz": [settings.imgsz], "precision": way.opened_in, "device": "cpu"}
    shown = {"plots": False, "report": False, "workers": 0, "project": str(folder / "val")}
    return validate(weights=str(path), **asked, **shown).overall["ap"]


def cpu_times(call: Callable[[], object], each: int) -> Callable[[], list[float]]:
    """Return a function that measures milliseconds of this process's CPU time of `each` calls, after one more."""

    def measure() -> list[float]:
        call()  # the side before it has left its own numbers in the caches
        found = []
        for _ in range(each):
            start = time.process_time()
            call()
            found.append((time.process_time() - start) * 1e3)
        return found

    return measure


def add_ours(rows: Rows, sides: Sides, weights: Path, settings: Namespace, folder: Path) -> None:
    """Write and open every way: a row each with size and AP, or with a note, and what computes a photo."""
    (image,) = batches([next(photos("", (settings.imgsz, settings.imgsz)))], 1)
    for way in chosen(settings.formats):
        print(way.name, flush=True)
        row: dict[str, Any] = {"format": way.format, "precision": way.precision}
        rows[way.name] = row
        try:
            with silence(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of tracers, about their own packages
                path = write(way, weights, settings, folder)
                backend = open_backend(path, precision=way.opened_in)
                row |= {"MiB": mebibytes(path), "AP": average_precision(path, way, settings, folder)}
        except CommandError as error:
            row["note"] = printable(error, 160)
            continue
        if ONLY_ON.get(way.format, platform.system()) != platform.system():
            row["note"] = f"its runtime is there on {ONLY_ON[way.format]} alone; AP as PyTorch computes it"
            continue
        sides[way.name] = functools.partial(backend.run, image)


def add_peers(rows: Rows, sides: Sides, classes: int, settings: Namespace, folder: Path) -> None:
    """Export and open the peer's files: a row each with size, and what computes a photo."""
    (image,) = batches([next(photos("", (settings.imgsz, settings.imgsz)))], 1)
    files: dict[str, Path] = {}
    for fmt, precision in PEER_RUNS:
        if Way(fmt, precision).name not in sides:
            continue
        name = Way(fmt, precision).name + PEER
        print(name, flush=True)
        with silence(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            files[fmt] = files.get(fmt) or peer_file(folder, settings.imgsz, classes, fmt)
            sides[name] = functools.partial(peer_session(files[fmt], fmt, precision), image.numpy())
        rows[name] = {"format": f"{fmt}{PEER}", "precision": precision, "MiB": mebibytes(files[fmt])}


def measure(settings: Namespace, folder: Path) -> list[dict[str, Any]]:
    """Return the rows of all ways, and of the peer's files with --peer."""
    weights = Path(settings.weights) if settings.weights else untrained_weights(folder, settings.imgsz, CLASSES)
    opened = open_backend(weights)
    names = opened.names
    input_size(opened, (settings.imgsz,), weights)
    if settings.data:  # a mistake in it is no property of a runtime
        spec = open_data(settings.data, root_for(settings.data, settings.data_root))
        spec.check_classes(names_on(names, spec.names), str(weights))
        load_split(spec, settings.split)
    rows: Rows = {}
    sides: Sides = {}
    add_ours(rows, sides, weights, settings, folder)
    if settings.peer:
        add_peers(rows, sides, len(names), settings, folder)
    print(f"{len(sides)} sides, {settings.turns} turns of {settings.each} photos", flush=True)
    with silence():
        found = in_turns({name: cpu_times(call, settings.each) for name, call in sides.items()}, settings.turns)
    for name, values in found.items():
        times = spread(values)
        ours = found.get(name.removesuffix(PEER), values)
        rows[name] |= {"CPU ms": round(times["median"], 2)}
        rows[name] |= {key: round(times[key], 2) for key in ("lowest", "highest")}
        if ours is not values:
            rows[name]["ours / this"] = round(statistics.median(ours) / times["median"], 3)
    columns = ("format", "precision", "CPU ms", "lowest", "highest", "AP", "MiB", "ours / this", "note")
    return [{key: row[key] for key in columns if row.get(key) is not None} for row in rows.values()]


def is_alone() -> bool:
    """Tell whether this process had one core and one thread before it loaded any library."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    return cores == 1 and all(os.environ.get(name) == value for name, value in ONE_THREAD.items())


def run_alone() -> int:
    """Run the same command on one core and in one thread, and return its exit code.

    In a process of its own: torch's OpenMP, which ncnn computes with too, has counted the cores when it was loaded, and
    a thread that waits for another on the same core takes ten times as long.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    command = [sys.executable, "-m", "benchmarks.runtimes", *sys.argv[1:]]
    return subprocess.run(command, env={**os.environ, **ONE_THREAD}, check=False).returncode


def packages() -> list[str]:
    """Return the packages whose versions count: those of every format too, as pip calls them."""
    needs = [part for facts in EXPORT_FORMATS.values() for part in (facts.writes, facts.opens, facts.int8 or {})]
    asked = " ".join(command for part in needs for command in part.values())
    return list(dict.fromkeys([*PACKAGES, *asked.split()]))


def main() -> int:
    """Print the table and write it as JSON."""
    parser = flags(__doc__, "runtimes", photos=False, turns=False)
    parser.add_argument("--weights", default="", help="weights of any kind (default: an untrained YOLOv3-tiny)")
    parser.add_argument(
        "--data", default="", help="data set, to calibrate int8 on and to measure AP (default: neither)"
    )
    parser.add_argument("--data-root", default="", help="folder of the built-in data sets")
    parser.add_argument("--split", default="val", help="split that AP is measured on (default val)")
    parser.add_argument("--imgsz", type=positive_int, default=320, help="network input in pixels (default 320)")
    parser.add_argument("--formats", nargs="+", default=[], metavar="NAME", help="pytorch and formats (default: all)")
    parser.add_argument("--turns", type=positive_int, default=7, help="turns of each side (default 7)")
    parser.add_argument("--each", type=positive_int, default=5, help="photos of a turn (default 5)")
    parser.add_argument(
        "--peer", action="store_true", help=f"ultralytics' files of its {PEER_WEIGHTS} as further sides"
    )
    settings = parser.parse_args()
    if not is_alone():
        return run_alone()
    torch.set_num_threads(1)
    start = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(settings, Path(folder))
    setup = {
        "weights": Path(settings.weights).name or "untrained yolov3-tiny",
        "data": "/".join(Path(settings.data).parts[-2:]),
        "split": settings.split if settings.data else "",
        "imgsz": settings.imgsz,
        "turns": settings.turns,
        "each": settings.each,
        "threads": 1,
        "load_at_start": start,
    }
    conclude("runtimes", rows, settings.out, packages(), setup)
    return 0


if __name__ == "__main__":
    run_command(main)
