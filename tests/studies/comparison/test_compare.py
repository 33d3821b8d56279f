"""Comparisons: recipes, their runs, and a report that says no more than the runs carry."""

import csv
import json
from dataclasses import replace

import pytest

from engine.train.configure import plan_run
from studies.compare import compare, parse_flags
from studies.comparison.recipe import RECIPES, Recipe, Variant, from_lists, read_recipe
from studies.comparison.report import write_report
from studies.comparison.runs import plan
from train import parse_flags as train_flags
from utils.config.knobs import CompareConfig
from utils.errors import CommandError, UserError

FAST = ["--imgsz", "64", "--batch-size", "4", "--epochs", "1", "--workers", "0", "--device", "cpu", "--amp", "off"]
FAST += ["--no-plots", "--set", "channels=[8,8,16,16,32,32,64]"]


@pytest.mark.parametrize("path", sorted(RECIPES.rglob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_recipes_plan(path, small_shapes):
    recipe = read_recipe(path.stem)
    assert recipe.description
    configs = {}
    for variant in recipe.variants:
        flags = train_flags([*recipe.train, "--data", str(small_shapes), *variant.arguments()])
        configs[variant.name] = plan_run(flags).config
    hypers = [json.dumps(config.to_dict(), sort_keys=True) for config in configs.values()]
    assert len(set(hypers)) == len(hypers), "two variants are the same run"


def test_recipes_cover_the_papers_tables():
    assert {variant.settings["sca_alpha"] for variant in read_recipe("sca-alpha").variants} >= {
        0.2,
        0.3,
        0.4,
        0.5,
        0.6,
        0.7,
    }
    parts = {variant.settings["box_loss"] for variant in read_recipe("sca-parts").variants}
    assert parts == {"center", "cd", "iou", "diou", "iou_cd", "so", "sca"}
    gammas = [variant.settings.get("ggiou_gamma") for variant in read_recipe("ggiou-balanced").variants]
    assert sorted(filter(None, gammas)) == [1.2, 1.2, 1.3, 1.3, 1.4, 1.4, 1.5]
    matched = [variant.settings for variant in read_recipe("gain-and-objectness").variants]
    for loss in ("giou", "ciou", "sca"):
        mine = [each for each in matched if each["box_loss"] == loss]
        assert {(each.get("obj_target", "iou"), each.get("box_gain_match", "none")) for each in mine} == {
            (target, match) for target in ("iou", "similarity") for match in ("none", "iou")
        }


def test_lists_make_every_combination():
    recipe = from_lists(["iou", "sca"], ["anchor_ratio", "ggiou"])
    names = ["iou-anchor_ratio", "iou-ggiou", "sca-anchor_ratio", "sca-ggiou"]
    assert [variant.name for variant in recipe.variants] == names
    assert recipe.baseline == names[0]
    assert from_lists(["iou", "sca"], []).variants[1].settings == {"box_loss": "sca", "assigner": "anchor_ratio"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("variants: {a: {box_los: iou}}", "unknown key 'box_los'; did you mean 'box_loss'"),
        ("variant: {}", "unknown key 'variant'; did you mean 'variants'"),
        ("variants: {}", "expected `key: value` lines"),
        ("variants: {../x: {box_loss: iou}}", "expected a name of letters"),
        ("variants: {a: {}}\nbaseline: b", "baseline 'b'"),
        ("variants: {a: {}}\ntrain: {epoch: 3}", "unknown key 'epoch'; did you mean 'epochs'"),
        ("variants: {a: {}}\ntrain: {seed: 3}", "unknown key 'seed'"),
        ("grid: {box_loss: iou}", "expected a list of values"),
        ("grid: {box_loss: [iou, iou]}", "two variants are called 'iou'"),
        ("description: nothing", "expected either variants or grid"),
    ],
)
def test_mistakes_in_a_recipe_are_named(text, message, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        read_recipe(str(path))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--losses", "iou", "scaloss"], "losses is 'scaloss'; did you mean 'sca'"),
        (["--losses", "iou", "--epoch", "3"], "unknown flag --epoch; did you mean '--epochs'"),
        (["--losses", "iou", "--seed", "3"], "--seed is set for every run"),
        (["--losses", "iou", "--loss", "sca"], "--loss is set for every run"),
        (["--losses", "iou", "--name", "x"], "--name is set for every run"),
        (["--losses", "iou", "--seeds", "one"], "seeds is 'one': expected int"),
    ],
)
def test_mistakes_in_the_flags_are_named(arguments, message):
    with pytest.raises(UserError, match=message):
        parse_flags(arguments)


def test_recipe_or_lists():
    with pytest.raises(UserError, match="either --recipe or --losses"):
        compare(CompareConfig(), [], "")
    with pytest.raises(UserError, match="lr0 is -1"):
        compare(CompareConfig(losses=("iou",)), ["--set", "lr0=-1"], "")


