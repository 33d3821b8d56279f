"""Seconds and memory to score 5,000 images with 300 detections each, beside pycocotools on the same boxes.

python -m benchmarks.evaluation             --ours leaves pycocotools out
"""

import contextlib
import io
import resource
import time

import numpy as np

from benchmarks.measuring.side_by_side import positive_int
from utils.config.flags import Parser
from utils.errors import run_command
from utils.metrics.coco_metrics import CocoMetrics

CLASSES = 80
DETECTIONS = 300


def scene(images: int) -> tuple[tuple, list[tuple]]:
    """Return random truths, about 7 an image, and 300 detections an image of which some lie on truths."""
    random = np.random.default_rng(0)
    counts = random.poisson(7, images)
    starts = np.concatenate([[0], counts.cumsum()])
    corner, side = random.uniform(0, 500, (starts[-1], 2)), np.exp(random.uniform(2, 5.5, (starts[-1], 2)))
    boxes, labels = np.concatenate([corner, corner + side], 1), random.integers(0, CLASSES, starts[-1])
    found = []
    for image in range(images):
        own = slice(starts[image], starts[image + 1])
        rows = random.integers(starts[image], max(starts[image + 1], starts[image] + 1), DETECTIONS).clip(
            0, starts[-1] - 1
        )
        near = boxes[rows] + random.normal(0, 0.1, (DETECTIONS, 4)) * np.tile(side[rows], 2)
        noise = random.uniform(0, 500, (DETECTIONS, 2))
        noise = np.concatenate([noise, noise + np.exp(random.uniform(2, 5.5, (DETECTIONS, 2)))], 1)
        on_truth = (random.random(DETECTIONS) < 0.1) & (own.start < own.stop)
        kinds = np.where(on_truth, labels[rows], random.integers(0, CLASSES, DETECTIONS))
        ordered = np.concatenate([np.minimum(near[:, :2], near[:, 2:]), np.maximum(near[:, :2], near[:, 2:])], 1)
        found.append((np.where(on_truth[:, None], ordered, noise), random.random(DETECTIONS), kinds))
    return (np.full((images, 2), 640), starts, boxes, labels), found


def score_ours(truths: tuple, found: list[tuple]) -> float:
    """Return AP by this project."""
    metrics = CocoMetrics(*truths, [str(number) for number in range(CLASSES)])
    for image, part in enumerate(found):
        metrics.add(image, *part)
    return metrics.compute().overall["ap"]


def score_pycocotools(truths: tuple, found: list[tuple]) -> float:
    """Return AP by pycocotools."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    sizes, starts, boxes, labels = truths
    truth_set = COCO()
    annotations = []
    for image in range(len(sizes)):
        for (x1, y1, x2, y2), label in zip(
            boxes[starts[image] : starts[image + 1]].tolist(),
            labels[starts[image] : starts[image + 1]].tolist(),
            strict=True,
        ):
            box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0}
            annotations.append({"id": len(annotations) + 1, "image_id": image, "category_id": label, **box})
    truth_set.dataset = {
        "images": [{"id": image} for image in range(len(sizes))],
        "categories": [{"id": number} for number in range(CLASSES)],
        "annotations": annotations,
    }
    truth_set.createIndex()
    results = [
        {"image_id": image, "category_id": label, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score}
        for image, part in enumerate(found)
        for (x1, y1, x2, y2), score, label in zip(*(column.tolist() for column in part), strict=True)
    ]
    evaluation = COCOeval(truth_set, truth_set.loadRes(results), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    precision = evaluation.eval["precision"][..., 0, -1]
    return float(precision[precision > -1].mean())


def main() -> None:
    """Print seconds, peak memory, AP, and the ratio."""
    parser = Parser(prog="python -m benchmarks.evaluation", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("images", nargs="?", type=positive_int, default=5000, help="how many (default 5000)")
    parser.add_argument("--ours", action="store_true", help="without pycocotools")
    options = parser.parse_args()
    images = options.images
    truths, found = scene(images)
    seconds = {}  # of CPU: what it takes on a machine with nothing else to do, for both compute in one thread
    for name, score in (("this project", score_ours), ("pycocotools", score_pycocotools)):
        if name == "pycocotools" and options.ours:
            continue
        start, cpu = time.perf_counter(), time.process_time()
        with contextlib.redirect_stdout(io.StringIO()):
            ap = score(truths, found)
        wall, seconds[name] = time.perf_counter() - start, time.process_time() - cpu
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(
            f"{name:<13} {wall:6.1f} s ({seconds[name]:.1f} s of CPU)  peak memory so far {peak:.2f} GiB  AP {ap:.12f}",
            flush=True,
        )
    if len(seconds) == 2:
        print(
            f"{images:,} images, {DETECTIONS} detections each: {seconds['pycocotools'] / seconds['this project']:.1f} x"
        )


if __name__ == "__main__":
    run_command(main)
