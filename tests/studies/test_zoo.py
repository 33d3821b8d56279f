"""The pictures of the box losses are drawn, their tables hold every loss, and their gradients are the losses'."""

import csv

import pytest
import torch

from studies.zoo import gradient_by_iou, main, shown
from utils.errors import UserError


def test_pictures_and_tables(tmp_path):
    main(["ciou", "inner_sca", "wiou_v3", "--quick", "--out", str(tmp_path)])
    rows = list(csv.DictReader((tmp_path / "zoo" / "zoo.csv").open()))
    assert [row["loss"] for row in rows] == ["ciou", "inner_sca", "wiou_v3"]
    assert all(float(row["us a box"]) > 0 for row in rows)
    page = (tmp_path / "zoo" / "zoo.md").read_text()
    for row in rows:
        assert (tmp_path / "zoo" / f"{row['loss']}.png").stat().st_size > 10_000
        assert f"({row['loss']}.png)" in page


def test_scas_gradient_does_not_vanish_where_ious_does():
    middles, iou = gradient_by_iou(shown("iou"))
    _, sca = gradient_by_iou(shown("sca"))
    assert len(middles) == len(iou)
    assert (sca > iou)[: len(iou) // 2].all()
    assert torch.isfinite(sca).all()


def test_an_unknown_loss_is_said():
    with pytest.raises(UserError, match="no box loss 'scaa'; did you mean"):
        main(["scaa"])


def test_a_flag_that_draws_nothing_else_is_refused():
    with pytest.raises(UserError, match="unknown flag --data"):
        main(["iou", "--data", "shapes"])
