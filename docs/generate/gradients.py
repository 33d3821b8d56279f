"""Draws for each box loss what it does to a box: its value where a box lies, and the way in which the box is pulled."""

from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from alignyolo.registry import BASE_SIMILARITIES, SIMILARITIES, WRAPPERS
from alignyolo.similarities.bound import similarity

# In pixels, which some losses look at.
TRUTH = torch.tensor([0.0, 0.0, 64.0, 32.0])
SIDES = {"a box of the truth's sides": (64.0, 32.0), "a box of another shape": (32.0, 64.0)}
REACH = 80.0
AROUND = {"image_size": (192.0, 192.0), "over_ranks": lambda value: value, "training": False}
# Every loss, and what stands before a loss's name shown with IoU.
NAMES = (*BASE_SIMILARITIES, *(f"{prefix}_iou" for prefix in WRAPPERS))


def field(name: str, sides: tuple[float, float], steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the loss and its pull on the centre (x, y), each (steps, steps), over the shifts of a box's centre."""
    chosen = similarity(name)
    shifts = torch.linspace(-REACH, REACH, steps, dtype=torch.float64)
    centre = torch.stack(torch.meshgrid(shifts, shifts, indexing="xy"), -1).requires_grad_()
    truth = TRUTH.double()
    middle = (truth[:2] + truth[2:]) / 2 + centre
    half = torch.tensor(sides, dtype=torch.float64) / 2
    boxes = torch.cat([middle - half, middle + half], -1)
    values = 1 - chosen(boxes, truth.expand_as(boxes), **{need: AROUND[need] for need in chosen.needs})
    (pull,) = torch.autograd.grad(values.sum(), centre)
    return values.detach(), -pull[..., 0], -pull[..., 1]


def draw_field(name: str, path: Path) -> None:
    """Draw the field of one loss for both shapes of box and write a PNG."""
    # The same places in every picture: to look for them anew would take longer than to draw.
    figure = Figure(figsize=(9, 4))
    figure.subplots_adjust(left=0.07, right=0.98, bottom=0.12, top=0.92, wspace=0.25)
    for axes, (title, sides) in zip(figure.subplots(1, 2), SIDES.items(), strict=True):
        values, _, _ = field(name, sides, 121)
        extent = (-REACH, REACH, -REACH, REACH)
        picture = axes.imshow(values.numpy(), extent=extent, origin="lower", cmap="viridis")
        figure.colorbar(picture, ax=axes, shrink=0.8, label="loss")
        _, x, y = field(name, sides, 16)
        length = torch.hypot(x, y).clamp(min=1e-12)
        shown = length > 1e-6 / REACH
        shifts = torch.linspace(-REACH, REACH, 16)
        grid = torch.meshgrid(shifts, shifts, indexing="xy")
        scaled = length.sqrt() / length
        arrows = [part[shown].numpy() for part in (*grid, x * scaled, y * scaled)]
        axes.quiver(*arrows, color="white", width=0.004, angles="xy")
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("shift of the centre in x, pixels")
        axes.set_ylabel("in y")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)


def draw_all(folder: Path) -> None:
    """Draw the field of every registered loss."""
    for name in NAMES:
        draw_field(name, folder / f"{name}.png")


def sections() -> str:
    """Write a section for each loss: what it is, its paper, and its picture."""
    parts = []
    for name in NAMES:
        entry = SIMILARITIES[name]
        paper = f" ({entry.paper})" if entry.paper else ""
        meaning = entry.meaning.removeprefix("iou: ")  # those with something before the name, which are shown with IoU
        parts.append(f"## {name}\n\n{meaning[0].upper()}{meaning[1:]}{paper}.\n\n")
        parts.append(f"![Loss and pull of {name} over the shift of a box](../images/gradients/{name}.png)\n\n")
    return "".join(parts).rstrip()
