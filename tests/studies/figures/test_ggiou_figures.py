"""GGIoU Figure 1 and the assignment census, against closed forms, a double loop and the research notes."""

from pathlib import Path

import pytest
import torch

from alignyolo.anchors import build_anchors
from alignyolo.gaussian_iou import ggiou
from alignyolo.targets import Targets
from studies.figures import assignment_census, ggiou_plane
from tests.paths import ROOT, SHARED_DATA, needs_shared_data
from utils.config.knobs import StudyConfig

SQUARE = ggiou_plane.SHAPES[0]


@pytest.mark.parametrize(
    ("alpha", "threshold", "direction", "expected"),
    [
        (0.3, 0.5, "x", 0.2122),
        (0.0, 0.5, "x", 1 / 3),
        (0.3, 0.5, "diagonal", 0.1445),
        (0.0, 0.5, "diagonal", 0.1835),
        (0.3, 0.4, "x", 0.2447),
        (0.3, 0.4, "diagonal", 0.1714),
        (0.0, 0.4, "x", 3 / 7),
        (0.0, 0.4, "diagonal", 0.2441),
    ],
)
def test_where_equal_boxes_cross_the_thresholds(alpha, threshold, direction, expected):
    rows = ggiou_plane.crossings(SQUARE)
    row = next(row for row in rows if (row["alpha"], row["threshold"]) == (alpha, threshold))
    assert row[direction] == pytest.approx(expected, abs=1e-4)
    assert row["x"] == pytest.approx(row["y"])


def test_a_square_anchor_never_passes_on_a_slender_truth_by_iou():
    rows = [row for row in ggiou_plane.crossings(ggiou_plane.SHAPES[3]) if row["alpha"] == 0]
    assert [row["x"] for row in rows] == [None, None]


def test_figure_1a_was_drawn_with_alpha_one_half():
    assert ggiou_plane.fitted_exponent() == pytest.approx(0.498, abs=0.001)
    rows = ggiou_plane.figure_1a()
    expected = (0.382, 0.451, 0.475, 0.496, 0.505, 0.496, 0.451, 0.261)
    assert [row["ggiou_at_alpha_.3_with_that_dc"] for row in rows] == pytest.approx(expected, abs=0.0015)
    assert sum(row["ggiou_at_alpha_.3_with_that_dc"] >= 0.5 for row in rows) == 1
    assert sum(row["ggiou_in_the_paper"] > row["ceiling_at_alpha_.3"] for row in rows) == 4


def test_area_above_a_threshold_in_closed_form():
    # Equal unit boxes: IoU >= 1/2 where (1 - |dx|)(1 - |dy|) >= 2/3; the area is 4 (1/3 - 2/3 ln(3/2)).
    expected = 4 * (1 / 3 - 2 / 3 * torch.log(torch.tensor(1.5)).item())
    assert ggiou_plane.area_above(SQUARE, 0.0, 0.5) == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("setting", [each for each in assignment_census.SETTINGS if each.by_threshold][:3])
def test_dense_positives_against_a_double_loop(setting):
    generator = torch.Generator().manual_seed(1)
    center, size = 20 + 88 * torch.rand(12, 2, generator=generator), 6 + 60 * torch.rand(12, 2, generator=generator)
    boxes = torch.cat([center - size / 2, center + size / 2], -1)
    targets = Targets(boxes, torch.zeros(12, dtype=torch.long), torch.tensor([0] * 7 + [1] * 5))
    anchors = build_anchors((128, 128), (16, 32), [[[10, 14], [23, 27], [37, 58]], [[81, 82], [60, 20], [20, 60]]])
    anchor, truth = assignment_census.dense_owners(anchors, targets, 2, setting)
    expected = set()
    for image in range(2):
        mine = (targets.image == image).nonzero().flatten()
        for number, box in enumerate(anchors.boxes):
            values = ggiou(box, boxes[mine], **setting.metric)
            if values.max() >= setting.settings["positive"]:
                expected.add((number, int(mine[values.argmax()])))
    assert set(zip(anchor.tolist(), truth.tolist(), strict=True)) == expected
    assert expected


def documented_census():
    """The numbers of the census table in docs/studies.md."""
    page = (ROOT / "docs" / "studies.md").read_text("utf-8")
    table = page.split("| yolov3 | positives per truth")[1].split("\n\n")[0].splitlines()[2:]
    rows = [[cell.strip(" %") for cell in line.strip("|").split("|")][1:] for line in table]
    return [tuple(f"{float(cell):.1f}" for cell in row) for row in rows]


@needs_shared_data
def test_census_of_coco128_agrees_with_the_research_notes():
    name, indices = assignment_census.open_splits(StudyConfig(data_root=str(SHARED_DATA)))
    assert (name, sum(len(index.labels) for index in indices)) == ("coco128", 1827)
    found = {(row["model"], row["assigner"]): row for row in assignment_census.census(indices)}
    for (model, assigner, what), value in assignment_census.EXPECTED.items():
        assert found[model, assigner][what] == pytest.approx(value, abs=0.02, rel=0.02), (model, assigner, what)
    for row in found.values():
        assert row["without_positive"] <= 0.01
    assert documented_census() == [
        (
            f"{row['positives_per_truth']:.1f}",
            f"{row['positives_ratio_from_4']:.1f}",
            f"{100 * row['unforced_none']:.1f}",
            f"{row['ignored_per_image']:.1f}",
        )
        for row in (found["yolov3", setting.name] for setting in assignment_census.SETTINGS)
    ]
    paper = found["yolov3", "ggiou .5/.4, min 1 (paper)"]
    assert paper["unforced_none"] == pytest.approx(paper["dense_none"], abs=0.02)
    assert paper["forced_per_truth"] == pytest.approx(paper["unforced_none"], abs=0.01)


def test_without_coco128_the_shapes_are_counted(small_shapes):
    name, indices = assignment_census.open_splits(StudyConfig(data=str(small_shapes)))
    rows = assignment_census.census(indices, ("yolov3-tiny",))
    assert Path(name).name == "shapes.yaml"
    assert [row["assigner"] for row in rows] == [each.name for each in assignment_census.SETTINGS]
