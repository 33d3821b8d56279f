"""Exports a model, and checks every file against PyTorch before it is left in place."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from engine.export.check import check, photos
from engine.export.format import Format, format_named
from engine.export.int8 import Trial, compare, with_calibration
from engine.export.job import Job
from models.families import family_of
from models.weights.read import load_detector, read_weights
from utils.checkpoint import newest
from utils.config.export_formats import listed
from utils.config.knobs import Config, ExportConfig
from utils.errors import UserError, printable


def run(settings: ExportConfig) -> list[Path]:
    """Write every format and return the files; UserError for wrong input, ExportMismatch for a wrong file."""
    weights = Path(settings.weights) if settings.weights else newest(Path("runs/train"), "best.pt")
    base = output_base(settings.output, weights)
    contents = read_weights(weights, settings.cfg or None)
    config = Config.from_dict(contents["config"], str(weights))
    require_exportable(config, settings, weights)
    size = (settings.imgsz[0], settings.imgsz[-1]) if settings.imgsz else config.run.image_size
    stride = max(config.model.strides)
    if any(side % stride for side in size):
        raise UserError(f"--imgsz {' '.join(map(str, size))}: expected multiples of {stride}")
    formats = [format_named(name) for name in settings.format]
    job = Job(load_detector(contents, config, str(weights)), config, contents, settings, size)
    trial = None
    if settings.int8:
        for each in formats:
            each.require(int8=True)
        job, trial = with_calibration(job)
    images = [] if trial else list(photos(settings.source, size))
    make_folder(base.parent)
    print(f"weights {printable(weights)}: {len(config.names)} classes, input {size[0]}x{size[1]}, {settings.layout}")
    files = []
    for each in formats:
        path = base.with_name(base.with_suffix("").name + ("_int8" if trial else "") + each.facts.suffix)
        if path.absolute() == weights.absolute():
            raise UserError(f"{printable(path)}: would replace the weights themselves: name another --output")
        files.append(export(each, path, job, images, trial))
    return files


def output_base(output: str, weights: Path) -> Path:
    """Return the file of `--output`, whose suffix does not count, or that of the weights; UserError for a folder."""
    if output and (Path(output).name in ("", "..") or output.endswith(("/", os.sep))):
        raise UserError(f"--output {printable(output)}: a folder: expected a file to write, such as best.onnx")
    return Path(output) if output else weights


def require_exportable(config: Config, settings: ExportConfig, weights: Path) -> None:
    """Raise UserError where the family of a config cannot be written as the flags ask."""
    family = family_of(config.model)
    able = family.exporting
    named = f"{printable(weights)} is a {family.title}"
    for name in settings.format:
        if able.formats and name not in able.formats:
            raise UserError(f"--format {name}: {named}, which is written as {listed(able.formats)}")
    forms = {"dynamic": settings.dynamic, "half": settings.half, "int8": settings.int8}
    for flag in (flag for flag, asked in forms.items() if asked and not able.any_form):
        raise UserError(f"--{flag}: {named}, which is written at one size and in float32")
    if settings.layout == "raw" and not able.any_form:
        raise UserError(f"--layout raw: {named}: expected decoded or nms")
    if settings.batch_size > 1 and not able.batches:
        raise UserError(f"--batch-size {settings.batch_size}: {named}, which is written for one image at a time")


def make_folder(folder: Path) -> None:
    """Make the folder of the output before any work is done; UserError where it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = printable(error.strerror or error)
        raise UserError(f"--output: the folder {printable(folder)} cannot be made ({reason})") from None


def export(chosen: Format, path: Path, job: Job, images: Sequence[np.ndarray], trial: Trial | None = None) -> Path:
    """Write one format beside `path`, check it (an int8 one by its AP), and only then move it there."""
    chosen.require()
    temporary = path.with_name(f".exporting-{path.name}")
    beside = chosen.facts.beside
    _remove(temporary)
    try:
        chosen.writer(temporary, job)
        if trial:
            told = compare(chosen, temporary, job, trial)
        else:
            told = f"checked: {check(chosen.open(temporary), temporary, job, images)}"
        told += ", in place of the file that was there" if path.exists() else ""
        _remove(path)
        temporary.replace(path)
        for suffix in beside:
            temporary.with_suffix(suffix).replace(path.with_suffix(suffix))
    finally:
        for each in (temporary, *(temporary.with_suffix(suffix) for suffix in beside)):
            _remove(each)
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    mib = sum(file.stat().st_size for file in files) / 2**20
    print(f"{chosen.facts.name:<12}{printable(path)}  {mib:.1f} MiB  {told}")
    return path


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
