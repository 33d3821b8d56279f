"""Begins to compile a training's CPU kernels before the data is opened and torch imported, which take seconds."""

import os
from pathlib import Path

from engine.settings.used_settings import Choices
from models.families import family_of
from models.kernels import kernel_cache
from utils.hardware import ROOT, cpu_features, has_gpu


def compile_before_torch(choices: Choices, root: Path = ROOT) -> None:
    """Begin to compile what a first training on this machine will need, as far as its files tell without torch.

    A guess: what turns out to be missing is compiled when torch is there, and what was not needed lies in the cache.
    """
    run, features = choices.run, cpu_features(root)
    device = run.device.strip().lower()
    if not features or device not in ("", "cpu") or (not device and has_gpu(root)):
        return
    # Of several processes of a training the first compiles.
    if os.environ.get("LOCAL_RANK", "0") != "0" or choices.hyper.cpu_kernels == "off":
        return
    if family_of(choices.model).cpu_kernels:
        vectors = "avx512_bf16" in features
        bf16 = run.amp == "bf16" or (run.amp == "auto" and (vectors or "amx_bf16" in features))
        tiles = not bf16 or vectors
        kernel_cache.compile_ahead("uint16" if bf16 else "float32", ["norm_loops", *["tile_loops"] * tiles])
