"""A small drawn data set for studies that look at one or train on it."""

import pytest

from data.shapes.demo_set import make_shapes


@pytest.fixture(scope="session")
def small_shapes(tmp_path_factory):
    """The YAML of a data set of 8 training and 8 validation pictures."""
    return make_shapes(tmp_path_factory.mktemp("data") / "shapes", seed=1, train=8, val=8, size=96)
