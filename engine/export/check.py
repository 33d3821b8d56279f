"""Compares an exported file with PyTorch on photos."""

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.images import ImageError, read_image
from data.shapes.scene import draw_scene
from engine.export.backend import Backend
from engine.export.job import Job
from engine.export.weights import torch_backend
from models.postprocess import Postprocess
from models.yolov3.export_network import for_detection
from utils.errors import ExportMismatch, UserError, printable
from utils.letterbox import Letterbox
from utils.ultralytics_only import file_loader

CHECKED_PHOTOS = 4  # that are drawn
MOST_PHOTOS = 32  # of --source
# By the numbers that a file stores: the largest difference of a score, and of a box side in pixels, where a score is at
# least .05.
TOLERANCES = {"float32": (1e-3, 0.5), "float16": (2e-2, 4.0)}
TOLERANCE = TOLERANCES["float32"]
# A network with strong heads differs from itself by more, when only the order of its sums changes: so much more is
# allowed, and never more than five times the above.
ROUNDING, MOST = 3.0, 5.0
COUNTED_SCORE = 0.05
# Where no score of the photos counts, the best do: so many at most, above the widest gap among them, so that rounding
# takes none across. None below the least, and none where the gap is no larger than that.
BEST, LEAST_SCORE, LEAST_GAP = 50, 1e-6, 1.001
UNLIKE = 50  # of so many detections of proposals, or behind NMS in a file, one may have no other like it
MOST_PAIRS = 4_000_000  # of detections that are compared with each other


def photos(source: str, size: tuple[int, int]) -> Iterator[np.ndarray]:
    """Yield photos of `source`, or drawn ones, letterboxed (H, W, 3); UserError where none can be read.

    Of many, as many as are kept in memory and computed in a minute: 32, from all over the source.
    """
    if not source:
        for seed in range(CHECKED_PHOTOS):
            image = draw_scene(np.random.Generator(np.random.PCG64(seed)), 256).image
            yield Letterbox.fit(image.shape[:2], size).apply(image)
        return
    try:
        files = file_loader(source, 1).files
    except (FileNotFoundError, OSError) as error:
        raise UserError(f"--source {printable(source)}: {printable(error)}") from None
    read = 0
    for row in spread(len(files), MOST_PHOTOS):
        file = files[row]
        if read == MOST_PHOTOS:
            print(f"--source {printable(source)}: checked with {read} photos of {len(files)}, evenly spaced")
            return
        try:
            image = read_image(file)
        except ImageError as error:
            print(f"not checked with {printable(error)}")
            continue
        read += 1
        yield Letterbox.fit(image.shape[:2], size).apply(image)
    if not read:
        raise UserError(f"--source {printable(source)}: expected photos to check the export with, none can be read")


def spread(count: int, most: int) -> list[int]:
    """Return 0 to `count` - 1, first `most` from all over them, then the others, for where some cannot be used."""
    chosen = np.linspace(0, count - 1, min(most, count)).round().astype(int).tolist()
    return list(dict.fromkeys([*chosen, *range(count)]))


def check(
    exported: Backend,
    path: Path,
    job: Job,
    images: Sequence[np.ndarray],
    at_confidence: Callable[[float], AbstractContextManager[Backend]],
) -> str:
    """Compare a file's outputs with PyTorch's on photos and say in a line what was compared.

    Where no score on them is high enough to be compared, lower ones are; `at_confidence` opens a file with NMS of its
    own as it would be with another confidence. Raises ExportMismatch where the differences are too large.
    """
    best, proposes = best_scores(torch_backend(job.detector, job.config), _inputs(exported, job, images))
    selects = exported.final or proposes
    usual = job.settings.conf if selects else COUNTED_SCORE
    least = usual if best[0] > usual else lowest(best, selects)
    worst, rounding = furthest(exported, job, images, usual)
    if least is not None and least < usual:
        with at_confidence(least) if exported.final else nullcontext(exported) as lower:
            found = furthest(lower, job, images, least)
        worst, rounding = np.maximum(worst, found[0]), np.maximum(rounding, found[1])
    stored = "float16" if job.settings.half else "float32"
    limits = allowed(TOLERANCES[stored], rounding)
    told = f"{len(images)} photos, scores differ by up to {worst[0]:.1e}, boxes by {worst[1]:.1e} px"
    if not (worst <= limits).all():
        name, most = path.name.removeprefix(".exporting-"), f"{limits[0]:.2g} and {limits[1]:.2g} px"
        raise ExportMismatch(f"{name}: {told}; allowed for {stored} {most}")
    above = f"{'--conf ' if exported.final else ''}{usual:g}"
    if least is None:
        return f"not compared: nothing on {len(images)} photos scores more than {above}: name others by --source"
    return f"checked: {told}" + (f" (no score above {above}: compared above {least:.2g})" if least < usual else "")


