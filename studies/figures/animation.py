"""An animation of boxes that move to a truth, side by side under each loss."""

import io
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from torch import Tensor

from alignyolo.similarities import bound
from alignyolo.similarities.iou import iou
from studies.charts import NAMES
from studies.figures.regression import Descent, step
from utils.config.knobs import StudyConfig

LOSSES = ("iou", "giou", "diou", "ciou", "so", "sca")
DESCENT = Descent(rate=0.2, weighted=False)
FRAME_STEPS = (*range(0, 100, 5), *range(100, 300, 10), *range(300, 801, 25))
MILLISECONDS, LAST_MILLISECONDS = 90, 3000
PALETTE = 32

TRUTH = (-4.0, -1.5, 4.0, 1.5)
# Apart on both axes, apart on one, crossing, around, inside, overlapping at a corner.
STARTS = (
    (-10.5, 5.0, -7.5, 8.0),
    (7.0, -2.0, 10.0, 3.0),
    (-1.5, -6.0, 1.0, 6.0),
    (-7.0, -4.0, 8.0, 5.5),
    (-1.0, -1.0, 0.5, 0.0),
    (2.5, -7.5, 7.5, -0.8),
)
COLORS = ("#d62728", "#1f77b4", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b")


@dataclass(frozen=True)
class Frame:
    """The boxes (N, 4) of every loss after some steps."""

    step: int
    boxes: dict[str, Tensor]


def frames(steps: tuple[int, ...] = FRAME_STEPS) -> list[Frame]:
    """Return the boxes of every loss at the given steps."""
    starts = torch.tensor(STARTS)
    truths = torch.tensor(TRUTH).expand_as(starts)
    boxes, shown = dict.fromkeys(LOSSES, starts), []
    for number in range(max(steps) + 1):
        if number in steps:
            shown.append(Frame(number, dict(boxes)))
        boxes = {name: step(boxes[name], truths, bound.similarity(name), DESCENT) for name in LOSSES}
    return shown


def mean_iou(boxes: Tensor) -> float:
    """Return the mean IoU of boxes (N, 4) with the truth."""
    return iou(boxes, torch.tensor(TRUTH)).mean().item()


def draw_panel(axes: Axes, name: str, boxes: Tensor) -> None:
    """Draw one loss: the truth filled, the boxes as outlines, the mean IoU as a bar below."""
    left, top, right, bottom = TRUTH
    axes.add_patch(Rectangle((left, top), right - left, bottom - top, facecolor="#c8c8c8", edgecolor="black"))
    for (x1, y1, x2, y2), color in zip(boxes.tolist(), COLORS, strict=True):
        axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=color, linewidth=2))
    value = mean_iou(boxes)
    axes.add_patch(Rectangle((-11, -9.9), 22, 1.1, facecolor="#eeeeee"))
    axes.add_patch(Rectangle((-11, -9.9), 22 * value, 1.1, facecolor="#404040"))
    axes.set(xlim=(-11.5, 11.5), ylim=(-10.2, 9), xticks=[], yticks=[], aspect="equal")
    axes.set_title(f"{NAMES[name]}   mean IoU {value:.2f}", fontsize=11)


def picture(frame: Frame) -> Image.Image:
    """Return a frame as an image."""
    figure = Figure(figsize=(8, 4.9), dpi=90, layout="constrained")
    for axes, name in zip(figure.subplots(2, 3).flat, LOSSES, strict=True):
        draw_panel(axes, name, frame.boxes[name])
    figure.suptitle(f"gradient descent on each loss alone: six boxes, one grey truth, step {frame.step}", fontsize=11)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    buffer.seek(0)
    return Image.open(buffer).convert("RGB")


def write_gif(shown: list[Frame], path: Path) -> None:
    """Write the frames as an endless GIF with one palette."""
    images = [picture(frame) for frame in shown]
    palette = images[len(images) // 3].quantize(PALETTE, dither=Image.Dither.NONE)
    flat = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    times = [MILLISECONDS] * (len(flat) - 1) + [LAST_MILLISECONDS]
    path.parent.mkdir(parents=True, exist_ok=True)
    flat[0].save(path, save_all=True, append_images=flat[1:], duration=times, loop=0, optimize=True)
    print(f"wrote {path} ({path.stat().st_size / 2**10:.0f} KiB)")


def run(settings: StudyConfig) -> None:
    """Write converging_boxes.gif."""
    steps = FRAME_STEPS[::3] if settings.quick else FRAME_STEPS
    write_gif(frames(steps), Path(settings.out) / "converging_boxes.gif")
