"""GGIoU against its vectors, and every assigner against its slow twin on random scenes and on real labels."""

import math
from dataclasses import fields

import cv2
import numpy as np
import pytest
import torch

from alignyolo import registry
from alignyolo.anchors import Anchors, build_anchors
from alignyolo.assign.assignment import Assignment
from alignyolo.assign.dense import match_boxes
from alignyolo.assign.forcing import Candidates, preferred
from alignyolo.gaussian_iou import ggiou, log_ggiou
from alignyolo.registry import ASSIGNERS
from alignyolo.targets import Targets
from tests.alignyolo.oracles import (
    Answer,
    anchor_ratio_oracle,
    best_anchor_oracle,
    dense_pairs,
    largest_matching,
    preferences,
    reachable,
    scalar_ggiou,
    threshold_oracle,
)
from tests.alignyolo.registered import BOX_SIMILARITIES, assign
from tests.alignyolo.scenes import FAMILIES, Scene, random_boxes, random_scene
from tests.paths import SHARED_DATA, needs_shared_data

UNIT = torch.tensor([0.0, 0.0, 1.0, 1.0])
SETTINGS = {
    "paper": {},
    "yolo": {"positive": 0.4, "negative": 0.3, "min_positives": 6},
    "sigma truth": {"sigma": "truth", "beta": 1 / 5},
    "alpha .5": {"alpha": 0.5, "min_positives": 2},
    "own cell": {"reach": 0.0},
}


def square(center_x: float, center_y: float, side: float) -> torch.Tensor:
    """An xyxy square."""
    return torch.tensor([center_x - side / 2, center_y - side / 2, center_x + side / 2, center_y + side / 2])


def answer_of(assignment: Assignment) -> Answer:
    """An assignment as sets, whatever its order; a positive pair must appear once."""
    triples = list(zip(*(part.tolist() for part in assignment[:3]), strict=True))
    positives = {(image, anchor, target) for anchor, image, target in triples}
    assert len(positives) == len(triples), "a pair appears twice"
    ignored = {(image, anchor) for image, anchor in torch.nonzero(assignment.ignored).tolist()}
    return Answer(positives, ignored, set(torch.nonzero(assignment.unmatched).flatten().tolist()))


def assert_same(found: Answer, expected: Answer) -> None:
    """Names the differences instead of printing thousands of pairs."""
    for name in Answer._fields:
        missing, extra = getattr(expected, name) - getattr(found, name), getattr(found, name) - getattr(expected, name)
        assert not missing and not extra, f"{name}: missing {sorted(missing)[:5]}, too many {sorted(extra)[:5]}"


