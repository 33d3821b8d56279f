"""Weights of any kind, told apart by their first bytes: ours, ultralytics/yolov3's and Darknet's."""

import itertools
import json
import zipfile
from pathlib import Path
from typing import Any

from models.detector import AnyDetector
from models.families import build_detector
from models.weights.darknet import looks_like_darknet, read_darknet
from models.weights.foreign_pickle import Refused, has_entry, pickle_bytes
from models.weights.ultralytics import read_ultralytics
from utils.checkpoint import FORMAT, load_checkpoint, require_model
from utils.config.knobs import Config, ModelConfig
from utils.errors import UserError, printable

ZIP_MAGIC = b"PK\x03\x04"


def read_weights(path: str | Path, cfg: str | Path | None = None, cutoff: int | None = None) -> dict[str, Any]:
    """Return the contents of a checkpoint of this project, whatever the file is; UserError if it is none of them.

    `cfg` is the .cfg of Darknet .weights (default: the file beside them, else told from their length); `cutoff` the
    number of layers that a truncated .weights holds (default: from a name such as darknet53.conv.74). Other weights
    have neither.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"weights not found: {printable(path.absolute())}")
    with path.open("rb") as file:
        start = file.read(20)
    darknet = not start.startswith(ZIP_MAGIC) and path.suffix != ".safetensors" and looks_like_darknet(path, start)
    for flag, value in (("--cfg", cfg), ("--cutoff", cutoff)):
        if value is not None and not darknet:
            raise UserError(f"{flag}: for Darknet .weights, not {printable(path)}")
    if start.startswith(ZIP_MAGIC):
        return require_model(load_checkpoint(path), path) if is_ours(path) else read_ultralytics(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if darknet:
        return read_darknet(path, Path(cfg) if cfg else None, cutoff)
    raise UserError(
        f"{printable(path)}: {'an empty file' if not start else 'not a checkpoint'}: expected a .pt of this project or "
        "of ultralytics/yolov3, or Darknet .weights"
    )


def load_detector(contents: dict[str, Any], config: Config, where: str) -> AnyDetector:
    """Return the detector of a checkpoint's contents, in evaluation mode.

    UserError if tensors are missing or do not fit.
    """
    held, described = sum(value.numel() for value in contents["model"].values()), least_numbers(config)
    if described > held:
        raise UserError(
            f"{printable(where)}: holds no whole model: {held:,} numbers, and its config describes "
            f"at least {described:,}"
        )
    detector = build_detector(config)
    expected, found = detector.network.state_dict(), contents["model"]
    missing = [name for name in expected if name not in found or found[name].shape != expected[name].shape]
    if missing:
        raise UserError(
            f"{printable(where)}: holds no whole model: {len(missing)} of {len(expected)} tensors are missing, such as "
            f"{missing[0]}; it can start a training (train.py --weights)"
        )
    detector.network.load_state_dict({name: found[name] for name in expected})
    return detector.eval()


def least_numbers(config: Config) -> int:
    """Count numbers that a model certainly has, so that one beyond all memory is refused before it is built.

    YOLOv3: the 3x3 convolutions from stage to stage, and the heads' class outputs.
    """
    model = config.model
    if not isinstance(model, ModelConfig):
        return 9 * model.fpn_channels**2 if model.detector != "ssd" else 0
    between = sum(9 * first * second for first, second in itertools.pairwise(model.channels))
    return between + len(config.names) * sum(map(len, model.anchors))


def _read_safetensors(path: Path) -> dict[str, Any]:
    """Return the contents of a checkpoint of this project, from what export.py --format safetensors wrote."""
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError:
        raise UserError(f"{printable(path)}: needs safetensors: pip install safetensors") from None
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        config, metrics = json.loads(metadata["config"]), json.loads(metadata["metrics"])
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise UserError(f"{printable(path)}: not safetensors of ours, or damaged ({printable(error, 100)})") from None
    whole = {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
    names = config.get("names") if isinstance(config, dict) else None
    source = f"safetensors {path.name}"
    contents = {"config": config, "names": names, "epoch": 0, "metrics": metrics, "model": whole, "source": source}
    return require_model(contents, path)


def is_ours(path: Path) -> bool:
    """Tell whether a PyTorch archive says that this project wrote it."""
    try:
        with zipfile.ZipFile(path) as archive:
            return has_entry(pickle_bytes(archive)[0], "format", FORMAT)
    except (Refused, zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError):
        return False  # read_ultralytics says what is wrong with it
