"""Kills runs at random moments and spoils their checkpoints: whatever is left must end as if nothing had happened.

python -m tests.torture                                 200 kills, 2,000 flipped bits, 500 zeroed blocks: make torture
python -m tests.torture --kills 20 --flips 200 --blocks 50 --seconds 300

Not part of the test suite, for it takes as long as it is given. Each kind of run is first made undisturbed; its twins
are killed by SIGKILL, gone on with, killed again, and at last left alone: weights, results.csv (but for times) and
metrics.json must then be equal to the bit.
"""

import argparse
import contextlib
import io
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from convert import main as convert
from data.shapes.demo_set import make_shapes
from engine.export.runtimes import open_backend
from engine.train.resume import load_last
from export import export
from train import train
from utils.checkpoint import load_checkpoint
from utils.errors import UserError
from utils.run_folder import read_csv

NARROW = ["channels=[8,8,16,16,32,32,64]", "nominal_batch=8"]
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "two loading processes": {"workers": 2},
    "photos in memory": {"cache": True},
    "mosaics of a batch": {"set": [*NARROW, "mosaic_from=batch"]},
    "multi-scale": {"multi_scale": True},
    "stopped by patience": {"patience": 2, "epochs": 30, "set": [*NARROW, "lr0=0", "warmup_bias_lr=0"]},
    "long final validation": {"epochs": 1},
    "RetinaNet": {"cfg": "retinanet_resnet18_fpn", "set": ["fpn_channels=16"], "batch_size": 4, "imgsz": [128]},
}
KILLS_EACH = 5  # of one run, before it is left alone
BLOCK = 4096


class Failure(Exception):
    """What differs from the undisturbed twin."""


def in_child(action: Callable[[], object], kill_after: float | None = None) -> tuple[int, float]:
    """Run an action in a forked process; its exit code, or -9 if it was killed, and the CPU seconds it took.

    `kill_after` is in CPU seconds too: how far a process gets in one of the clock's depends on what else runs.
    """
    number = os.fork()
    if not number:
        code = 1
        with contextlib.suppress(BaseException), Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
            action()
            code = 0
        os._exit(code)
    if kill_after is not None:
        while not ended(number) and cpu_seconds(number) < kill_after:
            time.sleep(0.002)
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
    os.waitid(os.P_PID, number, os.WEXITED | os.WNOWAIT)
    used = cpu_seconds(number)
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1]), used


