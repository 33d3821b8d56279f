"""Box similarities against published numbers, torchvision's losses, closed forms and the properties of DESIGN 2.1."""

import numpy as np
import pytest
import torch
from torchvision import ops

from alignyolo.similarities.sca import iou_cd, sca
from tests.alignyolo.registered import BOX_SIMILARITIES
from tests.paths import SHARED_DATA, needs_shared_data

REFERENCE = SHARED_DATA / "loss" / "box-similarities-reference.npz"
TORCHVISION = {
    "giou": ops.generalized_box_iou_loss,
    "diou": ops.distance_box_iou_loss,
    "ciou": ops.complete_box_iou_loss,
}
DEGENERATE = {
    "identical": ((10, 20, 50, 90), (10, 20, 50, 90)),
    "nested": ((20, 30, 40, 50), (10, 20, 50, 90)),
    "around": ((10, 20, 50, 90), (20, 30, 40, 50)),
    "shared corner": ((10, 20, 30, 40), (10, 20, 50, 90)),
    "disjoint": ((0, 0, 10, 10), (500, 300, 600, 330)),
    "touching": ((0, 0, 10, 10), (10, 0, 20, 10)),
    "zero width": ((10, 20, 10, 90), (10, 20, 50, 90)),
    "zero width inside": ((30, 20, 30, 90), (10, 20, 50, 90)),
    "zero height": ((10, 40, 50, 40), (10, 20, 50, 90)),
    "truth without width": ((10, 20, 50, 90), (30, 20, 30, 90)),
    "zero size": ((30, 40, 30, 40), (10, 20, 50, 90)),
    "both zero width, same": ((30, 20, 30, 90), (30, 20, 30, 90)),
    "both zero size, same": ((30, 40, 30, 40), (30, 40, 30, 40)),
    "both zero size, apart": ((30, 40, 30, 40), (70, 90, 70, 90)),
    "both zero at origin": ((0, 0, 0, 0), (0, 0, 0, 0)),
    "large": ((0, 0, 1200, 1200), (10, 10, 1100, 1300)),
}
# Half precision cannot hold these, or the gradients that belong to them.
EXTREME = {
    "tiny": ((0, 0, 1e-6, 1e-6), (0, 0, 2e-6, 1e-6)),
    "tiny identical": ((0, 0, 1e-6, 1e-6), (0, 0, 1e-6, 1e-6)),
    "tiny in ordinary": ((0, 0, 1e-6, 1e-6), (0, 0, 50, 50)),
    "ordinary around tiny": ((0, 0, 50, 50), (0, 0, 1e-6, 1e-6)),
    "huge": ((0, 0, 1e6, 1e6), (5e5, 4e5, 1.5e6, 1.7e6)),
    "huge identical": ((0, 0, 1e6, 1e6), (0, 0, 1e6, 1e6)),
    "ordinary in huge": ((0, 0, 50, 50), (0, 0, 1e6, 1e6)),
    "huge apart": ((0, 0, 1e6, 1e6), (1e9, 1e9, 1.1e9, 1.1e9)),
    "sides of 1e9": ((-1e9, -1e9, 1e9, 1e9), (0, 0, 1e9, 1e9)),
    "ordinary in sides of 1e9": ((0, 0, 50, 50), (0, 0, 1e9, 1e9)),
}
# What measures distances in pixels, or against the image: it changes with the scale and has no lower limit.
BASES = {name: name.removeprefix("inner_").removeprefix("focaler_") for name in BOX_SIMILARITIES}
IN_PIXELS = {name for name in BOX_SIMILARITIES if BASES[name] in ("mpdiou", "nwd")}
# What measures against the truth alone, or has a weight that the gradient does not see.
ONE_SIDED = {"piou", "piou_v2", "bounded_iou", "interpiou"}
DETACHED = {"ciou", "alpha_ciou", "focal_eiou", "wiou_v1", "wiou_v3"}
# Over what falls more slowly than IoU, an IoU that is stretched can take the sum above 1.
MOST = 1.06
every_similarity = pytest.mark.parametrize("name", sorted(BOX_SIMILARITIES))


