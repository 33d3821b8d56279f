"""The line of an epoch says which truths have no positive, and which were served with one."""

import pytest
import torch

from alignyolo.anchors import build_anchors
from alignyolo.assign.assignment import Context
from alignyolo.registry import ASSIGNERS
from alignyolo.targets import Targets
from engine.run_files import left_out
from engine.train.epoch_report import EpochReport


@pytest.mark.parametrize(("serve", "said"), [("off", " (2 unmatched of 3)"), ("on", " (1 unmatched, 1 served of 3)")])
def test_truths_without_a_positive_are_counted(serve, said):
    """A truth of an anchor's size, a sliver between two rows of cells, and one that no anchor reaches."""
    anchors = build_anchors((96, 96), [32], [[(30, 30)]])
    boxes = torch.tensor([[33.0, 33, 63, 63], [4, 30, 60, 34], [0, 0, 96, 0.1]])
    boxes[2, 2:] = 500  # Above four times the anchor.
    targets = Targets(boxes, torch.zeros(3, dtype=torch.long), torch.zeros(3, dtype=torch.long))
    report = EpochReport()
    found = ASSIGNERS["atss"].bind(serve=serve)(Context(anchors, targets, 1))
    report.observe(found, targets, torch.ones(len(found.anchor)), torch.ones(len(found.anchor)))
    row = report.row()
    assert left_out(row) == said
    assert said in report.line()
    assert ("served" in row) == (serve == "on")


def test_nothing_is_said_where_every_truth_has_a_positive():
    assert left_out({"unmatched": 0.0, "served": 0.0, "truths": 5.0}) == ""
