"""SCALoss Figures 1, 4 and 5b with small samples, against the values read off the paper and against algebra."""

import pytest
import torch
from PIL import Image

from alignyolo.similarities.iou import giou, iou
from alignyolo.similarities.sca import so
from studies.figures import animation, bounds, gradient_magnitude, regression

LIMIT = 1200


@pytest.fixture(scope="module")
def gradient_rows():
    return gradient_magnitude.gradient_table(gradient_magnitude.SIMILARITIES, 400_000)


@pytest.mark.parametrize("name", ["so", "sca squared"])
def test_gradient_magnitude_is_that_of_the_figure(name, gradient_rows):
    assert sum(row["pairs"] >= 1000 for row in gradient_rows) >= 7
    paper = "so" if name == "so" else "sca"
    assert gradient_magnitude.deviation(gradient_rows, name, paper, least_pairs=1000) < 0.05


def test_equation_3_gives_another_curve(gradient_rows):
    assert gradient_magnitude.deviation(gradient_rows, "sca", "sca", least_pairs=1000) > 0.12
    assert gradient_magnitude.deviation(gradient_rows, "sca alpha 1", "sca", least_pairs=1000) > 0.3


def test_gradient_lengths_against_finite_differences():
    generator = torch.Generator().manual_seed(3)
    pred, target = (gradient_magnitude.random_boxes(50, generator).double() for _ in range(2))
    similarity, step = gradient_magnitude.SIMILARITIES["sca"], 1e-6
    slopes = []
    for corner in range(4):
        shift = torch.zeros(4, dtype=torch.float64)
        shift[corner] = step
        slopes.append((similarity(pred + shift, target) - similarity(pred - shift, target)) / (2 * step))
    expected = torch.stack(slopes, -1).norm(dim=-1)
    torch.testing.assert_close(
        gradient_magnitude.gradient_lengths(similarity, pred, target), expected, rtol=1e-4, atol=0
    )


def test_the_pairs_are_the_papers():
    boxes, truths = regression.anchors_and_truths()
    assert len(boxes) == 20 * 20 * 3 * 3 * 5
    assert len(torch.unique(boxes, dim=0)) == 3600  # "thus we have 3600 anchors"
    size = truths[:, 2:] - truths[:, :2]
    assert sorted({round(ratio, 2) for ratio in (size[:, 0] / size[:, 1]).tolist()}) == [0.25, 0.5, 1, 2, 4]
    torch.testing.assert_close(size.prod(-1), torch.full((len(size),), 16.0))
    assert iou(boxes, truths).mean().item() == pytest.approx(0.05, abs=0.005)


@pytest.mark.parametrize("setup", regression.DESCENTS)
def test_order_of_convergence(setup):
    by_name, stranded = regression.curves(regression.SIMILARITIES, regression.DESCENTS[setup], LIMIT, steps=400)
    at_400 = {name: curve[400] for name, curve in by_name.items()}
    assert regression.ordering_holds(at_400), at_400
    assert at_400["diou"] > at_400["iou"]
    assert stranded["iou"] > 0.5


def test_most_of_the_head_start_is_a_larger_step():
    leads = []
    for descent in (*regression.DESCENTS.values(), *regression.MATCHED.values()):
        similarities = {name: regression.SIMILARITIES[name] for name in ("giou", "sca")}
        by_name, _ = regression.curves(similarities, descent, 600, steps=400)
        leads.append(by_name["sca"][400] - by_name["giou"][400])
    plain, _, matched = leads
    assert plain > 0.2
    assert 0 < matched < 0.4 * plain


def test_centre_curve_is_that_of_figure_1():
    setup = regression.DESCENTS["DIoU's rule, rate .1 x (2 - IoU)"]
    center = {"diou": regression.ALIGNMENTS["IoU + centre (DIoU)"]}
    by_name, _ = regression.curves(center, setup, LIMIT, steps=1000)
    for number, value in regression.PAPER_CENTER.items():
        if number <= 1000:
            assert by_name["diou"][number] == pytest.approx(value, abs=0.035)


def test_ordering_can_fail():
    right = {"sca": 0.9, "so": 0.8, "giou": 0.6, "diou": 0.5, "iou": 0.3}
    assert regression.ordering_holds(right)
    assert not regression.ordering_holds({**right, "so": 0.55})
    assert not regression.ordering_holds({**right, "iou": 0.55})


@pytest.mark.parametrize("spread", [1.0, 3.0])
def test_no_pair_breaks_a_bound(spread):
    assert set(bounds.violations(*bounds.random_pairs(200_000, 5, spread)).values()) == {0}


def test_the_bounds_are_reached():
    low, high = torch.rand(2, 2000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    one, zero = torch.ones_like(low), torch.zeros_like(low)
    narrow = torch.cat([zero, zero, low, one], -1)  # nested, equal heights: the lower bound of IoU and GIoU
    unit = torch.cat([zero, zero, one, one], -1)
    torch.testing.assert_close(iou(narrow, unit), so(narrow, unit), atol=1e-6, rtol=0)
    crossing = (
        torch.cat([zero, (1 - low) / 2, one, (1 + low) / 2], -1),
        torch.cat([(1 - low) / 2, zero, (1 + low) / 2, one], -1),
    )
    _, upper = bounds.iou_bounds(so(*crossing) + 1, iou(*crossing) > 0)
    torch.testing.assert_close(iou(*crossing), upper, atol=1e-6, rtol=0)
    inside = torch.cat([zero, zero, high, high], -1)
    torch.testing.assert_close(giou(inside, unit), bounds.giou_bounds(so(inside, unit) + 1)[1], atol=1e-6, rtol=0)


def test_violations_are_seen(monkeypatch):
    monkeypatch.setattr(bounds, "iou_bounds", lambda value, _: (value - 0.9, value / 5))
    found = bounds.violations(*bounds.random_pairs(10_000, 5))
    assert found["IoU above its lower bound"] > 0
    assert found["IoU below its upper bound"] > 0


def test_examples_of_the_claims():
    by_case = {row["case"]: row for row in bounds.examples()}
    shifted, scaled, far, farther, both = by_case.values()
    assert shifted["gap_iou_plus_1"] == pytest.approx(0.476, abs=1e-3)
    assert scaled["gap_iou_plus_1"] == pytest.approx(0, abs=1e-6)
    assert (far["so"], farther["so"], both["so"]) == pytest.approx((2 / 11, 2 / 1001, -2 * 999 / 1001), abs=1e-6)


def test_gap_shrinks_with_shape_on_average_only():
    gaps = bounds.gap_by_shape(*bounds.random_pairs(200_000, 2))
    means = [row["mean_gap"] for row in gaps]
    assert means == sorted(means, reverse=True)
    assert gaps[-1]["largest_gap"] > means[0]


def test_the_animation_shows_the_order_and_is_small(tmp_path):
    shown = animation.frames((0, 200))
    assert len({round(animation.mean_iou(boxes), 6) for boxes in shown[0].boxes.values()}) == 1
    final = {name: animation.mean_iou(boxes) for name, boxes in shown[1].boxes.items()}
    assert final["sca"] > final["so"] > final["giou"] > final["iou"]
    path = tmp_path / "boxes.gif"
    animation.write_gif(shown, path)
    with Image.open(path) as image:
        assert image.n_frames == 2
    assert path.stat().st_size / 2 * len(animation.FRAME_STEPS) < 1.2 * 2**20
