"""Opens weights and exported files as one thing, a Backend."""

from pathlib import Path

import torch

from engine.export.backend import Backend
from engine.export.format import format_named
from engine.export.weights import open_weights
from utils.config.export_formats import format_of_path
from utils.errors import UserError, printable


def open_backend(path: str | Path, device: torch.device | str = "cpu", cfg: str | None = None) -> Backend:
    """The backend of a weights file or an exported file, told by its suffix; UserError if it cannot be opened."""
    path = Path(path)
    if not path.exists():
        raise UserError(f"weights not found: {printable(path.absolute())}")
    facts = format_of_path(path)
    return format_named(facts.name).open(path) if facts else open_weights(path, device, cfg)
