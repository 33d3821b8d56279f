"""Paths as one array."""

import os
import pickle

from data.path_array import FlatPaths


def test_every_path_comes_back():
    paths = ["/a/b.jpg", "", "/ä/犬.png", os.fsdecode(b"/not/utf8\xff.jpg"), "/a\nb"]
    flat = FlatPaths(paths)
    assert [flat[row] for row in range(len(flat))] == paths
    # As a loading process that is not forked gets it.
    assert [pickle.loads(pickle.dumps(flat))[row] for row in range(5)] == paths
    assert len(FlatPaths([])) == 0
