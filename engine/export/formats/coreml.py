"""Core ML: a .mlpackage, for Apple's machines; elsewhere its operations are computed by PyTorch, to check them."""

import platform
import warnings
from pathlib import Path

import numpy as np
import torch

from engine.export.backend import Backend, Compute, from_metadata, in_turns
from engine.export.job import Job
from engine.export.silent_imports import nothing_printed
from utils.errors import CommandError, UserError, printable

INPUT, OUTPUT = "images", "output0"


def write(path: Path, job: Job) -> None:
    """Convert by coremltools, in float32; its own choice would be float16, the places of boxes included.

    From torch.export: what TorchScript traces holds sizes as numbers, which coremltools 9.0 cannot read with numpy 2.4.
    """
    example = job.example()
    with nothing_printed():
        import coremltools

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                traced = torch.export.export(job.network().eval(), (example,)).run_decompositions({})
                model = coremltools.convert(
                    traced,
                    inputs=[coremltools.TensorType(INPUT, shape=tuple(example.shape))],
                    outputs=[coremltools.TensorType(OUTPUT)],
                    compute_precision=coremltools.precision.FLOAT32,
                    minimum_deployment_target=coremltools.target.iOS15,
                    skip_model_load=True,
                )
            model.user_defined_metadata.update({key: str(value) for key, value in job.metadata().items()})
            model.save(str(path))
        except Exception as error:  # the converter raises whatever its passes do
            raise CommandError(f"--format coreml: coremltools failed: {printable(error, 160)}") from None


def open_file(path: Path, precision: str) -> Backend:
    """Open the package in Core ML on macOS, and elsewhere by PyTorch, operation by operation."""
    with nothing_printed():
        from coremltools.models import MLModel

        try:
            metadata = dict(MLModel(str(path), skip_model_load=True).user_defined_metadata)
            compute = _by_core_ml(path) if platform.system() == "Darwin" else _by_torch(path)
        except Exception as error:  # it raises whatever its reader of the package does
            raise UserError(f"{printable(path)}: not a Core ML package, or damaged ({printable(error, 100)})") from None
    return from_metadata(path, metadata, in_turns(compute))


def _by_core_ml(path: Path) -> Compute:
    """Compute by Apple's runtime, on the CPU, whose arithmetic is float32."""
    import coremltools

    model = coremltools.models.MLModel(str(path), compute_units=coremltools.ComputeUnit.CPU_ONLY)
    return lambda images: [model.predict({INPUT: images})[OUTPUT]]


def _by_torch(path: Path) -> Compute:
    """Compute by PyTorch what the package says."""
    from engine.export.graph.core_ml_program import open_program

    program = open_program(path)

    @torch.inference_mode()
    def compute(images: np.ndarray) -> list[np.ndarray]:
        return [part.numpy() for part in program(torch.from_numpy(images))]

    return compute
