"""Draws every box loss: its value and gradient around an object, its gradient by IoU, its descent, its cost.

python -m studies.zoo                  into runs/studies/zoo: one picture a loss, zoo.csv and zoo.md
python -m studies.zoo sca siou         only these
"""

import time
from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.axes import Axes
from torch import Tensor

from alignyolo.registry import BASE_SIMILARITIES, SIMILARITIES
from alignyolo.similarities.bound import similarity
from alignyolo.similarities.iou import iou
from studies.charts import finish, markdown, new_figure, save_figure, save_rows
from studies.command import chosen
from studies.figures.regression import Descent, Similarity, curves
from utils.config.flags import Parser
from utils.config.knobs import DrawConfig
from utils.errors import run_command

SHOWN = (*BASE_SIMILARITIES, "inner_sca", "focaler_sca")
TRUTH = torch.tensor([-40.0, -30.0, 40.0, 30.0])  # pixels, seen from the object's centre
IMAGE = (640, 640)
FIELD, ARROWS, REACH = 81, 9, 120.0
PAIRS, BINS = 200_000, 20
TIMED, REPEATS = 1000, 15
DESCENTS = {"rate .2": Descent(0.2), "rate .2, gain matched to IoU's": Descent(0.2, matched=True)}


def shown(name: str) -> Similarity:
    """Return a similarity of two boxes alone, for an image of 640 px; a running mean stays where it starts."""
    found = similarity(name)
    around = {"image_size": IMAGE, "over_ranks": lambda values: values, "training": False}
    return lambda pred, target: found(pred, target, **around)