def scenes(count: int, seed: int, families: tuple[str, ...] = ("yolov3", "yolov3-tiny"), **options):
    """`count` random batches, the families in turn."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        yield random_scene(rng, families[number % len(families)], **options)


@pytest.mark.parametrize(
    ("anchor", "expected"),
    [
        (square(0.5 + 0.05470, 0.5, math.sqrt(0.5)), 0.596),
        (square(0.5 + 0.13876, 0.5, math.sqrt(0.5)), 0.500),
        (square(0.5 + 0.316358, 0.5 + 0.024831, 1.0), 0.193),
        (square(0.5, 0.5, math.sqrt(0.5)), 0.5**0.7),
        (square(0.5 + 1 / 3, 0.5, 1.0), 0.1596),
        (UNIT, 1.0),
    ],
)
def test_ggiou_vectors(anchor, expected):
    for scale in (1.0, 100.0):
        assert ggiou(anchor * scale, UNIT * scale).item() == pytest.approx(expected, abs=2e-4)
        assert log_ggiou(anchor * scale, UNIT * scale).item() == pytest.approx(math.log(expected), abs=1e-3)


@pytest.mark.parametrize(("threshold", "axis", "diagonal"), [(0.5, 0.2122, 0.1445), (0.4, 0.2447, 0.1714)])
def test_equal_boxes_fall_below_the_thresholds_where_the_paper_says(threshold, axis, diagonal):
    for shift, direction in ((axis, (1, 0)), (axis, (0, 1)), (diagonal, (1, 1))):
        near, far = (square(0.5 + d * direction[0], 0.5 + d * direction[1], 1) for d in (shift - 1e-4, shift + 1e-4))
        assert ggiou(near, UNIT).item() > threshold > ggiou(far, UNIT).item()


def metric_pairs(count: int = 3000) -> tuple[torch.Tensor, torch.Tensor]:
    """Pairs of which most overlap, in pixels."""
    rng = np.random.default_rng(1)
    centers, sizes = rng.uniform(0, 60, (2, count, 2)), np.exp(rng.uniform(1, 5, (2, count, 2)))
    return tuple(torch.from_numpy(np.concatenate([centers - sizes / 2, centers + sizes / 2], -1)).float())


@pytest.mark.parametrize("sigma", ["overlap", "truth"])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5])
@pytest.mark.parametrize("beta", [1 / 6, 1 / 5])
def test_ggiou_equals_the_scalar_formula(sigma, alpha, beta):
    anchors, truths = metric_pairs()
    expected = [scalar_ggiou(a, t, alpha, beta, sigma) for a, t in zip(anchors.tolist(), truths.tolist(), strict=True)]
    value = ggiou(anchors, truths, alpha=alpha, beta=beta, sigma=sigma)
    torch.testing.assert_close(value, torch.tensor(expected), atol=1e-6, rtol=1e-4)
    assert (value > 0.01).float().mean() > 0.05
    logs = log_ggiou(anchors, truths, alpha=alpha, beta=beta, sigma=sigma)
    torch.testing.assert_close(logs.exp(), value, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("wrong", ["truht", "Truth", ""])
def test_an_unknown_sigma_is_refused_wherever_it_is_given(wrong):
    targets = Targets(torch.tensor([[50.0, 18.0, 110.0, 78.0]]), torch.zeros(1).long(), torch.zeros(1).long())
    anchors = build_anchors((96, 128), [32], [[(60, 60)]])
    calls = [
        lambda: ggiou(UNIT, UNIT, sigma=wrong),
        lambda: ggiou(UNIT, UNIT, alpha=0, sigma=wrong),
        lambda: log_ggiou(UNIT, UNIT, sigma=wrong),
        lambda: match_boxes(UNIT[None], UNIT[:0].view(0, 4), sigma=wrong),
        lambda: assign("ggiou", anchors, targets, 1, sigma=wrong),
        lambda: assign("atss_ggiou", anchors, targets, 1, sigma=wrong),
        lambda: assign("tal_ggiou", anchors, targets, 1, gaussian_sigma=wrong),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=f"sigma must be 'overlap' or 'truth', not '{wrong}'"):
            call()


@pytest.mark.parametrize(
    ("table", "name"),
    [
        (table, name)
        for table in ("ASSIGNERS", "PROPOSAL_ASSIGNERS", "DENSE_ASSIGNERS")
        for name in getattr(registry, table)
    ],
)
def test_an_assigner_refuses_a_misspelt_word_when_it_is_made(table, name):
    entry = getattr(registry, table)[name]
    words = [field.name for field in fields(entry.load()) if field.type in ("str", str)]
    assert words or not {"serve", "enlarge", "sigma"} & entry.keys.keys()
    for setting in words:
        for wrong in ("onn", True):  # True is what `on` is without quotes in YAML
            with pytest.raises(ValueError, match=f"^{setting} must be '.*' or '.*', not {wrong!r}$"):
                entry.load()(**{setting: wrong})


def test_ggiou_is_at_most_iou_to_the_power_of_1_minus_alpha():
    anchors, truths = metric_pairs()
    iou = BOX_SIMILARITIES["iou"](anchors, truths)
    for alpha in (0.0, 0.3, 0.5, 0.9):
        for sigma in ("overlap", "truth"):
            assert (ggiou(anchors, truths, alpha=alpha, sigma=sigma) <= iou ** (1 - alpha) + 1e-6).all()


def test_alpha_0_is_iou():
    anchors, truths = metric_pairs()
    torch.testing.assert_close(
        ggiou(anchors, truths, alpha=0.0), BOX_SIMILARITIES["iou"](anchors, truths), atol=2e-7, rtol=1e-6
    )


def test_ggiou_is_symmetric_in_swapping_and_mirroring():
    anchors, truths = metric_pairs()
    value = ggiou(anchors, truths)
    torch.testing.assert_close(ggiou(truths, anchors), value, atol=1e-6, rtol=1e-5)
    mirror = [2, 1, 0, 3]
    sign = torch.tensor([-1.0, 1.0, -1.0, 1.0])
    mirrored = ggiou(anchors[:, mirror] * sign, truths[:, mirror] * sign)
    torch.testing.assert_close(mirrored, value, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("alpha", [0.0, 0.3])
@pytest.mark.parametrize("sigma", ["overlap", "truth"])
@pytest.mark.parametrize(
    "truth", [(10, 0, 20, 10), (10, 10, 20, 20), (500, 0, 510, 10), (5, 0, 5, 10), (5, 5, 5, 5), (0, 20, 10, 20)]
)
def test_no_overlap_gives_0_and_minus_infinity(alpha, sigma, truth):
    anchor, truth = torch.tensor([0.0, 0.0, 10.0, 10.0]), torch.tensor(truth, dtype=torch.float32)
    assert ggiou(anchor, truth, alpha=alpha, sigma=sigma).item() == 0
    assert log_ggiou(anchor, truth, alpha=alpha, sigma=sigma).item() == -math.inf


def test_log_ggiou_orders_pairs_whose_ggiou_underflows():
    truth = torch.tensor([0.0, 0.0, 10.0, 10.0])
    anchors = torch.stack([truth + torch.tensor([shift, 0, shift, 0]) for shift in (9.5, 9.7, 9.9)])
    assert (ggiou(anchors, truth) == 0).all()
    logs = log_ggiou(anchors, truth)
    assert logs.isfinite().all()
    assert logs[0] > logs[1] > logs[2]


@pytest.mark.parametrize(("alpha", "expected"), [(0.0, -math.inf), (0.3, -math.inf), (1.0, 0.0)])
def test_log_ggiou_of_boxes_whose_area_is_rounded_to_0(alpha, expected):
    """With alpha 1 their IoU, of 0, has no weight at all."""
    boxes = torch.tensor([0.0, 0.0, 1e-25, 1e-25])
    assert log_ggiou(boxes, boxes, alpha=alpha).item() == expected


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_ggiou_is_float32_without_gradient(half):
    anchors, truths = (boxes.to(half).requires_grad_() for boxes in metric_pairs(200))
    with torch.autocast("cpu", dtype=half):
        value = ggiou(anchors, truths)
    assert value.dtype == torch.float32
    assert not value.requires_grad
    torch.testing.assert_close(value, ggiou(anchors.float(), truths.float()), atol=0, rtol=0)


def test_ggiou_broadcasts():
    anchors, truths = (boxes[:6] for boxes in metric_pairs())
    matrix = ggiou(anchors, truths[:4, None])
    assert matrix.shape == (4, 6)
    loop = torch.tensor([[ggiou(anchor, truth).item() for anchor in anchors] for truth in truths[:4]])
    torch.testing.assert_close(matrix, loop, atol=1e-7, rtol=1e-5)


def compare(scene: Scene, name: str, **settings) -> None:
    """One batch: assigner against oracle, and the metric that it reports against the public function."""
    assignment = assign(name, *scene, **settings)
    oracle_settings = settings | ({"alpha": 0.0} if name == "iou" else {})
    assert_same(answer_of(assignment), threshold_oracle(*scene, **oracle_settings))
    metric = {key: oracle_settings[key] for key in ("alpha", "beta", "sigma") if key in oracle_settings}
    expected = ggiou(scene.anchors.boxes[assignment.anchor], scene.targets.boxes[assignment.target], **metric)
    torch.testing.assert_close(assignment.metric, expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", ["iou", "ggiou"])
def test_threshold_assigners_equal_the_oracle_on_1000_scenes(name):
    for scene in scenes(250, seed=100):
        compare(scene, name)


@pytest.mark.parametrize("settings", [key for key in SETTINGS if key != "paper"])
def test_threshold_assigner_settings_equal_the_oracle(settings):
    for scene in scenes(40, seed=200):
        compare(scene, "ggiou", **SETTINGS[settings])
        if not {"alpha", "sigma"} & SETTINGS[settings].keys():
            compare(scene, "iou", **SETTINGS[settings])


@pytest.mark.parametrize(
    "settings",
    [{"alpha": 1.0}, {"alpha": 1.0, "beta": 2.0, "negative": 0.01}, {"negative": 0.0}, {"alpha": 0.0}],
    ids=str,
)
def test_the_ends_of_the_settings_equal_the_oracle(settings):
    """The Gaussian alone, and a threshold below which nothing is, not even a pair without overlap."""
    for scene in scenes(20, seed=250):
        compare(scene, "ggiou", **settings)
        if "alpha" not in settings:
            compare(scene, "iou", **settings)


@pytest.mark.slow
@pytest.mark.parametrize("settings", SETTINGS)
def test_every_setting_equals_the_oracle_on_1000_scenes(settings):
    for scene in scenes(250, seed=300):
        compare(scene, "ggiou", **SETTINGS[settings])


@pytest.mark.parametrize("settings", SETTINGS)
def test_threshold_assigners_equal_the_oracle_where_anchors_are_scarce(settings):
    for scene in scenes(60, seed=400, families=("scarce",)):
        compare(scene, "ggiou", **SETTINGS[settings])


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("truths", [1, 9, 70_000])
def test_the_order_of_preference_is_lexsorts_by_five_keys(truths, kind):
    """Also where many are equal, zeros of both signs among them, and with more truths than two bytes count."""
    rng = np.random.default_rng(truths)
    for count in (0, 1, 2, 50, 400):
        few = {"log_metric": [-np.inf, -1, -0.5, -0.0, 0.0, 0.25], "shape_iou": [0.1, 0.5], "distance": [1, 2]}
        drawn = {name: rng.choice(values, count).astype(kind) for name, values in few.items()}
        drawn |= {"truth": rng.integers(0, truths, count), "anchor": rng.permutation(count)}
        drawn |= {"metric": rng.random(count), "area": rng.random(count)}
        one = Candidates(**{name: torch.from_numpy(values) for name, values in drawn.items()})
        keys = (drawn["anchor"], drawn["distance"], -drawn["shape_iou"], -drawn["log_metric"], drawn["truth"])
        np.testing.assert_array_equal(preferred(one).numpy(), np.lexsort(keys))


@pytest.mark.parametrize("min_positives", [1, 6])
def test_an_augmenting_path_gives_every_truth_an_anchor(min_positives):
    """Truths in a row of cells, each with a choice of few anchors: greedy forcing leaves some without."""
    rng = np.random.default_rng(5)
    moved = 0
    for _ in range(200):
        anchors = build_anchors((96, 128), [32], [[(20, 24)]])
        centers = rng.uniform([0, 0], [128, 96], (int(rng.integers(4, 13)), 2))
        boxes = torch.from_numpy(np.concatenate([centers - 8, centers + 8], 1)).float()
        targets = Targets.stack([boxes], [torch.zeros(len(boxes))])
        scene = Scene(anchors, targets, 1)
        compare(scene, "ggiou", min_positives=min_positives)
        moved += matched_by_greed_alone(scene) < largest_matching(wanted_anchors(scene, 0))
    assert moved > 20, "these scenes must need augmenting paths"


def test_a_long_augmenting_path_needs_no_deep_recursion():
    """1,300 truths in a row, each holding its own cell, and one more in the first cell: all must move by one."""
    count = 1300
    left = torch.arange(count) * 8.0 + 3  # Centres 1 px left of the next cell: own cell and next one are reachable.
    boxes = torch.stack([left, torch.zeros(count), left + 8, torch.full((count,), 8.0)], dim=1)
    boxes = torch.cat([boxes, boxes[:1]])
    targets = Targets(boxes, torch.zeros(count + 1).long(), torch.zeros(count + 1).long())
    assignment = assign("ggiou", build_anchors((8, 8 * (count + 1)), [8], [[(8, 8)]]), targets, 1)
    assert sorted(assignment.anchor.tolist()) == list(range(count + 1))
    assert not assignment.unmatched.any()


def wanted_anchors(scene: Scene, image: int, reach: float = 0.5) -> list[list[int]]:
    """The reachable anchors of each truth of one image."""
    boxes = scene.targets.boxes[scene.targets.image == image]
    return [np.flatnonzero(row).tolist() for row in reachable(scene.anchors, boxes.numpy(), reach)]


def matched_by_greed_alone(scene: Scene) -> int:
    """How many truths get an anchor when each takes its best free one, in order."""
    taken: set[int] = set()
    matched = 0
    for order in preferences(dense_pairs(scene.anchors, scene.targets.boxes, 0.5)):
        free = next((anchor for anchor in order if anchor not in taken), None)
        if free is not None:
            taken.add(free)
            matched += 1
    return matched


@pytest.mark.parametrize("name", ["iou", "ggiou"])
@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("settings", [{}, {"positive": 0.4, "negative": 0.3, "min_positives": 6}, {"reach": 0.0}])
def test_threshold_assigner_properties(name, family, settings):
    """No anchor has two truths, none is out of reach, and truths go without only when anchors run out."""
    reach = settings.get("reach", 0.5)
    for scene in scenes(25, seed=500, families=(family,)):
        assignment = assign(name, *scene, **settings)
        answer = answer_of(assignment)
        claimed = [(image, anchor) for image, anchor, _ in answer.positives]
        assert len(claimed) == len(set(claimed))
        assert not set(claimed) & answer.ignored
        assert assignment.ignored.shape == (scene.batch_size, len(scene.anchors.centers))
        assert assignment.unmatched.shape == (len(scene.targets.image),)
        can = reachable(scene.anchors, scene.targets.boxes.numpy(), reach)
        assert all(can[target, anchor] for _, anchor, target in answer.positives)
        assert all(scene.targets.image[target] == image for image, _, target in answer.positives)
        with_anchor = {target for *_, target in answer.positives}
        assert answer.unmatched == set(range(len(can))) - with_anchor
        for image in range(scene.batch_size):
            rows = set(torch.nonzero(scene.targets.image == image).flatten().tolist())
            assert len(rows & with_anchor) == largest_matching(wanted_anchors(scene, image, reach))


def test_scenes_hold_what_they_promise():
    """The random scenes include empty images, crowds, ties, borders, and truths that must go without an anchor."""
    seen = dict.fromkeys(
        ["empty", "crowd", "coincident", "unmatched", "reachable unmatched", "border", "flat", "deficient"], 0
    )
    for scene in scenes(100, seed=100, families=("yolov3", "yolov3-tiny", "scarce")):
        boxes, image = scene.targets.boxes, scene.targets.image
        counts = torch.bincount(image, minlength=scene.batch_size)
        sides = boxes[:, 2:] - boxes[:, :2]
        answer = threshold_oracle(*scene)
        can = reachable(scene.anchors, boxes.numpy(), 0.5).any(1)
        natural = ggiou(scene.anchors.boxes, boxes[:, None]).amax(1) if len(boxes) else torch.zeros(0)
        seen["empty"] += int((counts == 0).any())
        seen["crowd"] += int((counts > 40).any())
        seen["coincident"] += len(torch.unique(torch.cat([boxes, image[:, None]], 1), dim=0)) < len(boxes)
        seen["unmatched"] += bool(answer.unmatched)
        seen["reachable unmatched"] += any(can[target] for target in answer.unmatched)
        seen["border"] += int(((boxes[:, :2] + boxes[:, 2:]) == 0).any())
        seen["flat"] += int((sides.prod(1) == 0).any())
        seen["deficient"] += int((natural < 0.5).any())
    assert min(seen.values()) >= 5, seen


@pytest.mark.parametrize("name", sorted(ASSIGNERS))
def test_permuting_the_truths_changes_nothing_but_ties(name):
    rng = np.random.default_rng(7)
    for _ in range(15):
        scene = random_scene(rng, "yolov3")
        count = len(scene.targets.image)
        boxes = scene.targets.boxes + torch.from_numpy(rng.uniform(0.01, 0.3, (count, 4))).float()  # No ties.
        targets = scene.targets._replace(boxes=boxes)
        order = torch.from_numpy(rng.permutation(count))
        shuffled = Targets(*(part[order] for part in targets))
        found = answer_of(assign(name, scene.anchors, targets, scene.batch_size))
        other = answer_of(assign(name, scene.anchors, shuffled, scene.batch_size))
        back = order.tolist()
        positives = {(image, anchor, back[target]) for image, anchor, target in other.positives}
        assert_same(Answer(positives, other.ignored, {back[target] for target in other.unmatched}), found)


@pytest.mark.parametrize("name", sorted(ASSIGNERS))
def test_images_of_a_batch_are_assigned_alone(name):
    for scene in scenes(10, seed=600):
        whole = answer_of(assign(name, *scene))
        for image in range(scene.batch_size):
            rows = torch.nonzero(scene.targets.image == image).flatten().tolist()
            part = Targets(scene.targets.boxes[rows], scene.targets.labels[rows], torch.zeros(len(rows)).long())
            alone = answer_of(assign(name, scene.anchors, part, 1))
            assert {(a, rows[t]) for _, a, t in alone.positives} == {
                (a, t) for i, a, t in whole.positives if i == image
            }
            assert {a for _, a in alone.ignored} == {a for i, a in whole.ignored if i == image}


def test_alpha_0_ggiou_assigner_equals_the_iou_assigner():
    for scene in scenes(40, seed=700):
        for settings in ({}, {"positive": 0.4, "negative": 0.3, "min_positives": 6}):
            ggiou_answer = answer_of(assign("ggiou", *scene, alpha=0.0, **settings))
            assert_same(ggiou_answer, answer_of(assign("iou", *scene, **settings)))


@pytest.mark.parametrize("name", sorted(ASSIGNERS))
@pytest.mark.parametrize("batch_size", [0, 1, 3])
def test_no_truths_give_an_empty_assignment(name, batch_size):
    anchors = build_anchors((96, 160), *FAMILIES["yolov3"])
    targets = Targets(torch.zeros(0, 4), torch.zeros(0).long(), torch.zeros(0).long())
    assignment = assign(name, anchors, targets, batch_size)
    assert [len(part) for part in assignment[:4]] == [0, 0, 0, 0]
    assert assignment.ignored.shape == (batch_size, len(anchors.centers))
    assert assignment.ignored.dtype == torch.bool
    assert not assignment.ignored.any()
    assert assignment.unmatched.shape == (0,)


@pytest.mark.parametrize("name", ["iou", "ggiou"])
def test_an_anchor_sized_truth_on_an_anchor(name):
    """By hand: a truth that is an anchor gets that anchor with metric 1; the next cells lie in IoU's band only."""
    anchors = build_anchors((96, 128), [32], [[(60, 60)]])
    index = 1 * 4 + 2  # Row 1, column 2: centre (80, 48).
    targets = Targets(torch.tensor([[50.0, 18.0, 110.0, 78.0]]), torch.zeros(1).long(), torch.zeros(1).long())
    assignment = assign(name, anchors, targets, 1, positive=0.9, negative=0.3)
    assert assignment.anchor.tolist() == [index]
    assert assignment.metric.tolist() == pytest.approx([1.0])
    # Shifted by 32 of 60 px: IoU 28/92 = .304; GGIoU far below.
    expected = {(0, index - 1), (0, index + 1), (0, index - 4), (0, index + 4)} if name == "iou" else set()
    assert answer_of(assignment).ignored == expected


