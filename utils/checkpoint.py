"""Checkpoints: tensors and plain JSON types only, written whole or not at all, checked and read with weights_only.

python -m utils.checkpoint best.pt                      what the file is, without loading its weights
"""

import os
import pickle
import secrets
import shutil
import struct
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, cast

import torch

from utils.checksum import damage, write_sealed
from utils.errors import CommandError, UserError, printable, run_command

FORMAT = "alignyolo"
VERSION = 1
# All that torch.load was seen to raise for 45,000 files with changed or missing bytes, in both of its formats.
DAMAGED = (
    *(RuntimeError, pickle.UnpicklingError, struct.error, EOFError, OSError),
    *(ValueError, TypeError, LookupError, AttributeError, AssertionError),
)


def save_checkpoint(path: Path, contents: dict[str, Any], previous: Path | None = None) -> None:
    """Write a checkpoint, with a check sum, to a temporary file beside `path`, sync it and rename it over `path`.

    The file that was there becomes `previous` if that is given. Raises CommandError when the disk is too full, or the
    file cannot be written; what was there is untouched then.
    """
    needed = sum(tensor.numel() * tensor.element_size() for tensor in tensors(contents)) + 1_000_000
    free = shutil.disk_usage(path.parent).free
    if free < needed:
        raise CommandError(
            f"no room for {path.name}: {needed / 2**20:.0f} MiB needed, {free / 2**20:.0f} MiB free in "
            f"{printable(path.parent.absolute())}; the checkpoints there are untouched"
        )
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        # A new file, with the rights that the umask leaves: colleagues may read it like the rest of the folder.
        with temporary.open("x+b") as file:
            whole = {"format": FORMAT, "version": VERSION, **contents}
            write_sealed(file, lambda summed: torch.save(whole, cast("IO[bytes]", summed)))
            file.flush()
            os.fsync(file.fileno())
        if previous is not None and path.exists():
            path.replace(previous)
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, RuntimeError):
            # torch's writer hides what the system said behind a complaint about positions.
            reason = printable(error.__context__ or error, 120)
            raise CommandError(f"{printable(path)} cannot be written ({reason}); what was there is untouched") from None
        raise


def remove_unfinished(folder: Path) -> None:
    """Remove what writers that were killed have left in a folder; only while nobody else writes there."""
    for pattern in (".*.pt.????????", "*.csv.tmp", "*.json.tmp", "*.yaml.tmp"):
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)


def tensors(contents: Any) -> Iterator[torch.Tensor]:
    """Yield all tensors in nested dicts and lists."""
    if isinstance(contents, torch.Tensor):
        yield contents
    elif isinstance(contents, dict):
        for value in contents.values():
            yield from tensors(value)
    elif isinstance(contents, (list, tuple)):
        for value in contents:
            yield from tensors(value)


def load_checkpoint(path: str | Path, device: str = "cpu") -> dict[str, Any]:
    """Read a checkpoint of this project onto the CPU, or without its numbers (`meta`); UserError for anything else."""
    contents = load_plain(path, "a checkpoint of this project", device)
    if not isinstance(contents, dict) or contents.get("format") != FORMAT:
        raise UserError(f"{printable(path)}: not a checkpoint of this project: expected one that train.py wrote")
    version = contents.get("version")
    if not isinstance(version, int):
        raise UserError(f"{printable(path)}: not a checkpoint of this project: its format is {printable(version, 40)}")
    if version > VERSION:
        raise UserError(f"{printable(path)}: written by a newer version (format {version} > {VERSION})")
    return contents


def require_model(contents: dict[str, Any], path: str | Path) -> dict[str, Any]:
    """Return a checkpoint's contents; UserError unless they hold a model with what has to be known about it."""
    kinds = {"config": dict, "names": list, "model": dict, "epoch": int}
    wrong = [name for name, kind in kinds.items() if not isinstance(contents.get(name), kind)]
    if not wrong:
        parts = [contents["config"].get(part) for part in ("run", "model", "hyper")]
        wrong = [] if all(isinstance(part, dict) for part in parts) else ["config"]
        wrong += [] if all(isinstance(name, str) for name in contents["names"]) else ["names"]
        wrong += [] if all(isinstance(value, torch.Tensor) for value in contents["model"].values()) else ["model"]
    if wrong:
        raise UserError(f"{printable(path)}: a checkpoint of this project without {' and '.join(wrong)} of a model")
    return contents


