"""Milliseconds of loss and assignment, forward and backward, for every assigner and 10 to 3,200 truths a batch.

python -m benchmarks.loss [--imgsz 320] [--batch 16] [--turns 3] [--threads 1] [--bf16] [--yolov5]

YOLOv3-tiny with 80 classes, CIoU. The peer is the ultralytics package's loss on its yolov3-tiny: another
algorithm (task-aligned assignment, distribution focal loss, no objectness) on other outputs of the same size of grid.
--bf16 gives ours its outputs in bfloat16, as a training with mixed precision does. --yolov5 adds the yolov5 package's,
which is `anchor_ratio`'s algorithm and ultralytics/yolov3's loss.
"""

import importlib.util
import statistics
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from alignyolo.anchors import build_anchors
from alignyolo.targets import Targets
from benchmarks.measuring.side_by_side import conclude, flags, positive_int, silence, spread
from benchmarks.measuring.yolov5_package import YOLOV5, add_flag, check_flag
from models.yolov3.build import build_loss
from utils.config.knobs import ASSIGNER_NAMES, Config, RunConfig
from utils.config.sources import hyperparameters, model_config
from utils.errors import run_command
from utils.ultralytics_only import benchmark_peer

CLASSES = 80
TRUTHS = (10, 32, 128, 512, 3200)
PEER = "ultralytics (v8 loss)"
YOLOV5_MODEL = Path("models") / "hub" / "yolov3-tiny.yaml"


def random_targets(count: int, batch: int, side: int) -> Targets:
    """Return truths of COCO-like sizes, spread evenly over the images of a batch."""
    random = np.random.default_rng(count)
    half = np.exp(random.uniform(np.log(4), np.log(side / 3), (count, 2))) / 2
    center = half + random.uniform(0, 1, (count, 2)) * (side - 2 * half)
    boxes = torch.from_numpy(np.concatenate([center - half, center + half], 1)).float()
    labels = torch.from_numpy(random.integers(0, CLASSES, count))
    return Targets(boxes, labels, torch.arange(count) * batch // count)


def our_step(settings: Namespace, assigner: str) -> Callable[[Targets], None]:
    """Return a function that does the loss and its backward pass on random raw outputs."""
    side = settings.imgsz
    model = model_config("yolov3-tiny", {})
    names = tuple(str(number) for number in range(CLASSES))
    loss = build_loss(Config(RunConfig(imgsz=(side,)), model, hyperparameters("", {"assigner": assigner}), names))
    anchors = build_anchors((side, side), model.strides, model.anchors)
    raw = torch.randn(settings.batch, len(anchors.centers), 5 + CLASSES)
    raw = raw.to(torch.bfloat16 if settings.bf16 else torch.float32).requires_grad_()

    def step(targets: Targets) -> None:
        sum(loss(raw, anchors, targets).values()).backward()
        raw.grad = None

    return step


def peer_step(settings: Namespace) -> Callable[[Targets], None]:
    """Return a function that does the peer's loss and its backward pass, on outputs like its network's."""
    peer, side = benchmark_peer(), settings.imgsz
    model = peer.Model("yolov3-tiny.yaml", nc=CLASSES, verbose=False).train()
    model.args = peer.get_cfg(overrides={"task": "detect"})
    with torch.no_grad():
        outputs = model(torch.rand(settings.batch, 3, side, side))
    outputs = {
        key: value.detach().requires_grad_() if isinstance(value, Tensor) else value for key, value in outputs.items()
    }
    criterion = model.init_criterion()

    def step(targets: Targets) -> None:
        low, high = targets.boxes.split(2, 1)
        boxes = torch.cat([(low + high) / 2, high - low], 1) / side
        found, _ = criterion(
            outputs, {"batch_idx": targets.image.float(), "cls": targets.labels.float(), "bboxes": boxes}
        )
        found.sum().backward()
        for value in outputs.values():
            if isinstance(value, Tensor):
                value.grad = None

    return step


def yolov5_step(settings: Namespace) -> Callable[[Targets], None]:
    """Return a function that does the yolov5 package's loss, with its own gains, on random raw outputs."""
    with silence():
        from yolov5.models.yolo import DetectionModel
        from yolov5.utils.loss import ComputeLoss

        folder = Path(importlib.util.find_spec("yolov5").submodule_search_locations[0])
        model, side = DetectionModel(str(folder / YOLOV5_MODEL), nc=CLASSES), settings.imgsz
        model.hyp = {"box": 0.05, "cls": 0.5, "obj": 1.0, "cls_pw": 1.0, "obj_pw": 1.0}
        model.hyp |= {"anchor_t": 4.0, "fl_gamma": 0.0}
        criterion = ComputeLoss(model)
    grids = [side // int(stride) for stride in model.stride]
    raw = [torch.randn(settings.batch, 3, grid, grid, 5 + CLASSES).requires_grad_() for grid in grids]

    def step(targets: Targets) -> None:
        low, high = targets.boxes.split(2, 1)
        rows = torch.cat(
            [targets.image[:, None], targets.labels[:, None], (low + high) / 2 / side, (high - low) / side], 1
        )
        criterion(raw, rows)[0].backward()
        for level in raw:
            level.grad = None

    return step


def milliseconds(step: Callable[[Targets], None], targets: Targets, repeats: int) -> list[float]:
    """Return CPU time of single steps in one thread, wall time in several, after one that is not counted."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    step(targets)
    found = []
    for _ in range(repeats):
        start = clock()
        step(targets)
        found.append(1e3 * (clock() - start))
    return found


def main() -> int:
    """Print and write the table."""
    parser = flags(__doc__, "loss", photos=False)
    parser.add_argument("--imgsz", type=positive_int, default=320, help="network input in pixels (default 320)")
    parser.add_argument("--batch", type=positive_int, default=16, help="images per step (default 16)")
    parser.add_argument("--repeats", type=positive_int, default=7, help="steps of each turn (default 7)")
    parser.add_argument("--threads", type=positive_int, default=1, help="threads (default 1)")
    parser.add_argument("--bf16", action="store_true", help="our raw outputs in bfloat16")
    add_flag(parser)
    settings = parser.parse_args()
    check_flag(settings)
    torch.set_num_threads(settings.threads)
    torch.manual_seed(0)
    steps = {name: our_step(settings, name) for name in ASSIGNER_NAMES} | {PEER: peer_step(settings)}
    if settings.yolov5:
        steps[YOLOV5] = yolov5_step(settings)
    rows = []
    for count in TRUTHS:
        targets = random_targets(count, settings.batch, settings.imgsz)
        found: dict[str, list[float]] = {name: [] for name in steps}
        for _ in range(settings.turns):
            for name, step in steps.items():
                found[name] += milliseconds(step, targets, settings.repeats)
        base = statistics.median(found["anchor_ratio"])
        for name, times in found.items():
            row = {"side": name, "truths": count, **{f"ms {key}": value for key, value in spread(times).items()}}
            rows.append({**row, "of anchor_ratio": round(statistics.median(times) / base, 2)})
    conclude("loss", rows, settings.out)
    return 0


if __name__ == "__main__":
    run_command(main)
