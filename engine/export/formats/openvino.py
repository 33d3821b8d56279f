"""OpenVINO: a folder with an .xml, a .bin and a metadata.yaml, for Intel's CPUs and GPUs."""

import contextlib
import functools
import io
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from engine.export.backend import Backend, from_metadata
from engine.export.job import Job
from engine.export.silent_imports import silent_nncf, silent_openvino
from utils.config.export_formats import EXPORT_FORMATS
from utils.config.yaml_file import read_mapping
from utils.errors import CommandError, UserError, printable

# What is not said OpenVINO chooses: bfloat16 on a CPU that has it, and the numbers differ from PyTorch's.
HINTS = {
    "float32": {"INFERENCE_PRECISION_HINT": "f32"},
    "bf16": {"INFERENCE_PRECISION_HINT": "bf16"},
    "auto": {},
}
RAN = {"f32": "float32", "f16": "float16"}


def write(path: Path, job: Job) -> None:
    """Write the folder, by way of the ONNX graph."""
    from engine.export.graph.onnx_graph import build_graph

    graph = build_graph(replace(job, settings=replace(job.settings, int8=False)))
    path.mkdir(parents=True)
    openvino = silent_openvino()
    model = kept_core().read_model(graph.SerializeToString())
    if job.settings.int8:
        model = _to_int8(model, job)
    name = path.name.removeprefix(".exporting-").removesuffix(EXPORT_FORMATS["openvino"].suffix)
    try:
        openvino.save_model(model, str(path / f"{name}.xml"), compress_to_fp16=job.settings.half)
    except RuntimeError as error:
        raise CommandError(f"{printable(path)}: OpenVINO cannot write it ({printable(error, 120)})") from None
    (path / "metadata.yaml").write_text(yaml.safe_dump(job.metadata(), sort_keys=False), "utf-8")


def _to_int8(model: Any, job: Job) -> Any:
    """Quantize by NNCF on the job's photos; everything after the last convolutions stays float."""
    nncf = silent_nncf()
    after, todo = set(), list(model.get_results())
    while todo:
        node = todo.pop()
        name, kind = node.get_friendly_name(), node.get_type_name()
        if kind not in ("Convolution", "Constant", "Parameter") and name not in after:
            after.add(name)
            todo += [value.get_node() for value in node.input_values()]
    ignored = nncf.IgnoredScope(names=sorted(after), validate=False)
    # Weights of seven bits: CPUs without VNNI add products in 16 bits, which those of eight overflow, without a word.
    everywhere = nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.ENABLE)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        photos = nncf.Dataset(job.calibration)
        subset = len(job.calibration)
        return nncf.quantize(model, photos, subset_size=subset, ignored_scope=ignored, advanced_parameters=everywhere)


@functools.cache
def kept_core() -> Any:
    """Make OpenVINO's core once and keep it until the process ends.

    Its part for CPUs gives the thread that loads it a stack for signal handlers. When the last model goes in another
    thread, that stack's memory is given back while the first thread still has it as its own, and the next signal
    that Python handles there (Ctrl-C, the end of a loading process) ends the process.
    """
    return silent_openvino().Core()


def open_file(path: Path, precision: str) -> Backend:
    """Open an OpenVINO folder, or the .xml in it."""
    file = path if path.suffix == ".xml" else next(iter(sorted(path.glob("*.xml"))), None)
    if file is None or not (file.parent / "metadata.yaml").is_file():
        raise UserError(f"{printable(path)}: expected a folder with an .xml, a .bin and a metadata.yaml")
    with file.open("rb") as opened:  # anything else OpenVINO would hand to its readers of other formats
        if not opened.read(64).lstrip(b"\xef\xbb\xbf \r\n").startswith((b"<?xml", b"<net")):
            raise UserError(f"{printable(file)}: not an OpenVINO model: no XML")
    try:
        compiled = kept_core().compile_model(str(file), "CPU", HINTS[precision])
    except RuntimeError as error:
        raise UserError(f"{printable(path)}: not an OpenVINO model ({printable(error, 120)})") from None
    chosen = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    ran = RAN.get(chosen, chosen)
    if precision not in ("auto", ran):
        raise UserError(f"--precision {precision}: OpenVINO computes in {ran} on this CPU")
    metadata = read_mapping(file.parent / "metadata.yaml")
    requests = threading.local()  # one a thread: a request computes one batch at a time

    def compute(images: np.ndarray) -> list[np.ndarray]:
        if not hasattr(requests, "own"):
            requests.own = compiled.create_infer_request()
        return [np.array(part) for part in requests.own.infer({0: images}).values()]

    return from_metadata(path, metadata, compute, ran)
