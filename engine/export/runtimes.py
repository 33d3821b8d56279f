"""Opens weights and exported files as one thing, a Backend."""

from pathlib import Path

import torch

from engine.export.backend import Backend
from engine.export.format import format_named
from engine.export.weights import open_weights
from utils.config.export_formats import format_of_path
from utils.device import choose_device
from utils.errors import UserError, printable


def open_backend(
    path: str | Path, device: torch.device | str = "cpu", cfg: str | None = None, precision: str = "float32"
) -> Backend:
    """Open a weights file or an exported file, told by its suffix; UserError if it cannot be opened.

    `precision` is float32, bf16 or auto; a file that holds its own runs in it. Exported files run on the CPU.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"weights not found: {printable(path.absolute())}")
    facts = format_of_path(path)
    return format_named(facts.name).open(path, precision) if facts else open_weights(path, device, cfg, precision)


def device_for(path: Path, device: str) -> torch.device:
    """Choose the device of `--device` for a file; UserError where an exported one should run on another than a CPU."""
    if not format_of_path(path):
        return choose_device(device)
    if device and choose_device(device).type != "cpu":
        raise UserError(f"--device {device}: {printable(path)} runs on the CPU here; weights run on any device")
    return torch.device("cpu")
