"""Exports a model, and checks every file against PyTorch before it is left in place."""

import hashlib
import json
import shutil
import warnings
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from torch import Tensor

from data.images import ImageError, read_image
from data.shapes.scene import draw_scene
from engine.predict.runtimes import Backend, open_backend, torch_backend
from models.postprocess import Postprocess
from models.weights.darknet import write_darknet
from models.weights.read import load_detector, read_weights
from models.yolov3.export_network import ExportNetwork
from utils.checkpoint import newest
from utils.config.knobs import Config, ExportConfig, ModelConfig, plain
from utils.errors import ExportMismatch, UserError, printable
from utils.letterbox import Letterbox
from utils.ultralytics_only import file_loader

SUFFIXES = {
    "onnx": ".onnx",
    "torchscript": ".torchscript",
    "openvino": "_openvino_model",
    "safetensors": ".safetensors",
    "darknet": ".weights",
}
CHECKED_PHOTOS = 4
# Largest difference of a score, and of a box side in pixels, where a score is at least .05.
TOLERANCE, HALF_TOLERANCE = (1e-3, 0.5), (2e-2, 4.0)
COUNTED_SCORE = 0.05


class Job(NamedTuple):
    """What is exported: the detector, its config at the exported size, what its checkpoint held, and the flags."""

    detector: torch.nn.Module
    config: Config
    contents: dict[str, Any]
    settings: ExportConfig


def run(settings: ExportConfig) -> list[Path]:
    """Writes every format and returns the files; UserError for wrong input, ExportMismatch for a wrong file."""
    weights = Path(settings.weights) if settings.weights else newest(Path("runs/train"), "best.pt")
    contents = read_weights(weights, settings.cfg or None)
    config = Config.from_dict(contents["config"], str(weights))
    if not isinstance(config.model, ModelConfig):
        raise UserError(f"{printable(weights)}: {config.model.detector} of torchvision: export.py writes YOLOv3 alone")
    size = (settings.imgsz[0], settings.imgsz[-1]) if settings.imgsz else config.run.image_size
    stride = max(config.model.strides)
    if any(side % stride for side in size):
        raise UserError(f"--imgsz {' '.join(map(str, size))}: expected multiples of {stride}")
    _check_combination(settings)
    job = Job(load_detector(contents, config, str(weights)), config, contents, settings)
    images = list(_photos(settings.source, size))
    base = Path(settings.output) if settings.output else weights
    print(f"weights {printable(weights)}: {len(config.names)} classes, input {size[0]}x{size[1]}, {settings.layout}")
    files = []
    for kind in settings.format:
        path = base.with_name(base.with_suffix("").name + SUFFIXES[kind])
        if path.absolute() == weights.absolute():
            raise UserError(f"{printable(path)}: would replace the weights themselves: name another --output")
        files.append(export(kind, path, job, size, images))
    return files


def _check_combination(settings: ExportConfig) -> None:
    formats = set(settings.format)
    if settings.layout == "nms" and "torchscript" in formats:
        raise UserError("--layout nms: for onnx and openvino; a TorchScript file has decoded or raw outputs")
    if settings.half and settings.layout == "nms":
        # At half precision a box on the edge of a threshold comes or goes: no check could tell that from a mistake.
        raise UserError("--half with --layout nms: cannot be checked; export decoded or raw")
    if settings.half and formats & {"torchscript", "darknet"}:
        raise UserError("--half: for onnx, openvino and safetensors")


