"""Where anchors lie: tests/alignyolo/test_assign.py and those of the detectors look at them in use."""

import pytest
import torch

from alignyolo.anchors import build_anchors


def test_cells_cover_the_image_row_by_row():
    anchors = build_anchors((64, 96), [32], [[(20, 30)]])
    assert anchors.centers.tolist() == [[x, y] for y in (16, 48) for x in (16, 48, 80)]
    assert torch.equal(anchors.sizes, torch.tensor([[20.0, 30.0]]).expand(6, 2))
    assert anchors.image_size == (64, 96)


@pytest.mark.parametrize("image_size", [(112, 112), (96, 80), (80, 96)])
def test_an_image_that_the_cells_do_not_cover_is_refused(image_size):
    height, width = image_size
    with pytest.raises(ValueError, match=f"image_size {height} x {width} must be divisible by every stride.* by 32"):
        build_anchors(image_size, [16, 32], [[(20, 30)], [(60, 60)]])
