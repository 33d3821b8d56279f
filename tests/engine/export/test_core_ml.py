"""Core ML packages where Core ML is not: their operations by hand, and networks that PyTorch computes from them."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from engine.export.graph.core_ml_program import OPERATIONS
from engine.export.runtimes import open_backend
from export import export
from tests.lively import lively_checkpoint
from utils.errors import UserError


def test_windows_and_padding():
    """By hand, in the order in which Core ML's reference has begin and end of each dimension."""
    x = torch.arange(9.0).view(1, 1, 3, 3)
    given = {"x": x, "pad": [1, 0, 0, 2], "mode": "constant", "constant_val": 7.0}
    padded = OPERATIONS["pad"](given)
    assert padded.shape == (1, 1, 4, 5)
    assert padded[0, 0, 0].tolist() == [7.0] * 5
    assert padded[0, 0, 1].tolist() == [0.0, 1.0, 2.0, 7.0, 7.0]
    pool = {"x": x - 20, "kernel_sizes": [2, 2], "strides": [1, 1], "ceil_mode": False}
    # The odd pixel of `same` comes last, and what is padded is below every value.
    same = OPERATIONS["max_pool"]({**pool, "pad_type": "same"})
    assert same[0, 0].tolist() == [[-16.0, -15.0, -15.0], [-13.0, -12.0, -12.0], [-13.0, -12.0, -12.0]]
    assert torch.equal(OPERATIONS["max_pool"]({**pool, "pad_type": "valid"}), functional.max_pool2d(x - 20, 2, 1))
    weight = torch.rand(4, 2, 3, 3)
    convolution = {"x": torch.rand(1, 4, 9, 7), "weight": weight, "strides": [2, 1], "dilations": [1, 2], "groups": 2}
    made = OPERATIONS["conv"]({**convolution, "pad_type": "custom", "pad": [1, 1, 2, 2]})
    assert torch.equal(made, functional.conv2d(convolution["x"], weight, None, (2, 1), (1, 2), (1, 2), 2))


def test_slices_and_parts():
    x = torch.arange(24.0).view(2, 3, 4)
    masks = {"begin_mask": [True, False, False], "end_mask": [True, False, True], "squeeze_mask": [False, True, False]}
    cut = OPERATIONS["slice_by_index"]({"x": x, "begin": [5, 2, 1], "end": [0, 3, 0], "stride": [1, 1, 2], **masks})
    assert torch.equal(cut, x[:, 2, 1::2])
    parts = OPERATIONS["split"]({"x": x, "split_sizes": [1, 3], "axis": 2})
    assert [part.shape[2] for part in parts] == [1, 3]
    assert [part.shape[1] for part in OPERATIONS["split"]({"x": x, "num_splits": 3, "axis": 1})] == [1, 1, 1]
    wide = OPERATIONS["upsample_nearest_neighbor"]({"x": x[None], "scale_factor_height": 2, "scale_factor_width": 1.0})
    assert np.array_equal(wide[0].numpy(), x.numpy().repeat(2, axis=1))


@pytest.mark.parametrize(
    ("cfg", "changes"),
    [
        ("yolov3-tiny", {"channels": [8] * 7, "activation": "leaky", "decode": "darknet"}),
        ("yolov3-tiny", {"channels": [8] * 7, "activation": "leaky", "pool_padding": "lowest"}),
        ("yolov3-spp", {"channels": [4, 8, 8, 8, 8, 8]}),
    ],
    ids=str,
)
def test_every_network_is_computed_from_its_package(cfg, changes, tmp_path, capsys):
    pytest.importorskip("coremltools", reason="pip install coremltools")
    best = lively_checkpoint(tmp_path / "best.pt", cfg, changes, ("cat", "dog"), (64, 96))
    (file,) = export(weights=str(best), format=["coreml"])
    assert "checked: 4 photos" in capsys.readouterr().out
    assert open_backend(file).names == ("cat", "dog")


@pytest.mark.parametrize("damage", ["empty folder", "text", "no weights"])
def test_a_package_that_is_none_is_one_line(damage, tmp_path):
    pytest.importorskip("coremltools", reason="pip install coremltools")
    best = lively_checkpoint(tmp_path / "best.pt", "yolov3-tiny", {"channels": [8] * 7}, ("cat",), (64, 64))
    (file,) = export(weights=str(best), format=["coreml"])
    for each in [each for each in file.rglob("*") if each.is_file()]:
        if damage == "empty folder" or (damage == "no weights" and each.suffix == ".bin"):
            each.unlink()
        elif damage == "text":
            each.write_text("hello")
    with pytest.raises(UserError, match="best.mlpackage: not a Core ML package, or damaged") as caught:
        open_backend(file)
    assert "\n" not in str(caught.value)
