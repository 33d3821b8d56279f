"""Darknet: .weights and .cfg, the weights alone; for Darknet and OpenCV 4.x (OpenCV 5 reads them no more)."""

from pathlib import Path

from engine.export.backend import Backend
from engine.export.job import Job
from engine.export.weights import open_weights
from models.weights.darknet import write_darknet


def write(path: Path, job: Job) -> None:
    """Write both files."""
    write_darknet(path, job.detector.network, job.sized_config(), job.contents.get("darknet"))


def open_file(path: Path, precision: str) -> Backend:
    """Open the files in PyTorch."""
    return open_weights(path, precision=precision)
