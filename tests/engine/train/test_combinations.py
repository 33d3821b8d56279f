"""Twenty short runs in which every two choices of any two options meet: they finish, or are refused with the reason."""

import csv
import itertools
import math
import random
import shutil
from pathlib import Path

import pytest

from engine.settings.configure import plan_run
from train import train
from utils.errors import UserError

CHOICES = {
    "amp": ["off", "bf16", "fp16"],
    "optimizer": ["sgd", "adamw"],
    "multi_scale": [False, True],
    "rect": [False, True],
    "cache": [False, True, "device"],
    "freeze": ["", "backbone"],
    "imgsz": [[64], [64, 96]],
    "classes": [6, 1],
}


def pairs(run):
    return frozenset(itertools.combinations(sorted((name, str(value)) for name, value in run.items()), 2))


def covering(choices, count):
    """`count` runs: each is one of those that meet most of the pairs of choices that no run before has met."""
    every = [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]
    random.Random(0).shuffle(every)
    rest, missing, runs = {row: pairs(run) for row, run in enumerate(every)}, set(), []
    for _ in range(count):
        # When all have met, they have to meet again.
        missing = missing or set().union(*rest.values())
        best = max(rest, key=lambda row: len(rest[row] & missing))
        missing -= rest.pop(best)
        runs.append(every[best])
    return runs


RUNS = covering(CHOICES, 20)


def test_every_two_choices_meet():
    assert set().union(*map(pairs, RUNS)) == set().union(
        *(pairs(dict(zip(CHOICES, values, strict=True))) for values in itertools.product(*CHOICES.values()))
    )


@pytest.fixture(scope="module")
def one_class(small_shapes, tmp_path_factory):
    copy = tmp_path_factory.mktemp("one") / "data"
    shutil.copytree(Path(small_shapes).parent, copy)
    for file in copy.rglob("labels/*/*.txt"):
        file.write_text("".join(f"0 {line.split(maxsplit=1)[1]}\n" for line in file.read_text().splitlines()))
    (copy / "one.yaml").write_text("train: images/train\nval: images/val\nnames: [shape]\n")
    return str(copy / "one.yaml")


@pytest.mark.parametrize("run", RUNS, ids=lambda run: " ".join(f"{name}={value}" for name, value in run.items()))
def test_twenty_combinations(run, flags, one_class):
    changes = {name: value for name, value in run.items() if name != "classes"}
    wanted = {**flags, **changes, "epochs": 1, "data": one_class if run["classes"] == 1 else flags["data"]}
    if run["amp"] == "fp16":
        with pytest.raises(UserError, match="--amp fp16: a CPU trains in bf16 or full precision"):
            plan_run(wanted)
        return
    folder = train(**wanted)
    (row,) = csv.DictReader((folder / "results.csv").open())
    assert math.isfinite(float(row["loss"]))
    assert (folder / "weights" / "last.pt").is_file()
