"""ncnn: a folder with model.ncnn.param, model.ncnn.bin and a metadata.yaml, for phones and small boards."""

import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch

from engine.export.backend import Backend, from_metadata
from engine.export.converter import run_converter
from engine.export.formats import torchscript
from engine.export.formats.folder import read_metadata, write_metadata
from engine.export.job import Job
from engine.export.silent_imports import nothing_printed
from utils.errors import UserError, printable

PARAM, WEIGHTS = "model.ncnn.param", "model.ncnn.bin"
MAGIC = b"7767517"  # the first line of every .param


def write(path: Path, job: Job) -> None:
    """Write the folder by pnnx, from TorchScript, with float32 weights: float16, its default, moves boxes by pixels."""
    import pnnx

    height, width = job.size
    with tempfile.TemporaryDirectory() as folder:
        torchscript.write(Path(folder) / "model.torchscript", job, any_device=False)  # pnnx knows this form
        command = [pnnx.EXEC_PATH, "model.torchscript", f"inputshape=[1,3,{height},{width}]", "fp16=0"]
        made = [Path(folder) / name for name in (PARAM, WEIGHTS)]
        run_converter("ncnn", "pnnx", command, Path(folder), made)
        path.mkdir(parents=True)
        for file in made:
            shutil.move(file, path / file.name)
    write_metadata(path, job)


def open_file(path: Path, precision: str) -> Backend:
    """Open the folder in ncnn on the CPU, in float32."""
    import ncnn

    metadata = read_metadata(path, PARAM, WEIGHTS)
    with (path / PARAM).open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise UserError(f"{printable(path / PARAM)}: not an ncnn model")
    network = ncnn.Net()
    network.opt.use_vulkan_compute = False
    # Its own choice is all cores, whose threads wait for each other where torch's, or other work, has them.
    network.opt.num_threads = torch.get_num_threads()
    for option in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
        setattr(network.opt, option, False)
    with nothing_printed():
        failed = network.load_param(str(path / PARAM)) or network.load_model(str(path / WEIGHTS))
    if failed:
        raise UserError(f"{printable(path)}: not an ncnn model, or damaged")

    def compute(images: np.ndarray) -> list[np.ndarray]:
        with network.create_extractor() as extractor:
            extractor.input("in0", ncnn.Mat(np.ascontiguousarray(images[0])))
            _, output = extractor.extract("out0")
            return [np.array(output)[None]]

    return from_metadata(path, metadata, compute)
