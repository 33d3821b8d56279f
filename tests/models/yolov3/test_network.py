"""The network: parameter counts of ultralytics/yolov3, shapes for any size, anchors and decoding."""

import math

import pytest
import torch

from alignyolo.anchors import best_possible_recall, build_anchors
from models.yolov3.anchor_fit import fit_anchors
from models.yolov3.build import build_network
from models.yolov3.decoding import Decoding
from utils.config.sources import model_config

FAMILIES = ["yolov3-tiny", "yolov3", "yolov3-spp"]


def parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("cfg", "num_classes", "count"),
    [("yolov3-tiny", 80, 8_852_366), ("yolov3-tiny", 8, 8_686_046), ("yolov3", 8, 61_561_429)],
)
def test_parameter_counts_are_ultralytics(cfg, num_classes, count):
    with torch.device("meta"):
        network = build_network(model_config(cfg, {}), num_classes)
    assert parameters(network) == count


def test_tiny_heads_use_anchors_0_to_2_and_3_to_5():
    first, second = model_config("yolov3-tiny", {}).anchors
    assert first == ((10, 14), (23, 27), (37, 58))
    assert second == ((81, 82), (135, 169), (344, 319))


@pytest.mark.parametrize("cfg", FAMILIES)
@pytest.mark.parametrize("activation", ["silu", "leaky"])
def test_any_size_that_the_stride_divides(cfg, activation):
    model = model_config(cfg, {"activation": activation, "channels": [8] * (7 if "tiny" in cfg else 6)})
    network = build_network(model, 4).eval()
    for height, width in ((64, 96), (32, 32)):
        raw = network(torch.zeros(2, 3, height, width))
        cells = sum((height // stride) * (width // stride) for stride in model.strides)
        assert raw.shape == (2, 3 * cells, 9)


def test_raw_outputs_are_ordered_anchor_row_column():
    model = model_config("yolov3-tiny", {"channels": [8] * 7})
    network = build_network(model, 2).eval()
    convs = network.head.convs
    with torch.no_grad():
        for conv in convs:
            conv.weight.zero_()
            conv.bias.copy_(torch.arange(len(conv.bias)))
    raw = network(torch.zeros(1, 3, 64, 96))[0]
    anchors = build_anchors((64, 96), model.strides, model.anchors)
    for level in anchors.levels:
        for k in range(3):
            index = level.index(torch.tensor(k), torch.tensor(1), torch.tensor(1))
            assert raw[index].tolist() == [7 * k + output for output in range(7)]


def test_objectness_starts_rare():
    network = build_network(model_config("yolov3-tiny", {}), 80)
    for conv, stride in zip(network.head.convs, (16, 32), strict=True):
        mean = conv.bias.view(3, -1)[:, 4].mean().item()
        assert mean == pytest.approx(math.log(8 / (640 / stride) ** 2), abs=0.1)


def test_anchors_lie_on_cell_centres():
    anchors = build_anchors((64, 96), [16, 32], [[(10, 14)], [(81, 82), (135, 169)]])
    assert len(anchors.centers) == 4 * 6 + 2 * 2 * 3
    level = anchors.levels[1]
    index = level.index(torch.tensor(1), torch.tensor(0), torch.tensor(2))
    assert anchors.centers[index].tolist() == [80, 16]
    assert anchors.sizes[index].tolist() == [135, 169]
    assert anchors.boxes[index].tolist() == [80 - 67.5, 16 - 84.5, 80 + 67.5, 16 + 84.5]


@pytest.mark.parametrize("reach", [0.0, 0.5, 1.0])
def test_decode_by_the_scalar_formula(reach):
    anchors = build_anchors((32, 64), [16, 32], [[(10, 14)], [(81, 82)]])
    raw = torch.randn(len(anchors.centers), 4, dtype=torch.float64)
    boxes = Decoding("bounded", reach).boxes(raw, anchors)
    index = 0
    for stride, rows, columns, (width, height) in ((16, 2, 4, (10, 14)), (32, 1, 2, (81, 82))):
        for row in range(rows):
            for column in range(columns):
                x, y, w, h = (1 / (1 + math.exp(-value)) for value in raw[index].tolist())
                cx, cy = (((1 + 2 * reach) * v - reach + c) * stride for v, c in ((x, column), (y, row)))
                w, h = (2 * w) ** 2 * width, (2 * h) ** 2 * height
                expected = [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]
                assert boxes[index].tolist() == pytest.approx(expected, abs=1e-9)
                index += 1


def test_decode_darknet_by_the_scalar_formula():
    anchors = build_anchors((32, 32), [32], [[(10, 14)]])
    x1, y1, x2, y2 = Decoding("darknet").boxes(torch.tensor([[0.3, -0.2, 0.1, 0.5]]), anchors)[0].tolist()
    assert (x1 + x2) / 2 == pytest.approx(32 / (1 + math.exp(-0.3)), rel=1e-5)
    assert (y1 + y2) / 2 == pytest.approx(32 / (1 + math.exp(0.2)), rel=1e-5)
    assert (x2 - x1, y2 - y1) == pytest.approx((10 * math.exp(0.1), 14 * math.exp(0.5)), rel=1e-5)


def test_best_possible_recall():
    sizes = torch.tensor([[10.0, 10.0], [10.0, 100.0], [500.0, 500.0]])
    shapes = torch.tensor([[10.0, 10.0], [12.0, 30.0]])
    recall, per_truth = best_possible_recall(sizes, shapes, 4.0)
    assert recall == pytest.approx(2 / 3)
    assert per_truth == pytest.approx(1.0)


def test_fitted_anchors_find_the_clusters():
    generator = torch.Generator().manual_seed(0)
    centers = torch.tensor([[8.0, 10.0], [40.0, 12.0], [16.0, 60.0], [100.0, 100.0], [200.0, 60.0], [90.0, 300.0]])
    sizes = (centers[:, None] * (1 + 0.05 * torch.randn(6, 50, 1, generator=generator))).flatten(0, 1)
    fitted = torch.tensor(fit_anchors(sizes, levels=2, per_level=3)).flatten(0, 1)
    assert torch.allclose(fitted, centers[centers.prod(1).argsort()], rtol=0.1)
    with pytest.raises(ValueError, match="2 different"):
        fit_anchors(sizes[:2], levels=2, per_level=3)
