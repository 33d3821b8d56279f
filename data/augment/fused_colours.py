"""Colours and flip of an augmented image on the way to its place in a batch: one pass, compiled by llvmlite.

OpenCV goes through the pixels three times for the colours alone. Here some pixels at a time stay in the
processor's registers from RGB to HSV and back. The steps and their roundings are those of OpenCV's vector code, so
every bit is the same. That is not taken on trust, for OpenCV may be built otherwise: before a width is used, random
pixels of it are computed both ways, and where they differ the pass is not used. llvmlite is optional; numba brings it.
"""

import ctypes
import functools
import importlib.util
from importlib import metadata
from typing import Any

import numpy as np

from data.augment.colours import as_factors, recolour

OLDEST = (0, 45)  # llvmlite's version with which this was tried
BLOCK = 64  # pixels together; fewer take longer
# The pixels, and how their colours are changed, that a width is tried on.
TRIAL_SEED, TRIAL_ROWS = 0, 64
TRIAL_GAINS = ((1.0, 1.0, 1.0), (0.99, 1.6, 0.7), (1.3, 0.4, 1.35))


class FusedColours:
    """The compiled pass: `fused(image, gains, flip_x, flip_y, out)` fills `out`, for images (h, w, 3) uint8.

    What is left of a row beside whole blocks is OpenCV's, which computes it otherwise than those, one pixel at a time.
    """

    def __init__(self, engine: Any, name: str) -> None:
        self.engine = engine  # keeps the code in memory
        number, place = ctypes.c_int64, ctypes.c_void_p
        declared = ctypes.CFUNCTYPE(None, place, number, place, number, number, number, ctypes.c_bool, place)
        self.function = declared(engine.get_function_address(name))

    def __call__(self, image: np.ndarray, gains: np.ndarray, flip_x: bool, flip_y: bool, out: np.ndarray) -> np.ndarray:
        height, width = image.shape[:2]
        assert image.flags.c_contiguous and out.flags.c_contiguous and image.shape == out.shape
        blocks, left = divmod(width, BLOCK)
        factors, unit = as_factors(gains)
        numbers = np.array([*factors, unit], np.float32)
        rows = out[::-1] if flip_y else out
        # What is left over is what comes last in `out`.
        body, rest = (image[:, left:], image[:, :left][:, ::-1]) if flip_x else (image, image[:, width - left :])
        whole = (height, blocks, flip_x, numbers.ctypes.data)
        self.function(body.ctypes.data, body.strides[0], rows.ctypes.data, rows.strides[0], *whole)
        if left:
            rows[:, width - left :] = recolour(np.ascontiguousarray(rest), gains)
        return out


@functools.cache
def fused_colours(width: int) -> FusedColours | None:
    """Return the pass for images of a width; None where it is not to be had, or is not OpenCV's result to the bit."""
    fused = _compiled() if width >= BLOCK else None
    return fused if fused is not None and _equals(fused, width) else None


def _equals(fused: FusedColours, width: int) -> bool:
    """Tell whether random pixels, changed by the pass and by OpenCV, are the same."""
    image = np.random.default_rng(TRIAL_SEED).integers(0, 256, (TRIAL_ROWS, width, 3), np.uint8)
    out = np.empty_like(image)
    for gains in map(np.array, TRIAL_GAINS):
        fused(image, gains, False, False, out)
        if not np.array_equal(out, recolour(image.copy(), gains)):
            return False
    return True


@functools.cache
def _compiled() -> FusedColours | None:
    """Compile the pass in about .1 s.

    None without llvmlite, or where the processor does not multiply and add with one rounding.
    """
    if importlib.util.find_spec("llvmlite") is None or _version("llvmlite") < OLDEST:
        return None
    from llvmlite import binding

    from data.augment import colour_code

    features, triple = binding.get_host_cpu_features(), binding.get_default_triple()
    if not (features.get("fma") or triple.startswith(("aarch64", "arm64"))):
        return None
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    target = binding.Target.from_default_triple()
    machine = target.create_target_machine(cpu=binding.get_host_cpu_name(), features=features.flatten(), opt=3)
    module = binding.parse_assembly(str(colour_code.build(triple, BLOCK)))
    module.verify()
    engine = binding.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    return FusedColours(engine, colour_code.NAME)


def _version(package: str) -> tuple[int, ...]:
    return tuple(int(part) for part in metadata.version(package).split(".")[:2])