def export(kind: str, path: Path, job: Job, size: tuple[int, int], images: Sequence[np.ndarray]) -> Path:
    """Writes one format beside `path`, checks it, and only then moves it there."""
    temporary = path.with_name(f".exporting-{path.name}")
    _remove(temporary)
    try:
        extra = WRITERS[kind](temporary, job, size)
        worst = check(temporary, job, size, images)
        _remove(path)
        temporary.replace(path)
        if extra:
            extra.replace(path.with_suffix(".cfg"))
    finally:
        _remove(temporary)
        _remove(temporary.with_suffix(".cfg"))
    files = [path] if path.is_file() else list(path.iterdir())
    mib = sum(file.stat().st_size for file in files) / 2**20
    print(f"{kind:<12}{printable(path)}  {mib:.1f} MiB  checked: {worst}")
    return path


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def metadata_of(job: Job, size: tuple[int, int]) -> dict[str, Any]:
    """What the file says about itself; the first keys as ultralytics' exporter names them."""
    config, settings = job.config, job.settings
    described = json.dumps(config.to_dict(), sort_keys=True).encode()
    metrics = {key: value for key, value in job.contents.get("metrics", {}).items() if isinstance(value, float)}
    return {
        "description": f"AlignYOLO {config.run.cfg}",
        "author": "AlignYOLO",
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "version": "0.1.0",
        "license": "AGPL-3.0",
        "stride": max(config.model.strides),
        "task": "detect",
        "batch": job.settings.batch_size,
        "imgsz": list(size),
        "names": dict(enumerate(config.names)),
        "args": {"batch": settings.batch_size, "half": settings.half, "dynamic": settings.dynamic, "nms": False},
        "channels": 3,
        "layout": settings.layout,
        "letterbox": "scale = min(H/h, W/w), resized to whole pixels, centred on 114",
        "colour_order": "RGB, 0 to 1",
        "config_sha256": hashlib.sha256(described).hexdigest(),
        "metrics": json.dumps(metrics),
        "model": json.dumps(plain(config.model)),
    }


def _graph(job: Job, size: tuple[int, int]) -> Any:
    """The ONNX graph that the flags ask for; UserError where onnx is not installed."""
    try:
        from engine.export.onnx_graph import append_nms, to_half, trace_onnx
    except ImportError:
        raise UserError("--format onnx and openvino: need onnx: pip install onnx onnxruntime onnxslim") from None
    settings = job.settings
    network = ExportNetwork(job.detector.network, job.config.model, settings.layout)
    model = trace_onnx(network, torch.zeros(settings.batch_size, 3, *size), settings.opset, settings.dynamic)
    if settings.half:
        model = to_half(model)
    if settings.layout == "nms":
        model = append_nms(model, settings.conf, settings.nms_iou, settings.max_det, len(job.config.names))
    return model


def _write_onnx(path: Path, job: Job, size: tuple[int, int]) -> None:
    graph = _graph(job, size)
    from engine.export.onnx_graph import write_onnx

    write_onnx(graph, path, metadata_of(job, size))


def _write_openvino(path: Path, job: Job, size: tuple[int, int]) -> None:
    try:
        import openvino
    except ImportError:
        raise UserError("--format openvino: needs openvino: pip install openvino") from None
    graph = _graph(job, size)
    path.mkdir(parents=True)
    model = openvino.Core().read_model(graph.SerializeToString())
    name = path.name.removeprefix(".exporting-").removesuffix(SUFFIXES["openvino"])
    openvino.save_model(model, str(path / f"{name}.xml"), compress_to_fp16=job.settings.half)
    (path / "metadata.yaml").write_text(yaml.safe_dump(metadata_of(job, size), sort_keys=False), "utf-8")


def _write_torchscript(path: Path, job: Job, size: tuple[int, int]) -> None:
    network = ExportNetwork(job.detector.network, job.config.model, job.settings.layout)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(network, torch.zeros(job.settings.batch_size, 3, *size), check_trace=False)
    traced.save(str(path), _extra_files={"config.txt": json.dumps(metadata_of(job, size))})


def _write_safetensors(path: Path, job: Job, size: tuple[int, int]) -> None:
    try:
        from safetensors.torch import save_file
    except ImportError:
        raise UserError("--format safetensors: needs safetensors: pip install safetensors") from None
    state = {name: value.contiguous() for name, value in job.detector.network.state_dict().items()}
    if job.settings.half:
        state = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    metadata = {key: str(value) for key, value in metadata_of(job, size).items()}
    save_file(state, path, {**metadata, "config": json.dumps(job.config.to_dict())})


def _write_darknet(path: Path, job: Job, size: tuple[int, int]) -> Path:
    return write_darknet(path, job.detector.network, job.config, job.contents.get("darknet"))