def load_plain(path: str | Path, expected: str, device: str = "cpu") -> Any:
    """Return tensors and plain types that torch.save wrote.

    UserError, which says what was `expected`, for anything else.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"weights not found: {printable(path.absolute())}")
    try:
        with path.open("rb") as file:  # from a path, torch would let the suffix decide how it is read
            reason = damage(file)
            if reason:
                raise UserError(f"{printable(path)}: damaged ({printable(reason, 120)})")
            file.seek(0)
            return torch.load(file, map_location=device, weights_only=True)
    except DAMAGED as error:
        raise UserError(f"{printable(path)}: not {expected}, or damaged ({_reason(error)})") from None


def _reason(error: Exception) -> str:
    """Return what torch found wrong with a file, without its advice to load the file as a program."""
    found = str(error).rpartition("WeightsUnpickler error:")[2].strip().partition(" was not an allowed global")[0]
    return printable(found.splitlines()[0] if found else type(error).__name__, 120)


def newest(project: Path, file: str) -> Path:
    """Return the newest `*/weights/<file>` below a project folder, last.pt also where only last_prev.pt is left.

    UserError if there is none.
    """
    names = [file, "last_prev.pt"] if file == "last.pt" else [file]
    paths = [path for name in names for path in project.glob(f"*/weights/{name}")]
    found = [path.with_name(file) for path in sorted(paths, key=lambda path: path.stat().st_mtime)]
    if not found:
        raise UserError(f"no run with weights/{file} in {project.absolute()}: train first, or name one with --weights")
    return found[-1]


def describe(contents: Mapping[str, Any], where: str) -> str:
    """Return what a checkpoint is: model, names, config, epoch, metrics and sizes, in a few lines.

    UserError where its config is none that this project writes.
    """
    try:
        lines = _described(contents, where)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{printable(where)}: its config is none of a model here ({printable(error, 80)})") from None
    return "\n".join(f"{name:<9}{printable(text, 400)}" for name, text in lines)


def _described(contents: Mapping[str, Any], where: str) -> list[tuple[str, str]]:
    config, names, state = contents["config"], contents["names"], contents["model"]
    run, size = config["run"], "x".join(str(side) for side in config["run"]["imgsz"])
    count = sum(value.numel() for value in state.values())
    dtypes = sorted({str(value.dtype).removeprefix("torch.") for value in state.values()})
    metrics = contents.get("metrics") or {}
    shown = ("ap", "ap50", "ap75", "precision", "recall", "f1")
    values = [f"{key} {metrics[key]:.4f}" for key in shown if isinstance(metrics.get(key), float)]
    kind = "resumable (optimiser state inside)" if "optimizer" in contents else "weights only"
    hyper = "  ".join(f"{key}={config['hyper'][key]}" for key in ("box_loss", "assigner", "obj_target", "lr0"))
    imported = contents.get("source")
    return [
        ("file", f"{printable(where)}: {kind}, format {contents['version']}" if "version" in contents else where),
        ("source", imported or f"trained here, epoch {contents['epoch']} of {run['epochs']}"),
        *_described_model(config["model"], run["cfg"]),
        ("input", f"{size} px ({'as the imported file says, or by default' if imported else 'training'})"),
        ("names", f"{len(names)}: {', '.join(names)}"),
        ("trained", "elsewhere" if imported else f"{hyper}  data={run['data'] or '-'}"),
        ("metrics", "  ".join(values) or "none"),
        ("weights", f"{len(state)} tensors, {count:,} numbers, {', '.join(dtypes)}"),
    ]


def _described_model(model: Mapping[str, Any], cfg: str) -> list[tuple[str, str]]:
    """Return the lines of a model: YOLOv3's own numbers, or what a detector of torchvision is made of."""
    if model.get("detector", "yolov3") != "yolov3":
        return [("model", cfg), ("detector", model["detector"]), ("backbone", model["backbone"])]
    return [
        ("model", f"{cfg} ({model['backbone']}, {model['activation']}, {model['decode']} decoding)"),
        ("channels", " ".join(map(str, model["channels"]))),
        ("anchors", "  ".join(" ".join(f"{w:g}x{h:g}" for w, h in level) for level in model["anchors"])),
    ]


def main() -> int:
    """Run the inspector: exit code 0, or 2 for a file that is no checkpoint of ours."""
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        raise UserError("expected one checkpoint: python -m utils.checkpoint FILE")
    path = Path(sys.argv[1])
    print(describe(require_model(load_checkpoint(path, "meta"), path), str(path)))
    print(f"size     {path.stat().st_size / 2**20:.1f} MiB")
    return 0


if __name__ == "__main__":
    run_command(main)