def cpu_seconds(number: int) -> float:
    """How long a child process that was not waited for has computed, without its own children."""
    user, system = Path(f"/proc/{number}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def ended(number: int) -> bool:
    """Whether a child process is over; it stays to be waited for."""
    return os.waitid(os.P_PID, number, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def untimed(run: Path) -> list[dict[str, str]]:
    """The rows of a run's results.csv without what a clock told."""
    timed = ("seconds", "images_per_second")
    return [{key: value for key, value in row.items() if key not in timed} for row in read_csv(run / "results.csv")]


def flags_of(name: str, data: Path, project: Path) -> dict[str, Any]:
    """The flags of a kind of run, in seconds."""
    flags = {
        "data": str(data), "imgsz": [64], "batch_size": 8, "epochs": 6, "workers": 0, "device": "cpu", "amp": "off",
        "plots": False, "project": str(project), "set": NARROW, "exist_ok": True,
    }  # fmt: skip
    return {**flags, **SETTINGS[name]}


def go_on(folder: Path, flags: dict[str, Any]) -> None:
    """Resume a run, or begin it where it has saved nothing yet, or do nothing where it is over."""
    if (folder / "metrics.json").is_file():
        return
    saved = any((folder / "weights" / name).is_file() for name in ("last.pt", "last_prev.pt"))
    train(**({"resume": str(folder)} if saved else flags))


def compare(whole: Path, other: Path) -> None:
    """Failure unless two runs ended in the same way."""
    for name in ("last.pt", "best.pt"):
        first, second = (load_checkpoint(each / "weights" / name) for each in (whole, other))
        for part in ("network", "model"):
            if not all(torch.equal(value, second[part][key]) for key, value in first.get(part, {}).items()):
                raise Failure(f"{name}: {part} differs")
    if untimed(whole) != untimed(other):
        raise Failure("results.csv differs")
    if json.loads((whole / "metrics.json").read_text()) != json.loads((other / "metrics.json").read_text()):
        raise Failure("metrics.json differs")
    left = [path.name for path in other.rglob(".*") if path.name != ".lock"]
    if left:
        raise Failure(f"left behind: {left}")


def kill_runs(folder: Path, data: Path, draw: random.Random, kills: int, until: float) -> Counter:
    """Kill runs of every kind in turn; how often, and how many runs were compared."""
    counted: Counter = Counter()
    twins: dict[str, tuple[Path, float]] = {}
    for number in range(10**6):
        name = list(SETTINGS)[number % len(SETTINGS)]
        if counted["kills"] >= kills or time.monotonic() > until:
            break
        if name not in twins:
            flags = flags_of(name, data, folder / f"whole {name}")
            code, took = in_child(lambda flags=flags: train(**flags))
            if code:
                raise Failure(f"{name}: the undisturbed run ended with {code}")
            twins[name] = folder / f"whole {name}" / "exp", took
        whole, took = twins[name]
        flags = flags_of(name, data, folder / f"killed {number}")
        run = folder / f"killed {number}" / "exp"
        for _ in range(KILLS_EACH):
            # What is left of a run takes less and less: the first kills fall anywhere, the last ones near its end.
            code, _ = in_child(lambda run=run, flags=flags: go_on(run, flags), took * draw.uniform(0.02, 0.7))
            counted["kills"] += code == -signal.SIGKILL
            counted[f"kills, {name}"] += code == -signal.SIGKILL
            if code not in (0, -signal.SIGKILL):
                raise Failure(f"{name}: going on ended with {code}")
        code, _ = in_child(lambda run=run, flags=flags: go_on(run, flags))
        if code:
            raise Failure(f"{name}: the last part ended with {code}")
        try:
            compare(whole, run)
        except Failure as failure:
            raise Failure(f"{name} in {run}: {failure}") from None
        counted["runs equal to their twin"] += 1
        progress(counted, kills)
    return counted


def progress(counted: Counter, asked: int) -> None:
    """Say how far it is: an hour without a word looks like a hang."""
    print(f"{counted['kills']} of {asked} kills", file=sys.stderr, flush=True)


def kill_writers(folder: Path, data: Path, best: Path, draw: random.Random, kills: int, until: float) -> Counter:
    """Kill exports and conversions; what is there afterwards is whole, and the next one succeeds."""
    counted: Counter = Counter()
    twins: dict[str, tuple[Any, float]] = {}
    files = {"onnx": "best.onnx", "torchscript": "best.torchscript", "safetensors": "best.safetensors"}
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for number in range(10**6):
        if counted["kills"] >= kills or time.monotonic() > until:
            break
        name = [*files, "convert"][number % (len(files) + 1)]
        place = folder / f"written {number}"
        place.mkdir()
        target = place / ("set" if name == "convert" else files[name])

        def write(name: str = name, target: Path = target) -> None:
            if name == "convert":
                convert(["yolo", str(data), str(target), "--exist-ok"])
            else:
                export(weights=str(best), format=[name], output=str(target))

        if name not in twins:
            whole = folder / f"whole {target.name}"
            code, took = in_child(lambda write=write, whole=whole: write(target=whole))
            if code:
                raise Failure(f"{name}: the undisturbed one ended with {code}")
            twins[name] = outcome(name, whole, images), took
        expected, took = twins[name]
        fresh = target
        if number // (len(files) + 1) % 2:  # replacing what is there, or writing it for the first time
            in_child(write)
        for _ in range(KILLS_EACH):
            code, _ = in_child(lambda write=write, fresh=fresh: write(target=fresh), took * draw.uniform(0.02, 0.7))
            counted["kills"] += code == -signal.SIGKILL
            counted[f"kills, {name}"] += code == -signal.SIGKILL
            if fresh.exists() and not equal(outcome(name, fresh, images), expected):
                raise Failure(f"{name}: {fresh} is there, and not whole")
        code, _ = in_child(lambda write=write, fresh=fresh: write(target=fresh))
        if code or not equal(outcome(name, fresh, images), expected):
            raise Failure(f"{name}: the one after the kills ended with {code}")
        counted["files equal to their twin"] += 1
    return counted


def outcome(name: str, path: Path, images: torch.Tensor) -> Any:
    """What a file computes, or what lies in a converted folder."""
    if name == "convert":
        files = sorted(each for each in path.rglob("*") if each.is_file() and each.suffix in (".json", ".jpg"))
        return [(str(each.relative_to(path)), each.read_bytes()) for each in files if "annotations" in each.parts]
    return [torch.stack(list(part)) for part in open_backend(path).run(images)]


def equal(first: list, second: list) -> bool:
    """Whether two outcomes are the same."""
    same = zip(first, second, strict=False)
    return len(first) == len(second) and all(
        torch.equal(one, two) if isinstance(one, torch.Tensor) else one == two for one, two in same
    )


def spoil(run: Path, draw: random.Random, flips: int, blocks: int) -> Counter:
    """Flip bits of last.pt and best.pt and zero blocks of them: every one is refused, and last_prev.pt taken."""
    counted: Counter = Counter()
    for kind, times in (("flipped bits", flips), ("zeroed blocks", blocks)):
        for number in range(times):
            path = run / "weights" / ("last.pt", "best.pt")[number % 2]
            whole = path.read_bytes()
            spoilt = bytearray(whole)
            if kind == "flipped bits":
                spoilt[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
            else:
                start = draw.randrange(-(-len(whole) // BLOCK)) * BLOCK
                spoilt[start : start + BLOCK] = bytes(len(whole[start : start + BLOCK]))
            counted[kind] += spoilt != whole
            path.write_bytes(spoilt)
            try:
                with contextlib.redirect_stderr(io.StringIO()):
                    taken = load_last(path)[0].name if path.name == "last.pt" else load_checkpoint(path) and path.name
                counted["silent"] += taken == path.name and spoilt != whole
            except UserError:
                counted["silent"] += path.name == "last.pt"
            finally:
                path.write_bytes(whole)
    return counted


def told(parts: Iterable[Counter]) -> bool:
    """Print all counts; whether none was silent."""
    for part in parts:
        for name, count in part.items():
            print(f"{count:>6}  {name}")
    return not sum(part["silent"] for part in parts)


def main() -> int:
    """The command: exit code 1 for a run that differs, or damage that nobody saw."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture")
    for name, default in (("kills", 200), ("flips", 2000), ("blocks", 500), ("seconds", 7200), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    draw, until = random.Random(asked.seed), time.monotonic() + asked.seconds
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data = make_shapes(folder / "shapes", seed=1, train=24, val=12, size=96)
        run = folder / "first" / "exp"
        code, _ = in_child(lambda: train(**flags_of("plain", data, folder / "first")))
        if code:
            raise Failure(f"the first run ended with {code}")
        best = run / "weights" / "best.pt"
        share = asked.kills // 5  # exports and conversions
        parts = [spoil(run, draw, asked.flips, asked.blocks)]
        try:
            some = min(time.monotonic() + asked.seconds / 4, until)
            parts.append(kill_writers(folder, data, best, draw, share, some))
            parts.append(kill_runs(folder, data, draw, asked.kills - share, until))
        except Failure as failure:
            told(parts)
            print(f"FAILED  {failure}", file=sys.stderr)
            return 1
        return 0 if told(parts) else 1


if __name__ == "__main__":
    sys.exit(main())
