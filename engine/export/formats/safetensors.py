"""safetensors: the weights alone, with the config beside them; read by this project's commands like a checkpoint."""

import json
from pathlib import Path

from engine.export.backend import Backend
from engine.export.job import Job
from engine.export.weights import open_weights


def write(path: Path, job: Job) -> None:
    """Write the network's tensors."""
    from safetensors.torch import save

    state = {name: value.contiguous() for name, value in job.detector.network.state_dict().items()}
    if job.settings.half:
        state = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    metadata = {key: str(value) for key, value in job.metadata().items()}
    # Not by its writer of files, whose error on a full disk is none of the system's.
    path.write_bytes(save(state, {**metadata, "config": json.dumps(job.sized_config().to_dict())}))


def open_file(path: Path, precision: str) -> Backend:
    """Open the file in PyTorch."""
    return open_weights(path, precision=precision)