def finished_run(run, ap, **more):
    """The files that a run leaves."""
    run.folder.mkdir(parents=True)
    metrics = {"ap": ap, "ap50": 2 * ap, "ap75": ap, "ap90": ap / 9, "ap_small": None, "ap_large": ap, **more}
    metrics |= {f"ap{limit}": ap for limit in (55, 60, 65, 70, 80, 85, 95)}
    metrics |= {"confidence": 0.3, "per_class": {"disc": {"ap": ap, "ap50": ap}}, "protocol": "split val"}
    run.metrics_file.write_text(json.dumps(metrics))
    (run.folder / "results.csv").write_text(f"epoch,seconds,ap\n1,2.0,{ap / 2}\n2,4.0,{ap}\n")
    (run.folder / "env.json").write_text(json.dumps({"date": "2026-01-01T00:00", "torch": "2"}))


def report_of(values, tmp_path, **more):
    """The report, and summary.csv, of made-up runs: AP by variant and seed."""
    variants = tuple(Variant(name, {}) for name in values)
    recipe = Recipe("made up", next(iter(values)), variants)
    seeds = sorted({seed for by_seed in values.values() for seed in by_seed})
    runs = plan(variants, seeds, [], tmp_path, "val")
    for run in runs:
        if run.seed in values[run.variant.name]:
            finished_run(run, values[run.variant.name][run.seed], **more)
    text = write_report(runs, recipe, tmp_path, "the command").read_text()
    with (tmp_path / "summary.csv").open(newline="") as file:
        return text, list(csv.DictReader(file))


def test_report_names_a_winner_that_the_intervals_carry(tmp_path):
    values = {"iou": {0: 0.30, 1: 0.32, 2: 0.34}, "sca": {0: 0.35, 1: 0.3701, 2: 0.3899}}
    text, rows = report_of(values, tmp_path, ap_ratio_from_4=0.1)
    assert "sca against iou: above, by +5.00 (+4.98 to +5.02) points of AP" in text
    assert "sca has the highest AP of all" in text
    assert "ap_ratio_from_4" in text
    row = next(row for row in rows if (row["column"], row["variant"]) == ("ap", "sca"))
    assert float(row["difference_mean"]) == pytest.approx(0.05)
    assert float(row["sd"]) == pytest.approx(0.01995, abs=1e-4)
    assert {path.name for path in tmp_path.glob("*.png")} == {
        "curves.png",
        "differences.png",
        "thresholds.png",
        "groups.png",
    }


def test_report_names_no_winner_without_evidence(tmp_path):
    text, _ = report_of({"iou": {0: 0.30, 1: 0.32, 2: 0.34}, "sca": {0: 0.40, 1: 0.33, 2: 0.33}}, tmp_path)
    assert "sca against iou: no difference shown" in text
    assert "no winner" in text
    assert "highest" not in text


def test_one_seed_carries_no_statement(tmp_path):
    text, rows = report_of({"iou": {0: 0.30}, "sca": {0: 0.50}}, tmp_path)
    assert "one pair of runs with the same seed, which carries no interval" in text
    assert "no winner" in text
    assert rows[-1]["difference_low"] == ""


def test_report_of_an_unfinished_comparison_says_what_is_missing(tmp_path):
    text, _ = report_of({"iou": {0: 0.30, 1: 0.3}, "sca": {0: 0.50}}, tmp_path)
    assert "Missing: sca seed 1" in text


def test_a_comparison_trains_once_and_continues(tmp_path, small_shapes, capfd):
    config = CompareConfig(losses=("sca",), seeds=(0,), into=str(tmp_path / "runs"), split="train", threads=1)
    shared = ["--data", str(small_shapes), *FAST]
    path = compare(config, shared, "the command")
    assert "sca-anchor_ratio seed 0: done" in capfd.readouterr().out
    folder = tmp_path / "runs" / "sca-anchor_ratio" / "seed0"
    own, scored = (json.loads((folder / name).read_text()) for name in ("metrics.json", "train/metrics.json"))
    assert own["protocol"].startswith("split val")
    assert scored["protocol"].startswith("split train")
    assert "box_loss: sca" in (folder / "config.yaml").read_text()
    assert "split train" in path.read_text()

    before = (folder / "metrics.json").stat().st_mtime_ns
    (folder / "train" / "metrics.json").unlink()
    compare(config, shared, "the command")
    assert "1 runs, 0 of them finished before" in capfd.readouterr().out
    assert (folder / "metrics.json").stat().st_mtime_ns == before
    assert (folder / "train" / "metrics.json").is_file()

    with pytest.raises(UserError, match="holds another run"):
        compare(config, [*shared, "--set", "box=0.1"], "the command")

    (tmp_path / "runs").rename(tmp_path / "moved")
    compare(replace(config, into=str(tmp_path / "moved")), shared, "the command")
    assert "1 runs, 1 of them finished before" in capfd.readouterr().out


def test_a_failed_run_is_named_after_the_rest(tmp_path, small_shapes):
    config = CompareConfig(losses=("iou",), seeds=(0,), into=str(tmp_path / "runs"))
    with pytest.raises(CommandError, match="1 of 1 runs failed"):
        compare(config, ["--data", str(small_shapes), *FAST, "--weights", str(tmp_path / "none.pt")], "the command")
    assert "none.pt" in (tmp_path / "runs" / "iou-anchor_ratio" / "seed0.log").read_text()
    assert "Missing: iou-anchor_ratio seed 0" not in (tmp_path / "runs" / "report.md").read_text()