@pytest.fixture(scope="module")
def coco128() -> list[torch.Tensor]:
    """The labels of every photo of coco128, in pixels of the network input, letterboxed to 640 x 640."""
    parts, side = [], 640
    for path in sorted((SHARED_DATA / "coco128" / "images").rglob("*.jpg")):
        label = SHARED_DATA / "coco128" / "labels" / path.parent.name / f"{path.stem}.txt"
        if not label.is_file():
            continue
        rows = np.loadtxt(label, ndmin=2, dtype=np.float64)
        height, width = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE).shape
        scale = min(side / height, side / width)
        centers, sizes = rows[:, 1:3] * [width, height] * scale, rows[:, 3:5] * [width, height] * scale
        centers += [(side - round(width * scale)) // 2, (side - round(height * scale)) // 2]
        parts.append(torch.from_numpy(np.concatenate([centers - sizes / 2, centers + sizes / 2], 1)).float())
    assert len(parts) > 250
    assert sum(map(len, parts)) > 1800
    return parts


@needs_shared_data
@pytest.mark.parametrize(
    ("family", "name", "settings"),
    [
        ("yolov3", "ggiou", "paper"),
        ("yolov3", "iou", "paper"),
        ("yolov3-tiny", "ggiou", "paper"),
        ("yolov3-tiny", "ggiou", "yolo"),
        ("yolov3-tiny", "iou", "paper"),
        pytest.param("yolov3", "ggiou", "yolo", marks=pytest.mark.slow),
        pytest.param("yolov3", "ggiou", "sigma truth", marks=pytest.mark.slow),
    ],
)
def test_coco128_equals_the_oracle(coco128, family, name, settings):
    anchors = build_anchors((640, 640), *FAMILIES[family])
    for first in range(0, len(coco128), 16):
        part = coco128[first : first + 16]
        targets = Targets.stack(part, [torch.zeros(len(boxes)) for boxes in part])
        compare(Scene(anchors, targets, len(part)), name, **SETTINGS[settings])


def reference_scene(data) -> tuple[Anchors, Targets]:
    """The anchors and truths of a detection loss reference file, in float64."""
    side = int(data["image_size"])
    rows = torch.from_numpy(data["targets_image_class_cxcywh_normalised"])
    center, size = rows[:, 2:4] * side, rows[:, 4:6] * side
    boxes = torch.cat([center - size / 2, center + size / 2], dim=1)
    strides = [int(stride) for stride in data["strides"]]
    anchors = build_anchors((side, side), strides, data["anchors_pixels"].tolist(), dtype=torch.float64)
    return anchors, Targets(boxes, rows[:, 1].long(), rows[:, 0].long())


@needs_shared_data
@pytest.mark.parametrize("model", ["yolov3", "yolov3-tiny"])
def test_anchor_ratio_equals_ultralytics(model):
    with np.load(SHARED_DATA / "loss" / f"{model}-detection-loss-reference.npz") as data:
        anchors, targets = reference_scene(data)
        expected = set()
        for number, level in enumerate(anchors.levels):
            for image, k, y, x in data[f"positives_level{number}_image_anchor_gridy_gridx"].tolist():
                expected.add((image, level.start + (k * level.rows + y) * level.columns + x))
    assignment = assign("anchor_ratio", anchors, targets, 4)
    found = list(zip(assignment.image.tolist(), assignment.anchor.tolist(), strict=True))
    assert len(found) == len(set(found)) == len(expected)
    assert set(found) == expected


@pytest.mark.parametrize("anchor_t", [4.0, 2.0])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_anchor_ratio_equals_its_twin(family, anchor_t):
    for scene in scenes(30, seed=800, families=(family,)):
        assignment = assign("anchor_ratio", *scene, anchor_t=anchor_t)
        assert_same(answer_of(assignment), anchor_ratio_oracle(scene.anchors, scene.targets, anchor_t))


@pytest.mark.parametrize("ignore_iou", [0.7, 0.4])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_best_anchor_equals_its_twin(family, ignore_iou):
    for scene in scenes(30, seed=900, families=(family,)):
        assignment = assign("best_anchor", *scene, ignore_iou=ignore_iou)
        assert_same(answer_of(assignment), best_anchor_oracle(*scene, ignore_iou=ignore_iou))


def test_random_boxes_keep_their_centres_in_the_image():
    boxes = random_boxes(np.random.default_rng(11), 96, 160, 500)
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    assert (centers >= -1e-3).all()
    assert (centers <= [160.001, 96.001]).all()
