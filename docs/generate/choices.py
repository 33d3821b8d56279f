"""Tables of the box losses and assigners, from alignyolo/registry.py."""

from collections.abc import Iterable, Mapping

from alignyolo.registry import ASSIGNERS, BASE_SIMILARITIES, DENSE_ASSIGNERS, METRICS, SIMILARITIES, WRAPPERS, Entry
from utils.config.knobs import Hyperparameters

# Those that the README shows; the site shows all.
MAIN_LOSSES = ("iou", "giou", "diou", "ciou", "sca")
MAIN_ASSIGNERS = ("anchor_ratio", "best_anchor", "iou", "ggiou")

Table = list[tuple[str, ...]]


def markdown_table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """Write rows as a Markdown table; a bar inside a cell is escaped."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def main_choices() -> str:
    """Write the one table of the README: the main losses and assigners, with their meaning and paper."""
    rows = [_row(f"--loss {name}", SIMILARITIES[name]) for name in MAIN_LOSSES]
    rows += [_row(f"--assign {name}", ASSIGNERS[name]) for name in MAIN_ASSIGNERS]
    return markdown_table(("choice", "in one line", "paper"), rows)


def all_losses() -> str:
    """Write the table of every box loss, with the settings that it reads."""
    return _all("--loss", BASE_SIMILARITIES)


def all_wrappers() -> str:
    """Write the table of what can stand before the name of any box loss."""
    return _all("--loss", {f"{prefix}_...": entry for prefix, entry in WRAPPERS.items()})


def all_assigners() -> str:
    """Write the table of every assigner of a YOLOv3 head, with the settings that it reads."""
    return _all("--assign", ASSIGNERS)


def all_dense_assigners() -> str:
    """Write the table of every assigner of torchvision's detectors."""
    return _all("--assign", DENSE_ASSIGNERS)


def all_metrics() -> str:
    """Write the table of the metrics of the balanced weight."""
    return _all("balance_metric", METRICS)


def _row(flag: str, entry: Entry) -> tuple[str, ...]:
    default = flag in (f"--loss {Hyperparameters.box_loss}", f"--assign {Hyperparameters.assigner}")
    return f"`{flag}`{' (default)' if default else ''}", entry.meaning, entry.paper


def _all(flag: str, entries: Mapping[str, Entry]) -> str:
    rows = [(*_row(f"{flag} {name}", entry), _keys(entry)) for name, entry in entries.items()]
    return markdown_table(("choice", "in one line", "paper", "its settings"), rows)


def _keys(entry: Entry) -> str:
    return " ".join(f"`{key}`" for key in dict.fromkeys(entry.keys.values()))