def random_boxes(count: int, seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """`count` xyxy boxes of 2 to 202 px in a 400 px square, many of them disjoint."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, generator=generator, dtype=torch.float64) * 400
    sizes = 2 + torch.rand(count, 2, generator=generator, dtype=torch.float64) ** 2 * 200
    return torch.cat([corners, corners + sizes], dim=1).to(dtype)


def jittered(boxes: torch.Tensor, seed: int) -> torch.Tensor:
    """Boxes near the given ones: every side moved by up to 20 % of the box."""
    generator = torch.Generator().manual_seed(seed)
    spans = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    return boxes + (torch.rand(boxes.shape, generator=generator, dtype=torch.float64) - 0.5) * 0.4 * spans


def pairs(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Half of the pairs unrelated (mostly disjoint), half near to each other, in float64."""
    target = random_boxes(count, seed)
    pred = torch.cat([random_boxes(count // 2, seed + 1), jittered(target[count // 2 :], seed + 2)])
    return pred, target


def gradient(similarity, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The gradient of the summed loss 1 - similarity at `pred`."""
    leaf = pred.clone().requires_grad_()
    (1 - similarity(leaf, target)).sum().backward()
    return leaf.grad


def test_the_registry_holds_the_papers_similarities():
    assert set(BOX_SIMILARITIES) >= {"iou", "giou", "diou", "ciou", "sca", "so", "cd", "center", "iou_cd"}


@needs_shared_data
@pytest.mark.parametrize("name", ["iou", "giou", "diou", "ciou"])
def test_iou_family_equals_the_reference(name):
    with np.load(REFERENCE) as data:
        pred, target, expected = (torch.from_numpy(data[key]) for key in ("pred", "target", name))
    torch.testing.assert_close(BOX_SIMILARITIES[name](pred, target), expected, atol=1e-6, rtol=0)
    single = BOX_SIMILARITIES[name](pred.float(), target.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single, expected.float(), atol=1e-4, rtol=0)


@needs_shared_data
@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_sca_equals_the_authors_code(alpha):
    with np.load(REFERENCE) as data:
        pred, target, expected = (
            torch.from_numpy(data[key]) for key in ("pred", "target", f"sca_authors_alpha{alpha}")
        )
    torch.testing.assert_close(sca(pred, target, alpha=alpha), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", sorted(TORCHVISION))
def test_values_and_gradients_equal_torchvision(name):
    pred, target = pairs(4000, seed=3)
    expected = pred.clone().requires_grad_()
    loss = TORCHVISION[name](expected, target)
    loss.sum().backward()
    assert (ops.box_iou(pred, target).diag() == 0).float().mean() > 0.2, "the pairs must include disjoint ones"
    torch.testing.assert_close(1 - BOX_SIMILARITIES[name](pred, target), loss.detach(), atol=1e-6, rtol=0)
    torch.testing.assert_close(gradient(BOX_SIMILARITIES[name], pred, target), expected.grad, atol=1e-6, rtol=0)


def test_iou_equals_torchvision_box_iou():
    pred, target = pairs(500, seed=5)
    torch.testing.assert_close(
        BOX_SIMILARITIES["iou"](pred[:, None], target), ops.box_iou(pred, target), atol=1e-6, rtol=0
    )


def test_closed_forms_of_two_diagonal_unit_boxes():
    pred = torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=torch.float64)
    target = torch.tensor([5.0, 5.0, 6.0, 6.0], dtype=torch.float64)
    value = {name: float(function(pred, target)) for name, function in BOX_SIMILARITIES.items()}
    assert value["so"] == pytest.approx(-4 / 3 - 1, abs=1e-6)
    assert value["cd"] == pytest.approx(1 - 5 / 3, abs=1e-6)
    assert 1 - value["sca"] == pytest.approx(4.16667, abs=1e-5)
    assert value["iou"] == pytest.approx(0, abs=1e-6)
    assert value["giou"] == pytest.approx(2 / 36 - 1, abs=1e-6)
    assert value["diou"] == pytest.approx(-50 / 72, abs=1e-6)
    assert value["ciou"] == pytest.approx(-50 / 72, abs=1e-6)
    assert value["center"] == pytest.approx(1 - 50 / 72, abs=1e-6)
    assert value["iou_cd"] == pytest.approx(-0.5 * 5 / 3, abs=1e-6)


@pytest.mark.parametrize("corner", ["euclidean", "squared"])
@pytest.mark.parametrize("alpha", [0.0, 0.2, 0.5, 1.0])
def test_sca_and_iou_cd_equal_the_papers_formula(alpha, corner):
    pred, target = pairs(2000, seed=7)
    low, high = torch.minimum(pred, target).numpy(), torch.maximum(pred, target).numpy()
    outer = high[:, 2:] - low[:, :2]
    side_overlap = ((low[:, 2:] - high[:, :2]) / outer).sum(axis=1)
    corners = np.hypot(*(pred - target).numpy().reshape(-1, 2, 2).transpose(2, 0, 1))
    diagonal = np.hypot(*outer.T)
    distance = corners.sum(1) / diagonal if corner == "euclidean" else (corners**2).sum(1) / diagonal**2
    expected = torch.from_numpy(side_overlap - alpha * distance - 1)
    torch.testing.assert_close(sca(pred, target, alpha=alpha, corner=corner), expected, atol=1e-6, rtol=0)
    expected = BOX_SIMILARITIES["iou"](pred, target) - alpha * torch.from_numpy(distance)
    value = iou_cd(pred, target, alpha=alpha, corner=corner)
    torch.testing.assert_close(value, expected, atol=1e-6, rtol=0)


def test_sca_defaults_are_the_papers():
    pred, target = pairs(100, seed=9)
    assert torch.equal(sca(pred, target), sca(pred, target, alpha=0.5, corner="euclidean"))
    assert torch.equal(BOX_SIMILARITIES["sca"](pred, target), sca(pred, target))


def test_the_parts_add_up():
    pred, target = pairs(1000, seed=11)
    parts = {name: function(pred, target) for name, function in BOX_SIMILARITIES.items()}
    torch.testing.assert_close(parts["sca"], parts["so"] - 0.5 * (1 - parts["cd"]), atol=1e-9, rtol=0)
    torch.testing.assert_close(parts["iou_cd"], parts["iou"] - 0.5 * (1 - parts["cd"]), atol=1e-9, rtol=0)
    torch.testing.assert_close(parts["diou"], parts["iou"] - (1 - parts["center"]), atol=1e-9, rtol=0)


def test_side_overlap_bounds_giou_and_giou_bounds_iou():
    pred, target = pairs(100_000, seed=13)
    so, giou, iou = (BOX_SIMILARITIES[name](pred, target) for name in ("so", "giou", "iou"))
    assert (so <= giou + 1e-8).all()
    assert (giou <= iou + 1e-8).all()


def test_sca_loss_lies_in_0_to_5():
    pred, target = pairs(100_000, seed=15)
    far = target + torch.tensor([1e5, 1e5, 1e5, 1e5])
    for dtype in (torch.float32, torch.float64):
        for other in (pred, far):
            loss = 1 - sca(other.to(dtype), target.to(dtype))
            assert loss.min() >= -1e-6
            assert loss.max() < 5
    assert (1 - sca(far, target)).max() > 4.9


@every_similarity
@pytest.mark.parametrize("case", sorted(DEGENERATE | EXTREME))
def test_degenerate_boxes_give_finite_values_and_gradients(name, case):
    pred, target = (torch.tensor(box, dtype=torch.float32) for box in (DEGENERATE | EXTREME)[case])
    leaf, truth = pred.requires_grad_(), target.requires_grad_()
    value = BOX_SIMILARITIES[name](leaf, truth)
    value.backward()
    assert value.isfinite()
    assert value <= (MOST if BASES[name] != name else 1 + 1e-5)
    assert value >= -5 or name in IN_PIXELS
    assert leaf.grad.isfinite().all()
    assert truth.grad.isfinite().all()


CROSSED = {
    "both boxes far": ((50, 20, 40, 90), (210, 20, 250, 90)),
    "width": ((50, 20, 40, 90), (10, 20, 50, 90)),
    "height": ((10, 90, 50, 20), (10, 20, 50, 90)),
    "both sides": ((50, 90, 40, 20), (10, 20, 50, 90)),
    "a little": ((30, 20, 29.5, 90), (10, 20, 50, 90)),
}


@every_similarity
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("case", sorted(CROSSED))
def test_predicted_boxes_with_crossed_corners_give_finite_values_and_gradients(name, dtype, case):
    """A head without bounds can predict a right edge that lies left of the left one."""
    pred, target = (torch.tensor(box, dtype=dtype) for box in CROSSED[case])
    leaf = pred.requires_grad_()
    value = BOX_SIMILARITIES[name](leaf, target)
    value.backward()
    assert value.isfinite()
    assert leaf.grad.isfinite().all()


@every_similarity
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_boxes_of_nearly_no_size_give_finite_gradients(name, dtype):
    """Some are above what float16 holds, of which nothing is promised."""
    leaf, truth = (torch.tensor([0, 0, side, side], dtype=dtype).requires_grad_() for side in (1e-6, 2e-6))
    BOX_SIMILARITIES[name](leaf, truth).backward()
    assert leaf.grad.isfinite().all() and truth.grad.isfinite().all()


@every_similarity
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("case", sorted(DEGENERATE))
def test_degenerate_boxes_under_autocast(name, half, case):
    pred, target = (torch.tensor(box, dtype=half) for box in DEGENERATE[case])
    leaf = pred.requires_grad_()
    with torch.autocast("cpu", dtype=half):
        value = BOX_SIMILARITIES[name](leaf, target)
    value.backward()
    assert value.dtype == torch.float32
    assert value.isfinite()
    assert leaf.grad.isfinite().all()
    assert value.item() == pytest.approx(float(BOX_SIMILARITIES[name](pred.detach().float(), target.float())), abs=1e-6)


@every_similarity
def test_extreme_boxes_under_autocast(name):
    for pred, target in EXTREME.values():
        leaf, truth = (
            torch.tensor(pred, dtype=torch.bfloat16).requires_grad_(),
            torch.tensor(target, dtype=torch.bfloat16),
        )
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = BOX_SIMILARITIES[name](leaf, truth)
        value.backward()
        assert value.isfinite()
        assert leaf.grad.isfinite().all()


@every_similarity
def test_precision_follows_the_wider_input(name):
    pred, target = (boxes[:4] for boxes in pairs(8, seed=17))
    assert BOX_SIMILARITIES[name](pred, target).dtype == torch.float64
    assert BOX_SIMILARITIES[name](pred.half(), target.half()).dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert BOX_SIMILARITIES[name](pred.float(), target.float()).dtype == torch.float32


@every_similarity
def test_identical_boxes_have_similarity_1(name):
    boxes = random_boxes(1000, seed=19, dtype=torch.float32)
    rounding = 1e-5 if BASES[name] == "bounded_iou" else 1e-6  # mmdetection's epsilon is a thousandth of a pixel.
    torch.testing.assert_close(BOX_SIMILARITIES[name](boxes, boxes), torch.ones(1000), atol=rounding, rtol=0)


@pytest.mark.parametrize("name", ["sca", "so", "cd", "center"])
def test_identical_boxes_without_area_have_similarity_1(name):
    boxes = torch.tensor([[30.0, 20, 30, 90], [30, 40, 30, 40], [0, 0, 0, 0]])
    torch.testing.assert_close(BOX_SIMILARITIES[name](boxes, boxes), torch.ones(3), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("name", "rounding"), [("sca", 0), ("so", 0), ("cd", 0), ("center", 1e-5), ("iou_cd", 1e-5)])
def test_identical_boxes_have_zero_gradient(name, rounding):
    boxes = random_boxes(1000, seed=21, dtype=torch.float32)
    assert gradient(BOX_SIMILARITIES[name], boxes, boxes).abs().max() <= rounding


@pytest.mark.parametrize("name", ["sca", "so", "cd", "center"])
def test_identical_boxes_without_area_have_zero_gradient(name):
    boxes = torch.tensor([[30.0, 20, 30, 90], [30, 40, 30, 40], [0, 0, 0, 0]])
    assert gradient(BOX_SIMILARITIES[name], boxes, boxes).abs().max() < 1e-8


@every_similarity
def test_gradients_equal_finite_differences(name):
    pred, target = (boxes[::50] for boxes in pairs(1000, seed=23))
    if BASES[name] in DETACHED:  # The gradient is not that of the value, unless the detached part does not change.
        if "ciou" not in name:
            pytest.skip("its weight is detached; its gradient is held by the reference numbers")
        pred = target + torch.tensor([3.0, 4.0, 3.0, 4.0])
    leaf = pred.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda boxes: BOX_SIMILARITIES[name](boxes, target), leaf, eps=1e-5, atol=1e-5)


@every_similarity
def test_second_derivatives_are_right_or_refused(name):
    """Also of losses that are linear in IoU, whose written-out gradient autograd takes for a constant."""
    target = random_boxes(6, seed=33)
    # Of the truths' shape: CIoU's detached weight does not change there.
    pred = target + torch.tensor([3.0, 4.0, 3.0, 4.0])

    def value(boxes):
        return BOX_SIMILARITIES[name](boxes, target).sum()

    try:
        found = torch.autograd.functional.hessian(value, pred).view(24, 24)
    except NotImplementedError as error:
        assert "second derivatives" in str(error)
        return
    step = 1e-4
    moves = step * torch.eye(24, dtype=torch.float64).view(24, 6, 4)
    slopes = [gradient(BOX_SIMILARITIES[name], pred + sign * move, target) for move in moves for sign in (-1, 1)]
    expected = (torch.stack(slopes[::2]) - torch.stack(slopes[1::2])).view(24, 24) / (2 * step)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)


def test_the_papers_losses_have_second_derivatives():
    pred, target = (boxes[:2] for boxes in pairs(4, seed=35))
    for name in ("iou", "giou", "diou", "ciou", "sca"):
        torch.autograd.functional.hessian(lambda boxes, f=BOX_SIMILARITIES[name]: f(boxes, target).sum(), pred)


@every_similarity
def test_the_layout_in_memory_changes_no_bit(name):
    """Boxes row by row or column by column: value, and the gradients of both boxes."""
    found = []
    for layout in (lambda boxes: boxes.clone(), lambda boxes: boxes.T.contiguous().T):
        pred, target = (layout(boxes.float()).requires_grad_() for boxes in pairs(300, seed=29))
        value = BOX_SIMILARITIES[name](pred, target)
        value.sum().backward()
        found.append((value, pred.grad, target.grad))
    assert all(torch.equal(*parts) for parts in zip(*found, strict=True))


@every_similarity
def test_broadcasting_equals_a_loop(name):
    truths, boxes = (random_boxes(*each).requires_grad_() for each in ((7, 25), (9, 26)))
    matrix = BOX_SIMILARITIES[name](truths[:, None], boxes)
    slopes = torch.autograd.grad(matrix.sum(), (truths, boxes))
    many = BOX_SIMILARITIES[name](truths[:, None].expand(7, 9, 4), boxes.expand(7, 9, 4)).sum()
    for slope, expected in zip(slopes, torch.autograd.grad(many, (truths, boxes)), strict=True):
        torch.testing.assert_close(slope, expected, atol=1e-9, rtol=0)
    loop = torch.tensor(
        [[float(BOX_SIMILARITIES[name](truth, box)) for box in boxes.detach()] for truth in truths.detach()]
    )
    assert matrix.shape == (7, 9)
    torch.testing.assert_close(matrix.detach(), loop.double(), atol=1e-6, rtol=0)


@every_similarity
def test_empty_input_gives_empty_output(name):
    boxes = torch.zeros(0, 4, requires_grad=True)
    value = BOX_SIMILARITIES[name](boxes, torch.zeros(0, 4))
    assert value.shape == (0,)
    value.sum().backward()


@every_similarity
def test_translation_scale_and_symmetry(name):
    """But for what is measured in pixels, or against the truth alone."""
    similarity = BOX_SIMILARITIES[name]
    pred, target = pairs(2000, seed=27)
    value = similarity(pred, target)
    shift = torch.tensor([37.0, -12.0, 37.0, -12.0], dtype=torch.float64)
    torch.testing.assert_close(similarity(pred + shift, target + shift), value, atol=1e-7, rtol=0)
    for scale in () if name in IN_PIXELS else (0.5, 40.0):
        rounding = 2e-3 if BASES[name] == "bounded_iou" else 1e-6
        torch.testing.assert_close(similarity(pred * scale, target * scale), value, atol=rounding, rtol=0)
    if BASES[name] not in ONE_SIDED:
        torch.testing.assert_close(similarity(target, pred), value, atol=1e-9, rtol=0)
    swapped = [1, 0, 3, 2]
    torch.testing.assert_close(similarity(pred[:, swapped], target[:, swapped]), value, atol=1e-9, rtol=0)


@every_similarity
def test_gradient_descent_reaches_a_near_target(name):
    """From an overlapping start every similarity must rise; `cd` and `so` keep their slope, hence the falling rate."""
    target, pred = torch.tensor([[20.0, 30.0, 60.0, 90.0]]), torch.tensor([[28.0, 36.0, 62.0, 86.0]])
    first = float(BOX_SIMILARITIES[name](pred, target))
    for step in range(200):
        slope = gradient(BOX_SIMILARITIES[name], pred, target)
        pred = pred - slope * 40 * (1 - step / 200)
    assert float(BOX_SIMILARITIES[name](pred, target)) > 1 - 0.5 * (1 - first)


@pytest.fixture(scope="module")
def many() -> tuple[torch.Tensor, torch.Tensor]:
    """A hundred thousand pairs."""
    return pairs(100_000, seed=31)


@every_similarity
def test_a_small_step_against_the_gradient_does_not_raise_the_loss(name, many):
    """On all pairs but the few at a kink; Focal-EIoU's weight, which no gradient sees, raises it on 3 %."""
    pred, target = many
    slope = gradient(BOX_SIMILARITIES[name], pred, target)
    step = 1e-4 * slope / slope.norm(dim=1, keepdim=True).clamp(min=1e-30)
    rises = BOX_SIMILARITIES[name](pred - step, target) < BOX_SIMILARITIES[name](pred, target) - 1e-12
    allowed = 0.03 if BASES[name] == "focal_eiou" else 5e-4
    assert rises.double().mean() < allowed


@pytest.mark.parametrize("name", sorted(set(BASES.values()) - {"piou_v2", "focal_eiou"}))
def test_a_small_step_towards_the_truth_does_not_raise_the_loss(name, many):
    """What both authors' own weights break, theirs alone: see their docstrings for how often."""
    pred, target = many
    step = 1e-4 * (target - pred) / (target - pred).norm(dim=1, keepdim=True)
    rises = BOX_SIMILARITIES[name](pred + step, target) < BOX_SIMILARITIES[name](pred, target) - 1e-12
    assert rises.double().mean() < 1e-4
