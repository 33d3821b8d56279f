"""Weights of other classes: rows go by name. The oracle is a loop over anchors, rows and names."""

import pytest
import torch

from models.weights.class_rows import LAYOUTS, by_class_name

NAMES = ("head.convs.0.weight", "a.cls_logits.bias", "classification_head.module_list.1.weight")
NAMES += ("roi_heads.box_predictor.cls_score.weight", "roi_heads.box_predictor.bbox_pred.bias")
CASES = {
    "another order": (["cat", "dog", "cow"], ["cow", "cat", "dog"]),
    "one more": (["cat", "dog"], ["dog", "owl", "cat"]),
    "one less": (["cat", "dog", "cow"], ["cow", "cat"]),
    "others": (["cat", "dog"], ["owl", "hen"]),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("number", range(len(LAYOUTS)))
def test_rows_go_by_name(number, case):
    name, layout, (theirs, ours) = NAMES[number], LAYOUTS[number], CASES[case]
    assert layout.name.search(name)
    anchors, rest = 3, (4,) if name.endswith("weight") else ()
    old = torch.randn(anchors * (layout.fixed + layout.each * len(theirs)), *rest)
    fresh = torch.randn(anchors * (layout.fixed + layout.each * len(ours)), *rest)
    found, told = by_class_name({name: old, "other": old}, {name: fresh, "other": old}, theirs, ours)
    expected = fresh.clone()
    for anchor in range(anchors):
        ours_at, theirs_at = (anchor * (layout.fixed + layout.each * len(each)) for each in (ours, theirs))
        for row in range(layout.fixed):
            expected[ours_at + row] = old[theirs_at + row]
        for label, class_name in enumerate(ours):
            for row in range(layout.each if class_name in theirs else 0):
                place = layout.fixed + layout.each * label + row
                source = layout.fixed + layout.each * theirs.index(class_name) + row
                expected[ours_at + place] = old[theirs_at + source]
    torch.testing.assert_close(found[name], expected, rtol=0, atol=0)
    assert found["other"] is old
    shared = len({*theirs} & {*ours})
    assert f"{shared} of {len(ours)} taken by their names" in told
    assert all((class_name in told) == (class_name not in theirs) for class_name in ours)


@pytest.mark.parametrize("names", [(["a", "b"], ["a", "b"]), (["class0", "class1"], ["a", "b"]), ([], ["a"])])
def test_the_same_classes_or_none_change_nothing(names):
    old = torch.randn(21, 4)
    found, told = by_class_name({NAMES[0]: old}, {NAMES[0]: torch.zeros(21, 4)}, *names)
    assert found[NAMES[0]] is old
    assert told == ""
