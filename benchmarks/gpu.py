"""Images per second of training on a GPU, and their share of the GPU's bf16 limit, beside the ultralytics package.

bash benchmarks/gpu.sh        all of it, in one call of less than ten minutes on a bare machine

YOLOv3-tiny and YOLOv3 at 640 px on drawn photos: with the photos on the GPU (`--cache device`), with loading processes
that read them from RAM, and the peer's trainer on its own YAML, also from RAM. Each side's first epoch is left out: it
holds what is done once. The limit is what the GPU reaches on products of large bf16 matrices; of it a training step has
three times the operations of a forward pass (ours; the peer's networks have others). The JSON is written after every
side, so that a call that is cut off leaves what it has measured.
"""

import json
import statistics
import tempfile
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measuring.side_by_side import conclude, flags, positive_int, spread
from benchmarks.measuring.watch import run_watched
from benchmarks.training import OURS, PEER, Clock, finish_work, run_ours, run_peer
from data.shapes.demo_set import make_shapes
from models.yolov3.build import build_network
from utils.config.sources import model_config
from utils.errors import UserError, run_command

CLASSES = 3
# Name, side of benchmarks.training, and where the photos of training are kept.
SIDES = (("ours, photos on the GPU", OURS, "device"), ("ours, loading processes", OURS, "ram"), (PEER, PEER, "ram"))
TRAINING_PASSES = 3


def bf16_limit(device: torch.device, side: int, repeats: int = 10) -> float:
    """Return the floating-point operations per second of the product of two bf16 matrices of side x side."""
    one, other = (torch.randn(side, side, device=device).bfloat16() for _ in range(2))
    for repeat in range(repeats + 3):
        if repeat == 3:
            finish_work()
            start = time.perf_counter()
        torch.mm(one, other)
    finish_work()
    return 2 * side**3 * repeats / (time.perf_counter() - start)


def operations(cfg: str, imgsz: int, classes: int = CLASSES) -> int:
    """Count the floating-point operations of one image's forward pass through our network."""
    network = build_network(model_config(cfg, {}), classes, cpu_kernels=False).eval().to("meta")
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network(torch.empty(1, 3, imgsz, imgsz, device="meta"))
    return counter.get_total_flops()


def main() -> int:
    """Print and write the table."""
    settings = read_flags()
    if settings.task:
        task, clock = Namespace(**json.loads(settings.task)), Clock()
        (run_ours if task.side == OURS else run_peer)(task, clock)
        print(json.dumps([wall for wall, _ in clock.epochs]))
        return 0
    if settings.epochs < 2:
        raise UserError(f"--epochs {settings.epochs}: expected at least 2, since the first one does not count")
    device = torch.device(settings.device if settings.device == "cpu" else f"cuda:{settings.device}")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError("--device 0: PyTorch finds no GPU here; --device cpu tries the script without one")
    start, limit = time.monotonic(), bf16_limit(device, settings.matrix)
    setup = {"bf16 TFLOP/s": limit / 1e12, **{key: vars(settings)[key] for key in ("imgsz", "batch", "photos")}}
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        data = make_shapes(Path(folder) / "shapes", train=settings.photos, val=settings.batch, size=settings.imgsz)
        for cfg in settings.cfgs:
            needed = TRAINING_PASSES * operations(cfg, settings.imgsz)
            for name, side, cache in SIDES:
                if time.monotonic() - start > 60 * settings.minutes:
                    rows.append({"side": name, "network": cfg, "img/s": "not measured: no time left"})
                    continue
                project = tempfile.mkdtemp(dir=folder)
                task = {"side": side, "cfg": cfg, "cache": cache, "data": str(data), "project": project}
                rows.append(measured(name, vars(settings) | task, needed, limit))
                conclude("gpu", rows, settings.out, setup=setup)
    return 0


def read_flags() -> Namespace:
    """Read the command line."""
    parser = flags(__doc__, "gpu", photos=False, turns=False)
    add = parser.add_argument
    add("--device", default="0", help="number of the GPU, or cpu to try the script (default 0)")
    add("--cfgs", nargs="+", default=["yolov3-tiny", "yolov3"], help="networks (default yolov3-tiny yolov3)")
    add("--imgsz", type=positive_int, default=640, help="network input in pixels (default 640)")
    add("--batch", type=positive_int, default=64, help="images per step (default 64)")
    add("--photos", type=positive_int, default=2048, help="drawn photos to train on (default 2048)")
    add("--epochs", type=positive_int, default=4, help="epochs of each side, the first not counted (default 4)")
    add("--minutes", type=float, default=7.0, help="begin no side after so many minutes (default 7)")
    add("--matrix", type=positive_int, default=8192, help="side of the matrices that show the limit (default 8192)")
    add("--task", default="", help="for the benchmark itself: be one side, as this JSON says")
    return parser.parse_args()


def measured(name: str, task: dict[str, object], needed: int, limit: float) -> dict[str, object]:
    """Train as one side in a process of its own and return its row; a side that fails is a row that says so."""
    try:
        done = run_watched("benchmarks.gpu", "--task", json.dumps(task))
    except UserError as error:
        return {"side": name, "network": task["cfg"], "img/s": f"failed: {str(error).strip().splitlines()[-1][:200]}"}
    share = needed / limit if task["side"] == OURS else None
    return row(name, str(task["cfg"]), json.loads(done.output.splitlines()[-1]), share)


def row(name: str, cfg: str, seconds: Sequence[float], share: float | None) -> dict[str, object]:
    """Return the row of a side from its epochs' seconds per image; `share`: of the limit, at one image a second."""
    speeds = [1 / each for each in seconds[1:]]
    values: dict[str, object] = {f"img/s {key}": value for key, value in spread(speeds).items()}
    if share is not None:
        values["share of the bf16 limit"] = statistics.median(speeds) * share
    return {"side": name, "network": cfg, **values}


if __name__ == "__main__":
    run_command(main)