def loss_and_slope(function: Similarity, boxes: Tensor, truths: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss (N,) of boxes (N, 4) and its gradient (N, 4)."""
    leaf = boxes.clone().requires_grad_()
    loss = 1 - function(leaf, truths)
    (slope,) = torch.autograd.grad(loss.sum(), leaf)
    return loss.detach(), slope


def moved_centres(count: int) -> tuple[Tensor, Tensor]:
    """Return the object's box moved over a square grid: offsets (count^2, 2) and boxes (count^2, 4)."""
    steps = torch.linspace(-REACH, REACH, count)
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    offsets = torch.stack([x, y], dim=-1).reshape(-1, 2)
    return offsets, TRUTH + offsets.repeat(1, 2)


def draw_field(axes: Axes, function: Similarity) -> None:
    """Draw the loss over the centre's offset, and where a step against the gradient takes the centre."""
    _, boxes = moved_centres(FIELD)
    loss, _ = loss_and_slope(function, boxes, TRUTH.expand_as(boxes))
    drawn = loss.view(FIELD, FIELD).numpy()
    image = axes.imshow(drawn, extent=(-REACH, REACH, REACH, -REACH), cmap="viridis")
    axes.figure.colorbar(image, ax=axes, shrink=0.8)
    offsets, boxes = moved_centres(ARROWS)
    _, slope = loss_and_slope(function, boxes, TRUTH.expand_as(boxes))
    step = -(slope[:, :2] + slope[:, 2:])
    step = step / step.norm(dim=1, keepdim=True).clamp(min=1e-12)
    moving = slope.abs().amax(1) > 1e-9
    arrows = (part[moving].numpy() for part in (*offsets.unbind(1), *step.unbind(1)))
    axes.quiver(*arrows, angles="xy", color="white", scale=14, width=0.005)
    finish(axes, "loss, moving the centre", "x offset, pixels", "y offset, pixels")
    axes.grid(visible=False)


def draw_side(axes: Axes, function: Similarity) -> None:
    """Draw the loss and its gradient while the right side moves, the other three being right."""
    right = torch.linspace(-35, 200, 400)
    boxes = TRUTH.repeat(len(right), 1)
    boxes[:, 2] = right
    loss, slope = loss_and_slope(function, boxes, TRUTH.expand_as(boxes))
    axes.plot(right, loss, linewidth=2, color="#1f77b4", label="loss")
    axes.plot(right, slope[:, 2] * 40, linewidth=1.5, color="#d62728", label="gradient x 40 px")
    axes.axvline(40, color="black", linewidth=0.8, linestyle=":")
    finish(axes, "moving the right side (object's: 40)", "right side, pixels", "")
    axes.legend(fontsize=8)


def gradient_by_iou(function: Similarity) -> tuple[Tensor, Tensor]:
    """Return IoU bins' middles (BINS,), and there the mean length of gradient times object size (BINS,)."""
    generator = torch.Generator().manual_seed(7)
    shift, grow = torch.randn(2, PAIRS, 4, generator=generator)
    spread = torch.rand(PAIRS, 1, generator=generator)
    boxes = TRUTH + shift[:, :2].repeat(1, 2) * 40 * spread
    boxes = torch.cat([boxes[:, :2] - grow[:, :2].abs() * 30 * spread, boxes[:, 2:] + grow[:, 2:] * 15 * spread], dim=1)
    truths = TRUTH.expand_as(boxes)
    _, slope = loss_and_slope(function, boxes, truths)
    place = (iou(boxes, truths) * BINS).long().clamp(max=BINS - 1)
    length = slope.norm(dim=1) * TRUTH[2:].sub(TRUTH[:2]).prod().sqrt()
    total, count = (torch.zeros(BINS).index_add_(0, place, part) for part in (length, torch.ones(PAIRS)))
    return (torch.arange(BINS) + 0.5) / BINS, total / count.clamp(min=1)


def microseconds(functions: dict[str, Similarity]) -> dict[str, float]:
    """Return forward and backward of 1,000 boxes, in microseconds a box: the best of several, the losses in turns."""
    _, boxes = moved_centres(round(TIMED**0.5) + 1)
    boxes, best = boxes[:TIMED], dict.fromkeys(functions, float("inf"))
    for _ in range(REPEATS):
        for name, function in functions.items():
            start = time.perf_counter()
            loss_and_slope(function, boxes, TRUTH.expand_as(boxes))
            best[name] = min(best[name], (time.perf_counter() - start) * 1e6 / TIMED)
    return best


def draw(name: str, function: Similarity, descents: dict[str, dict[int, float]], path: Path) -> None:
    """Draw the four panels of a loss."""
    figure = new_figure(15, 3.6)
    field, side, length, descent = figure.subplots(1, 4)
    draw_field(field, function)
    draw_side(side, function)
    length.plot(*gradient_by_iou(function), linewidth=2, color="#d62728")
    finish(length, "length of the gradient x object's size", "IoU", "")
    for look, (title, curve) in zip(("-", "--"), descents.items(), strict=True):
        descent.plot(curve.keys(), curve.values(), look, linewidth=2, color="#1f77b4", label=title)
    descent.set(ylim=(0, 1.02))
    finish(descent, "descent, as in SCALoss Figure 5b", "step", "mean IoU")
    descent.legend(fontsize=8, loc="upper left")
    figure.suptitle(f"{name}: {SIMILARITIES[name].meaning}")
    save_figure(figure, path)


def run(settings: DrawConfig, names: Sequence[str]) -> None:
    """Write one picture a loss, zoo.csv and zoo.md."""
    limit, steps, out = (
        (300, 600, Path(settings.out) / "zoo") if settings.quick else (1200, 1500, Path(settings.out) / "zoo")
    )
    functions = {name: shown(name) for name in names}
    cost = microseconds(functions)
    found = {title: curves(functions, descent, limit, steps)[0] for title, descent in DESCENTS.items()}
    rows = []
    for name, function in functions.items():
        descents = {title: by_name[name] for title, by_name in found.items()}
        draw(name, function, descents, out / f"{name}.png")
        last = {f"mean IoU, {title}": list(curve.values())[-1] for title, curve in descents.items()}
        rows.append({"loss": name, "us a box": cost[name], **last, "paper": SIMILARITIES[name].paper})
    save_rows(rows, out / "zoo.csv")
    pictures = "\n".join(f"\n## {name}\n\n{SIMILARITIES[name].meaning}\n\n![{name}]({name}.png)" for name in names)
    (out / "zoo.md").write_text(f"# Box losses\n\n{markdown(rows)}\n{pictures}\n", encoding="utf-8")
    print(f"wrote {out / 'zoo.md'}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command: exit code 0 when done, 2 for wrong input."""
    parser = Parser(prog="python -m studies.zoo", description=(__doc__ or "").splitlines()[0])
    meaning = "as --loss of train.py (default: all)"
    names, settings = chosen(parser, arguments, "box loss", SIMILARITIES, SHOWN, meaning, DrawConfig)
    run(settings, names)
    return 0


if __name__ == "__main__":
    run_command(main)