def best_scores(reference: Backend, inputs: Iterator[Tensor]) -> tuple[Tensor, bool]:
    """Return the best scores on images, falling, one more than are ever compared, and whether the network proposes."""
    best, proposes = torch.zeros(1), False
    for images in inputs:
        _, scores = reference.run(images)
        proposes = isinstance(scores, list)
        found = torch.cat([each.amax(-1).flatten() for each in scores])
        best = torch.cat([best, found]).sort(descending=True).values[: BEST + 1]
    return best, proposes


def lowest(best: Tensor, selects: bool) -> float | None:
    """Choose a score below some of the `best`, which fall; None where they are next to nothing, or too nearly equal.

    With `selects` the score decides which boxes are there, so that it lies far from any.
    """
    scores = best[best >= LEAST_SCORE].double()
    if not len(scores) or not selects:
        return float(scores[0]) / 2 if len(scores) else None
    if len(scores) <= BEST:
        scores = torch.cat([scores, scores.new_tensor([LEAST_SCORE / 2])])
    gaps = scores[:-1] / scores[1:]
    place = int(gaps.argmax())
    return math.sqrt(float(scores[place] * scores[place + 1])) if gaps[place] > LEAST_GAP else None


def furthest(
    exported: Backend, job: Job, images: Sequence[np.ndarray], confidence: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the differences (score, pixels) of a file from PyTorch, and of PyTorch from itself by rounding alone."""
    reference = torch_backend(job.detector, job.config)
    again = torch_backend(job.detector.with_network(for_detection(job.detector.network)), job.config)
    settings = job.settings
    # NMS in a file looks at every box.
    postprocess = Postprocess(confidence, settings.nms_iou, settings.max_det, top_k=sys.maxsize, multi_label=False)
    worst, rounding = np.zeros(2), np.zeros(2)
    for tensor in _inputs(exported, job, images):
        found = [differences(side, reference, tensor, postprocess) for side in (exported, again)]
        worst, rounding = np.maximum(worst, found[0]), np.maximum(rounding, found[1])
    return worst, rounding


def allowed(tolerance: tuple[float, float], rounding: np.ndarray) -> np.ndarray:
    """Return the tolerance of scores and of box sides for a network that float32 alone moves by `rounding` (2,)."""
    least = np.array(tolerance)
    return np.clip(ROUNDING * rounding, least, MOST * least)


def _inputs(exported: Backend, job: Job, images: Sequence[np.ndarray]) -> Iterator[Tensor]:
    """Yield the photos in batches of the exported size, and two of another size where the file takes any."""
    yield from batches(images, exported.batch or job.settings.batch_size)
    if exported.dynamic and exported.batch is None and len(images):
        pair = torch.from_numpy(np.stack([images[0]] * 2)).permute(0, 3, 1, 2)
        yield (pair[..., : job.size[0] - exported.stride or None, :] / 255).contiguous()


def batches(images: Sequence[np.ndarray], batch: int) -> Iterator[Tensor]:
    """Yield batches (B, 3, H, W) in [0, 1], the last one filled up."""
    for start in range(0, len(images), batch):
        rows = [images[min(start + row, len(images) - 1)] for row in range(batch)]
        yield (torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2).float() / 255).contiguous()


def differences(exported: Backend, reference: Backend, images: Tensor, postprocess: Postprocess) -> np.ndarray:
    """Return the largest difference of scores, and in pixels of boxes that score .05, or the confidence, or more.

    Of a box larger than the image it is taken relative to that.
    """
    boxes, scores = reference.run(images)
    found = exported.run(images)
    if isinstance(boxes, list):
        left = found if exported.final else [postprocess.select(*image) for image in zip(*found, strict=True)]
        pairs = zip(boxes, scores, left, strict=True)
        return np.max([of_proposals(postprocess.select(*wanted), each, images) for *wanted, each in pairs], axis=0)
    if not exported.final:
        least = min(COUNTED_SCORE, postprocess.confidence)
        counted = (scores.amax(-1) >= least) | (found[1].amax(-1) >= least)
        if found[0].shape != boxes.shape:
            return np.array([np.inf, np.inf])
        moved = (found[0] - boxes) / _beyond(boxes, images)
        return np.array([_largest(found[1] - scores), _largest(moved[counted])])
    pairs = zip(boxes, scores, found, strict=True)
    return np.max([of_detections(postprocess.select(*wanted), each, images) for *wanted, each in pairs], axis=0)


def of_detections(expected: dict[str, Tensor], found: dict[str, Tensor], images: Tensor) -> np.ndarray:
    """Compare the detections of a file with NMS, by their order or each with the most alike, whichever is nearer.

    Rounding decides the order of scores that are nearly equal, and whether one at the threshold is there.
    """
    counts, ordered = [len(each["scores"]) for each in (expected, found)], np.full(2, np.inf)
    if counts[0] == counts[1] and torch.equal(found["labels"], expected["labels"]):
        moved = (found["boxes"] - expected["boxes"]) / _beyond(expected["boxes"], images)
        ordered = np.array([_largest(found["scores"] - expected["scores"]), _largest(moved)])
    if (ordered <= TOLERANCE).all() or counts[0] * counts[1] > MOST_PAIRS:
        return ordered
    # A file that leaves out NMS has more boxes, each like one that is expected.
    if abs(counts[0] - counts[1]) > sum(counts) // UNLIKE:
        return ordered
    alike = of_proposals(expected, found, images)
    return min(ordered, alike, key=lambda apart: float((apart / np.array(TOLERANCE)).max()))


def of_proposals(expected: dict[str, Tensor], found: dict[str, Tensor], images: Tensor) -> np.ndarray:
    """Compare the detections of a detector that proposes boxes, each with the most alike of its class.

    Where two proposals are nearly alike, rounding decides which one is left: one detection in fifty may have no other.
    """
    if not len(expected["scores"]) or not len(found["scores"]):
        return np.full(2, 0.0 if len(expected["scores"]) == len(found["scores"]) else np.inf)
    gaps = torch.stack(
        [
            (expected["scores"][:, None] - found["scores"][None]).abs(),
            ((expected["boxes"][:, None] - found["boxes"][None]) / _beyond(expected["boxes"], images)[:, None])
            .abs()
            .amax(-1),
        ]
    )
    gaps[:, expected["labels"][:, None] != found["labels"][None]] = torch.inf
    apart = (gaps / torch.tensor(TOLERANCE)[:, None, None]).amax(0)
    nearest = torch.cat([apart.amin(1), apart.amin(0)]).sort().values
    # In units of the tolerance, which the limits of both parts are multiples of.
    kept = nearest[: len(nearest) - len(nearest) // UNLIKE]
    return float(kept.max()) * np.array(TOLERANCE)


def _beyond(boxes: Tensor, images: Tensor) -> Tensor:
    """Return how many times larger than the image (B, 3, H, W) boxes (..., 4) are, at least 1."""
    sides = boxes[..., 2:] - boxes[..., :2]
    return (sides.amax(-1, keepdim=True) / max(images.shape[-2:])).clamp_min(1)


def _largest(values: Tensor) -> float:
    return float(values.abs().max().nan_to_num(nan=np.inf)) if values.numel() else 0.0
