"""A small drawn data set, and a narrow network, for tests that train."""

import pytest

from data.shapes.demo_set import make_shapes

NARROW = ["channels=[8,8,16,16,32,32,64]"]
# One model of every kind, as small as it gets.
FAMILIES = {
    "yolov3-tiny": NARROW,
    "retinanet_resnet18_fpn": ["fpn_channels=16"],
    "fasterrcnn_resnet50_fpn": ["backbone=resnet18", "fpn_channels=8"],
    "ssd300_vgg16": [],
}
# SSD has one input size alone, at which an image and step take two seconds.
SSD_SIDE = 300
# The ResNets and VGG16 are not narrow: a minute a test.
ALL_FAMILIES = [pytest.param(cfg, marks=() if cfg == "yolov3-tiny" else pytest.mark.slow) for cfg in FAMILIES]


@pytest.fixture(scope="session")
def small_shapes(tmp_path_factory):
    """The YAML of a data set of 24 training and 12 validation pictures."""
    return make_shapes(tmp_path_factory.mktemp("data") / "shapes", seed=1, train=24, val=12, size=160)


@pytest.fixture(scope="session")
def few_shapes(tmp_path_factory):
    """The YAML of a data set of 8 training and 4 validation pictures."""
    return make_shapes(tmp_path_factory.mktemp("few") / "shapes", seed=1, train=8, val=4, size=160)


@pytest.fixture(scope="session")
def data_of(small_shapes, few_shapes):
    """The data set that a kind of model can train on in a minute."""
    return lambda cfg: few_shapes if cfg == "ssd300_vgg16" else small_shapes


@pytest.fixture
def flags(small_shapes, tmp_path):
    """Flags of a run that takes seconds."""
    return {
        "data": str(small_shapes),
        "imgsz": [96, 128],
        "batch_size": 8,
        "epochs": 2,
        "workers": 0,
        "device": "cpu",
        "project": str(tmp_path / "runs"),
        "amp": "off",
        "plots": False,
        "set": [*NARROW, "nominal_batch=8"],
    }
