"""What a compiled kernel is told: an array of 64-bit fields, addresses of tensors and numbers, each with its place."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # Not at run time: kernel_cache.py compiles without torch.
    from torch import Tensor

# What threads count up together, parts of the work and their size in rows, and how a row looks.
NEXT, PARTS, PART_ROWS, ROWS, CHANNELS, LONG, COPIES, TABLE_COPIES, COUNT, HEIGHT, WIDTH, KIND = range(12)
# Tensors.
X, OUT, ADDED, GRADIENT, SUMS, TABLE, CHOSEN, PLACES, DEVIATIONS, WEIGHT, BIAS = range(12, 23)
RUNNING_MEAN, RUNNING_VARIANCE = 23, 24
# float64.
SLOPE, EPS, MOMENTUM = range(25, 28)
FIELDS = 28


class WorkOrder:
    """The fields by their names here; tensors are kept alive as long as it is, which a bare address would not do."""

    def __init__(self) -> None:
        self.fields = (ctypes.c_int64 * FIELDS)()
        self._numbers = (ctypes.c_double * FIELDS).from_buffer(self.fields)
        self._kept: dict[str, Tensor] = {}

    def set(self, **values: Tensor | float | None) -> None:
        """Write fields: a tensor's address (0 for None), a whole number, or a float64."""
        for name, value in values.items():
            place = globals()[name]
            if value is None or isinstance(value, int | float):
                if place >= SLOPE:
                    self._numbers[place] = value or 0.0
                else:
                    self.fields[place] = int(value or 0)
            else:
                self._kept[name] = value
                self.fields[place] = value.data_ptr()