WRITERS = {
    "onnx": _write_onnx,
    "torchscript": _write_torchscript,
    "openvino": _write_openvino,
    "safetensors": _write_safetensors,
    "darknet": _write_darknet,
}


def _photos(source: str, size: tuple[int, int]) -> Iterator[np.ndarray]:
    """Photos of `source`, or drawn ones, letterboxed (H, W, 3)."""
    if not source:
        for seed in range(CHECKED_PHOTOS):
            image = draw_scene(np.random.Generator(np.random.PCG64(seed)), 256).image
            yield Letterbox.fit(image.shape[:2], size).apply(image)
        return
    try:
        files = file_loader(source, 1).files
    except (FileNotFoundError, OSError) as error:
        raise UserError(f"--source {printable(source)}: {printable(error)}") from None
    for file in files:
        try:
            image = read_image(file)
        except ImageError as error:
            print(f"not checked with {printable(error)}")
            continue
        yield Letterbox.fit(image.shape[:2], size).apply(image)


def check(path: Path, job: Job, size: tuple[int, int], images: Sequence[np.ndarray]) -> str:
    """Compares a file's outputs with PyTorch's on photos; the differences as text, ExportMismatch if too large."""
    settings = job.settings
    exported = open_backend(path)
    batch = exported.batch or settings.batch_size
    reference = torch_backend(job.detector, job.config)
    postprocess = Postprocess(settings.conf, settings.nms_iou, settings.max_det, multi_label=False)
    worst = np.zeros(2)
    for tensor in _batches(images, batch):
        worst = np.maximum(worst, differences(exported, reference, tensor, postprocess))
    if exported.dynamic and exported.batch is None and len(images):
        stride = max(job.config.model.strides)
        other = (
            torch.from_numpy(np.stack([images[0]] * 2)).permute(0, 3, 1, 2)[..., : size[0] - stride or None, :] / 255
        )
        worst = np.maximum(worst, differences(exported, reference, other.contiguous(), postprocess))
    score, pixels = worst
    limits = HALF_TOLERANCE if settings.half else TOLERANCE
    told = f"{len(images)} photos, scores differ by up to {score:.1e}, boxes by {pixels:.1e} px"
    if not (score <= limits[0] and pixels <= limits[1]):
        raise ExportMismatch(
            f"{path.name.removeprefix('.exporting-')}: {told}; allowed {limits[0]:g} and {limits[1]:g} px"
        )
    return told


def _batches(images: Sequence[np.ndarray], batch: int) -> Iterator[Tensor]:
    """Batches (B, 3, H, W) in [0, 1], the last one filled up."""
    for start in range(0, len(images), batch):
        rows = [images[min(start + row, len(images) - 1)] for row in range(batch)]
        yield (torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2).float() / 255).contiguous()


def differences(exported: Backend, reference: Backend, images: Tensor, postprocess: Postprocess) -> np.ndarray:
    """The largest difference of scores, and in pixels of boxes that score .05 or more."""
    boxes, scores = reference.run(images)
    found = exported.run(images)
    if not exported.final:
        counted = (scores.amax(-1) >= COUNTED_SCORE) | (found[1].amax(-1) >= COUNTED_SCORE)
        if found[0].shape != boxes.shape:
            return np.array([np.inf, np.inf])
        return np.array([_largest(found[1] - scores), _largest((found[0] - boxes)[counted])])
    worst = np.zeros(2)
    for box, score, each in zip(boxes, scores, found, strict=True):
        expected = postprocess.select(box, score)
        if len(each["scores"]) != len(expected["scores"]):
            return np.array([np.inf, np.inf])
        here = np.array([_largest(each["scores"] - expected["scores"]), _largest(each["boxes"] - expected["boxes"])])
        worst = np.maximum(worst, here if torch.equal(each["labels"], expected["labels"]) else np.inf)
    return worst


def _largest(values: Tensor) -> float:
    return float(values.abs().max().nan_to_num(nan=np.inf)) if values.numel() else 0.0
