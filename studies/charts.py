"""How the studies' pictures look, and the folder where pictures and tables go."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from utils.drawing.plots import finish_axes
from utils.errors import printable
from utils.run_folder import write_csv

DPI = 110

# One colour per similarity in every picture; the dashed ones are variants of the colour's owner.
STYLES: dict[str, dict] = {
    "iou": {"color": "#7f7f7f"},
    "giou": {"color": "#1f77b4"},
    "diou": {"color": "#2ca02c"},
    "ciou": {"color": "#9467bd"},
    "so": {"color": "#ff7f0e"},
    "sca": {"color": "#d62728"},
    "sca squared": {"color": "#d62728", "linestyle": "--"},
    "sca alpha 1": {"color": "#d62728", "linestyle": ":"},
    "cd": {"color": "#8c564b"},
    "center": {"color": "#2ca02c", "linestyle": ":"},
    "iou_cd": {"color": "#8c564b", "linestyle": "--"},
}
NAMES = {
    "iou": "IoU",
    "giou": "GIoU",
    "diou": "DIoU",
    "ciou": "CIoU",
    "so": "SO",
    "sca": "SCA (Eq. 4)",
    "sca squared": "SCA, squared corners",
    "sca alpha 1": "SCA, alpha 1 (authors' code)",
    "cd": "CD alone",
    "center": "centre alone",
    "iou_cd": "IoU + .5 CD",
}


def new_figure(width: float = 9.0, height: float = 4.2) -> Figure:
    """Make an empty figure (inches) that is readable at the width of a README."""
    return Figure(figsize=(width, height), layout="constrained")


def finish(axes: Axes, title: str, x_label: str, y_label: str) -> None:
    """Add title, axis labels and a light grid."""
    finish_axes(axes, title, x_label, y_label, title_size=11)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI)
    print(f"wrote {path}")


def save_rows(rows: Sequence[Mapping[str, object]], path: Path) -> None:
    """Write a CSV, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_csv(path, rows)
    print(f"wrote {path}")


def cell_text(text: object) -> str:
    """Return text for a cell of a Markdown table: on one line, with its bars as letters."""
    return printable(text).replace("|", "\\|")


def markdown(rows: Sequence[Mapping[str, object]], digits: int = 3) -> str:
    """Write rows of the same columns as a Markdown table; floats with `digits` digits, `-` for None."""

    def cell(value: object) -> str:
        if value is None or value != value:
            return "-"
        return f"{value:.{digits}f}" if isinstance(value, float) else cell_text(value)

    heads = list(rows[0])
    lines = ["| " + " | ".join(map(cell_text, heads)) + " |", "|" + "---|" * len(heads)]
    lines += ["| " + " | ".join(cell(row[head]) for head in heads) + " |" for row in rows]
    return "\n".join(lines)
