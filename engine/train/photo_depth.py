"""How the training photos of more than 8 bits are scaled: chosen once for a run, and kept in its checkpoints."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from data.images import FLOATS, ImageError, bits_if_deep
from utils.config.knobs import Config
from utils.errors import UserError
from utils.hardware import usable_cores

LOOKED_AT = 500
SUFFIXES = (".png", ".tif", ".tiff")


def with_photo_bits(config: Config, images: Sequence[str]) -> Config:
    """Fill in how many bits the deep photos among these use, unless `--photo-bits` says it; print the choice once.

    The largest value of up to 500 photos, spread over the set, decides: so a dark photo is not made brighter than its
    neighbours. UserError where `--photo-bits` is given and no photo is deep.
    """
    candidates = [image for image in images if image.lower().endswith(SUFFIXES)]
    rows = np.unique(np.linspace(0, len(candidates) - 1, min(LOOKED_AT, len(candidates))).round().astype(int))
    with ThreadPoolExecutor(usable_cores()) as pool:
        found = [bits for bits in pool.map(_bits, [candidates[row] for row in rows.tolist()]) if bits is not None]
    asked, used = config.run.photo_bits, max(found, default=None)
    if used is None:
        if asked:
            raise UserError(f"--photo-bits {asked}: no photo of more than 8 bits among the {len(rows)} looked at")
        return config
    bits = asked or used
    if bits == FLOATS:
        print(f"deep photos ({len(found)} of {len(rows)} looked at): fractions from 0 to 1 become 0 to 255")
        return config
    why = "--photo-bits" if asked else f"{used} bits are used; --photo-bits decides otherwise"
    told = f"0 to {2**bits - 1:,} becomes 0 to 255 ({why}); kept in the checkpoint"
    print(f"deep photos ({len(found)} of {len(rows)} looked at): {told}")
    return replace(config, run=replace(config.run, photo_bits=bits))


def _bits(path: str) -> int | None:
    try:
        return bits_if_deep(path)
    except ImageError:
        return None
