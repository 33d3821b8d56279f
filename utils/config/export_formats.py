"""The formats that export.py writes: what each allows and needs, without importing torch or any converter.

To add one: an entry here, and a file engine/export/formats/NAME.py with `write(path, job)` and `open_file(path)`, which
engine/export/format.py describes. Flags, help, checks, detect.py and val.py follow from the entry.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class ExportFormat:
    """Facts about a format; `writes` and `opens` map the modules that it imports to what pip installs for them."""

    name: str
    suffix: str
    layouts: tuple[str, ...] = ("decoded", "raw")
    half: bool = False
    int8: Mapping[str, str] | None = None  # packages for int8, None where there is none
    dynamic: bool = True
    batches: bool = True  # more than one image at once
    graph: bool = True  # a computation, not the weights alone: it has a layout and a shape
    opset: bool = False  # goes through an ONNX graph
    precisions: tuple[str, ...] = ("float32", "auto")  # of --precision; these two run a file as it was exported
    beside: tuple[str, ...] = ()  # suffixes of further files that lie beside the first
    holds: tuple[str, ...] = ()  # of a folder: its files as patterns, the first of which holds the metadata
    writes: Mapping[str, str] = field(default_factory=dict)
    opens: Mapping[str, str] = field(default_factory=dict)


_ONNX = {"onnx": "onnx onnxruntime onnxslim"}
_ALL_LAYOUTS = ("decoded", "raw", "nms")

EXPORT_FORMATS = {
    entry.name: entry
    for entry in (
        ExportFormat(
            "onnx",
            ".onnx",
            layouts=_ALL_LAYOUTS,
            half=True,
            int8={},
            opset=True,
            writes=_ONNX,
            opens={"onnxruntime": "onnxruntime"},
        ),
        ExportFormat("torchscript", ".torchscript"),
        ExportFormat(
            "openvino",
            "_openvino_model",
            layouts=_ALL_LAYOUTS,
            half=True,
            int8={"nncf": "nncf"},
            opset=True,
            holds=("metadata.yaml", "*.xml", "*.bin"),
            precisions=("float32", "bf16", "auto"),
            writes=_ONNX,
            opens={"openvino": "openvino"},
        ),
        ExportFormat(
            "safetensors",
            ".safetensors",
            half=True,
            graph=False,
            opens={"safetensors.torch": "safetensors"},
        ),
        ExportFormat(
            "ncnn",
            "_ncnn_model",
            dynamic=False,
            batches=False,
            holds=("metadata.yaml", "model.ncnn.param", "model.ncnn.bin"),
            writes={"pnnx": "pnnx"},
            opens={"ncnn": "ncnn"},
        ),
        ExportFormat(
            "litert",
            ".tflite",
            dynamic=False,
            writes={"litert_torch": "litert-torch"},
            opens={"ai_edge_litert": "ai-edge-litert"},
        ),
        ExportFormat("mnn", ".mnn", half=True, opset=True, writes={**_ONNX, "MNN": "MNN"}, opens={"MNN": "MNN"}),
        ExportFormat(
            "executorch",
            ".pte",
            dynamic=False,
            writes={"executorch.exir": "executorch"},
            opens={"executorch.runtime": "executorch"},
        ),
        ExportFormat(
            "coreml",
            ".mlpackage",
            dynamic=False,
            holds=(
                "Data/com.apple.CoreML/model.mlmodel",
                "Data/com.apple.CoreML/weights/weight.bin",
                "Manifest.json",
                "executorch_debug_handle_mapping.json",  # what coremltools adds to a model of torch.export
            ),
            writes={"coremltools": "coremltools"},
            opens={"coremltools": "coremltools"},
        ),
        ExportFormat("darknet", ".weights", graph=False, beside=(".cfg",)),
    )
}


def listed(names: Sequence[str]) -> str:
    """Join names as a sentence has them: `onnx, openvino, safetensors and mnn`."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def without_suffix(name: str) -> str:
    """Cut off what weights or files of a format end in, and nothing else: best_v1.5 and best.v2 keep their dots."""
    known = [".pt", ".pth", *(part for entry in EXPORT_FORMATS.values() for part in (entry.suffix, *entry.beside))]
    found = next((suffix for suffix in known if name.lower().endswith(suffix) and len(name) > len(suffix)), "")
    return name[: len(name) - len(found)]


def format_of_path(path: Path) -> ExportFormat | None:
    """Tell the format of a file or folder by its name; None for weights, which PyTorch opens."""
    for entry in EXPORT_FORMATS.values():
        if entry.graph and path.name.endswith(entry.suffix):
            return entry
    return EXPORT_FORMATS["openvino"] if path.suffix == ".xml" or path.is_dir() else None
