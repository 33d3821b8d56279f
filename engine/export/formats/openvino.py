"""OpenVINO: a folder with an .xml, a .bin and a metadata.yaml, for Intel's CPUs and GPUs."""

import threading
from pathlib import Path

import numpy as np
import yaml

from engine.export.backend import Backend, from_metadata
from engine.export.job import Job
from utils.config.export_formats import EXPORT_FORMATS
from utils.errors import UserError, printable


def write(path: Path, job: Job) -> None:
    """Writes the folder, by way of the ONNX graph."""
    import openvino

    from engine.export.onnx_graph import build_graph

    graph = build_graph(job)
    path.mkdir(parents=True)
    model = openvino.Core().read_model(graph.SerializeToString())
    name = path.name.removeprefix(".exporting-").removesuffix(EXPORT_FORMATS["openvino"].suffix)
    openvino.save_model(model, str(path / f"{name}.xml"), compress_to_fp16=job.settings.half)
    (path / "metadata.yaml").write_text(yaml.safe_dump(job.metadata(), sort_keys=False), "utf-8")


def open_file(path: Path) -> Backend:
    """An OpenVINO folder, or the .xml in it."""
    import openvino

    file = path if path.suffix == ".xml" else next(iter(sorted(path.glob("*.xml"))), None)
    if file is None or not (file.parent / "metadata.yaml").is_file():
        raise UserError(f"{printable(path)}: expected a folder with an .xml, a .bin and a metadata.yaml")
    with file.open("rb") as opened:  # anything else OpenVINO would hand to its readers of other formats
        if not opened.read(64).lstrip(b"\xef\xbb\xbf \r\n").startswith((b"<?xml", b"<net")):
            raise UserError(f"{printable(file)}: not an OpenVINO model: no XML")
    try:
        # Float32 arithmetic: a CPU may otherwise take bfloat16, and the numbers would differ from PyTorch's.
        compiled = openvino.Core().compile_model(str(file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        metadata = yaml.safe_load((file.parent / "metadata.yaml").read_text("utf-8"))
    except (RuntimeError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{printable(path)}: not an OpenVINO model ({printable(error, 120)})") from None
    requests = threading.local()  # one a thread: a request computes one batch at a time

    def compute(images: np.ndarray) -> list[np.ndarray]:
        if not hasattr(requests, "own"):
            requests.own = compiled.create_infer_request()
        return [np.array(part) for part in requests.own.infer({0: images}).values()]

    return from_metadata(path, metadata, compute)
