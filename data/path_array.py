"""Many paths in little memory."""

import os
from collections.abc import Sequence

import numpy as np


class FlatPaths:
    """Paths as one array of bytes, read by row.

    Python counts the readers of every object in the object itself: a forked process that reads a list of strings
    copies the pages that hold them. An array it shares.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        encoded = [os.fsencode(path) for path in paths]
        self._bytes = np.frombuffer(b"".join(encoded), np.uint8)
        self._ends = np.cumsum([0, *map(len, encoded)])

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, row: int) -> str:
        return os.fsdecode(self._bytes[self._ends[row] : self._ends[row + 1]].tobytes())
