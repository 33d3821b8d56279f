"""The optimiser's groups and the schedule."""

import math

import pytest
import torch
from torch import nn

from engine.settings.epochs import step_milestones
from utils.optim import Schedule, apply_settings, build_optimizer


def schedule(**changes):
    settings = {
        "steps_per_epoch": 10,
        "epochs": 100,
        "lr0": 0.01,
        "lrf": 0.1,
        "decay_shape": "linear",
        "momentum": 0.9,
        "warmup_epochs": 3.0,
        "warmup_momentum": 0.8,
        "warmup_bias_lr": 0.1,
        "accumulate": 4.0,
    }
    return Schedule(**{**settings, **changes})


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_only_convolution_weights_decay_and_none_is_lost(kind):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1, bias=False))
    optimizer = build_optimizer(kind, network, 0.01, 0.9, 0.0005)
    decayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    assert decayed == {id(network[0].weight), id(network[2].weight)}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(network.parameters()))


def test_warm_up_starts_and_ends_where_it_should():
    plan = schedule()
    first, last = plan.at(0), plan.at(plan.warmup_steps)
    assert plan.warmup_steps == 100
    assert (first.lr, first.bias_lr, first.momentum, first.accumulate) == (0, 0.1, 0.8, 1)
    assert last.accumulate == 4
    assert last.momentum == 0.9
    assert last.lr == last.bias_lr == pytest.approx(0.01 * (1 - 10 / 100 * 0.9))
    halfway = plan.at(50)
    assert halfway.lr == pytest.approx(0.01 * plan.decay(5) / 2)
    assert halfway.momentum == pytest.approx(0.85)
    assert halfway.accumulate == 2


def test_warm_up_takes_at_most_half_of_a_short_run_and_can_be_off():
    assert schedule(epochs=4).warmup_steps == 20
    assert schedule(warmup_epochs=0).at(0).lr == 0.01
    assert [schedule(epochs=4, warmup_limit=limit).warmup_steps for limit in (5, 50)] == [5, 20]


@pytest.mark.parametrize("shape", ["linear", "cosine"])
def test_decay_falls_from_one_to_lrf(shape):
    plan = schedule(decay_shape=shape)
    values = [plan.decay(epoch) for epoch in range(101)]
    assert values[0] == 1
    assert values[-1] == pytest.approx(0.1)
    assert all(a > b for a, b in zip(values, values[1:], strict=False))
    assert values[50] == pytest.approx(0.55)
    assert values[25] == pytest.approx((1 + math.cos(math.pi / 4)) / 2 * 0.9 + 0.1 if shape == "cosine" else 0.775)


@pytest.mark.parametrize("steps", [(8, 11), (0.667, 0.917), (0.5,), (3, 4, 5)])
@pytest.mark.parametrize("drop", [0.1, 0.5])
def test_steps_are_torchs_multi_step_schedule(steps, drop):
    plan = schedule(epochs=12, decay_shape="steps", milestones=step_milestones(steps, 12), drop=drop, warmup_epochs=0)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=plan.lr0)
    # As a reader of the papers would write it: 0.667 and 0.917 of 12 epochs are 8 and 11.
    torchs = torch.optim.lr_scheduler.MultiStepLR(optimizer, {0.667: [8, 11], 0.5: [6]}.get(steps[0], steps), drop)
    for epoch in range(12):
        for step in (0, plan.steps_per_epoch - 1):
            found = plan.at(epoch * plan.steps_per_epoch + step).lr
            assert found == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
        optimizer.step()
        torchs.step()


def test_fractions_of_a_run_are_the_papers_epochs():
    """GGIoU's 1x of 12 epochs and SSD's 120 (24 of 5 passes), SCALoss's 72 (24 of 3), and 6 on LVIS."""
    assert [step_milestones((0.667, 0.917), epochs) for epochs in (12, 24, 120)] == [(8, 11), (16, 22), (80, 110)]
    assert step_milestones((0.667, 0.834), 72) == (48, 60)
    assert step_milestones((0.667, 0.834), 6) == (4, 5)
    assert step_milestones((8, 11), 100) == (8, 11)


def test_schedules_describe_themselves():
    steps = {"decay_shape": "steps", "epochs": 12}
    assert schedule(milestones=(8, 11), **steps).describe() == "lr 0.01, times 0.1 after epoch 8 and 11 of 12 epochs"
    assert schedule(milestones=(20,), **steps).describe() == "lr 0.01, the same in all of 12 epochs"
    assert schedule().describe() == "lr 0.01, linear to 0.001 over 100 epochs"


def test_settings_reach_the_groups():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    for kind in ("sgd", "adamw"):
        optimizer = build_optimizer(kind, network, 0.01, 0.9, 0.0005)
        apply_settings(optimizer, schedule().at(0))
        for group in optimizer.param_groups:
            assert group["lr"] == (0.1 if group["group"] == "bias" else 0)
            assert (group.get("momentum") or group["betas"][0]) == 0.8
        network(torch.zeros(1, 3, 8, 8)).sum().backward()
        optimizer.step()
