"""The arithmetic of the papers' printed tables."""

import pytest

from studies.figures import tables


@pytest.mark.parametrize(
    "row", tables.improvement_rows(), ids=lambda row: f"{row['table'][:15]}-{row['loss']}-{row['column']}"
)
def test_relative_improvements_of_scaloss(row):
    assert row["recomputed"] == pytest.approx(row["printed"], abs=0.011)


def test_figure_3_is_the_mean_difference_of_table_8():
    assert tables.figure_3() == pytest.approx(tables.FIGURE_3, abs=1e-9)


def test_parts_and_alphas_meet_table_3():
    third = next(table for table in tables.SCALOSS if "Table 3" in table.name)
    assert {name: row[0] for name, row in third.values.items() if name in tables.SCALOSS_PARTS} == {
        "iou": tables.SCALOSS_PARTS["iou"],
        "diou": tables.SCALOSS_PARTS["diou"],
        "sca": tables.SCALOSS_PARTS["sca"],
    }
    assert max(tables.SCALOSS_ALPHAS, key=tables.SCALOSS_ALPHAS.get) == 0.5
    assert tables.SCALOSS_ALPHAS[0.5] == tables.SCALOSS_PARTS["sca"]


def gains(pairs, column):
    return [round(tables.differences(pair)[column], 4) for pair in pairs.values()]


def test_what_the_ggiou_paper_says_about_its_tables():
    best_truth = max(row[0] for row in tables.GGIOU_TRUTH.values())
    best_overlap = max(row[0] for row in tables.GGIOU_OVERLAP.values())
    assert (best_truth - 0.308, best_overlap - 0.308) == pytest.approx((0.005, 0.009), abs=1e-9)
    assert gains(tables.GGIOU_UNION, 0) == [0.015, 0.014, 0.015, 0.020]  # "1.4 to 2.0"
    assert min(gains(tables.GGIOU_VOC, 0)) == 1.9
    assert max(gains(tables.GGIOU_VOC, 0)) == 2.0
    assert gains(tables.GGIOU_TEST_DEV, 2) == [2.2, 1.7, 2.1, 1.7, 1.9, 2.1]  # AP75, "1.7 to 2.1", SSD "1.7 to 2.2"
    assert (min(gains(tables.GGIOU_TEST_DEV, 0)), max(gains(tables.GGIOU_TEST_DEV, 0))) == (1.3, 1.5)


def test_where_the_ggiou_paper_contradicts_itself():
    assert gains(tables.GGIOU_UNION, 2)[-1] == 0.039  # AP60 of ResNeXt, where the text says 0.1 to 0.9
    assert [gain < 0 for gain in gains(tables.GGIOU_VOC, 1)] == [True, True, False, True]  # AP50 falls on three of four
    ties = [key for key, row in tables.GGIOU_OVERLAP.items() if row[0] == 0.317]
    assert ties == [("1/6", 0.3), ("1/7", 0.3)]


def test_slender_classes_gain_more_in_figure_2():
    gain = {name: after - before for name, (before, after) in tables.GGIOU_CLASSES.items()}
    slender = ("person", "umbrella", "wine glass")
    assert min(gain[name] for name in slender) > max(value for name, value in gain.items() if name not in slender)
