"""Exports a model, and checks every file against PyTorch before it is left in place."""

import fnmatch
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from data.pixel_limit import pixels_allowed
from engine.export.backend import Backend
from engine.export.check import check, photos
from engine.export.format import Format, format_named
from engine.export.int8 import Trial, compare, with_calibration
from engine.export.job import Job
from models.families import family_of
from models.weights.read import load_detector, read_weights
from utils.checkpoint import newest
from utils.config.export_formats import EXPORT_FORMATS, ExportFormat, listed, without_suffix
from utils.config.knobs import Config, ExportConfig
from utils.errors import UserError, printable

MARK = b"AlignYOLO"  # in the metadata of every file that export.py writes


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
    name = without_suffix(base.name)
    if settings.int8 and not (settings.output and name.endswith("_int8")):
        name += "_int8"
    paths = [base.with_name(name + each.facts.suffix) for each in formats]
    for each, path in zip(formats, paths, strict=True):
        require_replaceable(path, each.facts, weights)
    job = Job(load_detector(contents, config, str(weights)), config, contents, settings, size)
    with pixels_allowed(config.run.max_pixels):  # --calibrate and --source may be the photos of the training run
        trial = None
        if settings.int8:
            for each in formats:
                each.require(int8=True)
            job, trial = with_calibration(job)
        images = [] if trial else list(photos(settings.source, size))
        make_folder(base.parent)
        said = f"{len(config.names)} classes, input {size[0]}x{size[1]}, {settings.layout}"
        print(f"weights {printable(weights)}: {said}")
        return [export(each, path, job, images, trial) for each, path in zip(formats, paths, strict=True)]


def output_base(output: str, weights: Path) -> Path:
    """Return the file of `--output`, or of the weights, to name the written ones after; UserError for a folder."""
    # A format that is a folder replaces its own.
    own = any(entry.holds and output.endswith(entry.suffix) for entry in EXPORT_FORMATS.values())
    folder = Path(output).name in ("", "..") or output.endswith(("/", os.sep)) or (Path(output).is_dir() and not own)
    if output and folder:
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


def require_replaceable(path: Path, facts: ExportFormat, weights: Path) -> None:
    """Raise UserError where something lies at `path` that no export may take the place of.

    The weights themselves, a folder where a file is written, and a folder that holds more than an export of ours.
    """
    if path.absolute() == weights.absolute() or (path.exists() and weights.exists() and path.samefile(weights)):
        raise UserError(f"{printable(path)}: would replace the weights themselves: name another --output")
    if not facts.holds:
        for each in (path, *(path.with_suffix(suffix) for suffix in facts.beside)):
            if each.is_dir():
                raise UserError(f"{printable(each)}: is a folder, and would be a file: name another --output")
        return
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise UserError(f"{printable(path)}: is no folder, and would be one: name another --output")
    if foreign := _foreign(path, facts.holds):
        raise UserError(f"{printable(path)}: holds {printable(foreign)}, not from export.py: name another --output")


def _foreign(folder: Path, holds: Sequence[str]) -> str:
    """Name something in a folder that an export of ours with these files (patterns) does not hold; "" for nothing."""
    files = (each for each in folder.rglob("*") if each.is_symlink() or not each.is_dir())
    inside = sorted(each.relative_to(folder).as_posix() for each in files)
    left = list(holds)
    for name in inside:
        pattern = next((each for each in left if fnmatch.fnmatchcase(name, each)), None)
        if pattern is None:
            return name
        left.remove(pattern)
    ours = not inside or (holds[0] in inside and MARK in (folder / holds[0]).read_bytes())
    return "" if ours else inside[0]


def export(chosen: Format, path: Path, job: Job, images: Sequence[np.ndarray], trial: Trial | None = None) -> Path:
    """Write one format beside `path`, check it (an int8 one by its AP), and only then move it there."""
    chosen.require()
    temporary = path.with_name(f".exporting-{path.name}")
    beside = chosen.facts.beside
    replaced = any(each.exists() for each in (path, *(path.with_suffix(suffix) for suffix in beside)))
    _remove(temporary)
    try:
        chosen.writer(temporary, job)
        if trial:
            told = compare(chosen, temporary, job, trial)
        else:
            told = check(chosen.open(temporary), temporary, job, images, partial(rewritten, chosen, job))
        told += ", in place of the file that was there" if replaced else ""
        if path.is_dir():  # a file takes the place of a file by itself, with no moment without one
            shutil.rmtree(path)
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


@contextmanager
def rewritten(chosen: Format, job: Job, confidence: float) -> Iterator[Backend]:
    """Write and open the file once more, its own NMS at another confidence, for as long as it is looked at."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"lower{chosen.facts.suffix}"
        chosen.writer(path, replace(job, settings=replace(job.settings, conf=confidence)))
        yield chosen.open(path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
