"""Comparisons: recipes, their runs, and a report that says no more than the runs carry."""

import csv
import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from alignyolo.registry import ASSIGNERS
from engine.settings.configure import plan_run
from studies.compare import check_run, command_of, compare, main, parse_flags, read_flags
from studies.comparison.recipe import RECIPES, ULTRALYTICS, Recipe, Variant, from_lists, read_recipe, recipe_of
from studies.comparison.report import write_report
from studies.comparison.runs import note_request, plan, scoring
from studies.comparison.tables import less_is_better, read_tables
from tests.paths import ROOT
from train import parse_flags as train_flags
from utils.config.knobs import CompareConfig
from utils.config.yaml_file import read_mapping
from utils.errors import CommandError, UserError
from utils.metrics.coco_metrics import COLUMNS, ERROR_COLUMNS
from val import parse_flags as val_flags

FAST = ["--imgsz", "64", "--batch-size", "4", "--epochs", "1", "--workers", "0", "--device", "cpu", "--amp", "off"]
FAST += ["--no-plots", "--set", "channels=[8,8,16,16,32,32,64]"]
PROTOCOL = "split val (4 images)  NMS IoU 0.65"


def check_variants(recipe, data):
    """Every variant of a recipe is a run that can start, and another one than the others."""
    configs = {}
    if recipe.trainer == ULTRALYTICS:
        asked = [(*recipe.train, "--data", str(data), *variant.arguments()) for variant in recipe.variants]
        assert len(set(asked)) == len(asked)
        for arguments in asked:
            check_run(recipe.trainer, arguments)
        return
    for variant in recipe.variants:
        flags = train_flags([*recipe.train, "--data", str(data), *variant.arguments()])
        configs[variant.name] = plan_run(flags).config
    hypers = [json.dumps(config.to_dict(), sort_keys=True) for config in configs.values()]
    assert len(set(hypers)) == len(hypers), "two variants are the same run"


@pytest.mark.parametrize("path", sorted(RECIPES.rglob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_recipes_plan(path, small_shapes):
    recipe = read_recipe(path.stem)
    assert recipe.description
    check_variants(recipe, small_shapes)


def test_the_recipes_on_the_page_plan(tmp_path, small_shapes):
    page = (ROOT / "docs" / "guides" / "comparisons.md").read_text("utf-8")
    shown = re.findall(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    grids = re.findall(r"`(grid: .*?)`", page)
    assert len(shown) == 2 and len(grids) == 1
    for number, text in enumerate([*shown, *grids]):
        path = tmp_path / f"{number}.yaml"
        path.write_text(text)
        check_variants(read_recipe(str(path)), small_shapes)


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


def test_the_losses_on_slender_objects_run_with_their_own_size_and_with_the_same():
    losses: dict = {}
    for variant in read_recipe("slender-losses").variants:
        losses.setdefault(variant.settings["box_loss"], []).append(variant.settings.get("box_gain_match", "none"))
    assert losses.pop("iou") == ["none"]  # by itself is what the others are matched to
    assert all(matches == ["none", "iou"] for matches in losses.values())
    variants = [variant.settings for variant in read_recipe("slender-assigners").variants]
    assert {settings["assigner"] for settings in variants} == set(ASSIGNERS)


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
        (["--losses", "iou", "scaloss"], "--losses is 'scaloss'; did you mean 'sca'"),
        (["--losses", "iou", "--epoch", "3"], "unknown flag --epoch; did you mean '--epochs'"),
        (["--losses", "iou", "--seed", "3"], "--seed is set for every run"),
        (["--losses", "iou", "--loss", "sca"], "--loss is set for every run"),
        (["--losses", "iou", "--name", "x"], "--name is set for every run"),
        (["--losses", "iou", "--seeds", "one"], "--seeds is 'one': expected a whole number"),
        (["--losses", "iou", "--seeds", "1", "0", "2", "0"], "--seeds: 0 stands there twice"),
        (["--report-only", "--split", "val"], "--split has no effect with --report-only alone"),
        (["--report-only", "--seeds", "0", "1", "2"], "--seeds has no effect"),
        (["--report-only", "--jobs", "2"], "--jobs has no effect"),
        (["--report-only", "--baseline", "sca", "--epochs", "3"], "--epochs has no effect"),
    ],
)
def test_mistakes_in_the_flags_are_named(arguments, message):
    with pytest.raises(UserError, match=message):
        parse_flags(arguments)


def test_a_report_of_what_is_named_takes_the_whole_command():
    arguments = ["--losses", "iou", "--seeds", "0", "--jobs", "2", "--epochs", "3", "--report-only"]
    assert parse_flags(arguments)[0].report_only
    assert parse_flags(["--report-only", "--into", "results/bccd", "--baseline", "sca"])[0].baseline == "sca"


def settings_of(config, shared):
    """The box loss and assigner that each variant trains with."""
    recipe = recipe_of(config, shared)
    hypers = {each.name: plan_run(train_flags([*shared, *each.arguments()])).config.hyper for each in recipe.variants}
    return {name: (hyper.box_loss, hyper.assigner) for name, hyper in hypers.items()}


def test_a_list_that_is_not_given_leaves_what_the_flags_say(small_shapes, tmp_path):
    data, (losses, assigners) = ["--data", str(small_shapes)], ({"losses": ("iou", "sca")}, {"assigners": ("iou",)})
    hyp = tmp_path / "mine.yaml"
    hyp.write_text("box_loss: giou\nassigner: ggiou\n")
    found = settings_of(CompareConfig(**losses), [*data, "--set", "assigner=best_anchor"])
    assert found == {"iou-best_anchor": ("iou", "best_anchor"), "sca-best_anchor": ("sca", "best_anchor")}
    assert settings_of(CompareConfig(**assigners), [*data, "--hyp", str(hyp)]) == {"giou-iou": ("giou", "iou")}
    detector = [*data, "--cfg", "retinanet_resnet18_fpn"]
    assert settings_of(CompareConfig(losses=("giou",)), detector) == {"giou-iou": ("giou", "iou")}
    # A key that only some of the losses read is no mistake.
    assert list(settings_of(CompareConfig(losses=("sca",)), [*data, "--set", "sca_alpha=0.7"])) == ["sca-anchor_ratio"]
    # As in folders of before: without such flags the default is asked for by name.
    assert recipe_of(CompareConfig(**losses), data) == from_lists(["iou", "sca"], ["anchor_ratio"])


def test_a_setting_that_every_variant_overrides_is_refused(small_shapes, tmp_path):
    shared = ["--data", str(small_shapes), "--set", "box_loss=ciou"]
    for config in (CompareConfig(losses=("iou", "sca")), CompareConfig(recipe="losses")):
        with pytest.raises(UserError, match="--set box_loss=ciou has no effect: every variant sets box_loss itself"):
            compare(replace(config, into=str(tmp_path / "new")), shared, "")
    assert not (tmp_path / "new").exists()


def test_the_variant_that_train_py_would_refuse_is_named(small_shapes, tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("variants: {good: {}, bad: {assigner: ggiou, assign_positive: 0.3, assign_negative: 0.6}}\n")
    config = CompareConfig(recipe=str(recipe), into=str(tmp_path / "new"))
    with pytest.raises(UserError, match=r"^variant bad: .*assign_negative 0\.6 is above assign_positive 0\.3"):
        compare(config, ["--data", str(small_shapes)], "")
    # What is wrong for all of them is no variant's fault.
    with pytest.raises(UserError, match="^no such file or folder: .*nowhere"):
        compare(CompareConfig(losses=("iou", "sca"), into=str(tmp_path / "new")), ["--data", "nowhere"], "")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("trainer", ["train.py", "ultralytics"])
def test_a_split_that_the_data_set_lacks_is_named_before_anything_is_trained(trainer, small_shapes, tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(f"trainer: {trainer}\nvariants: {{a: {{}}}}\n")
    config = CompareConfig(recipe=str(recipe), split="test", into=str(tmp_path / "new"))
    with pytest.raises(UserError, match="--split test: .*has no such split: it has train, val"):
        compare(config, ["--data", str(small_shapes)], "")
    assert not (tmp_path / "new").exists()


def test_a_recipe_is_read_once(small_shapes, tmp_path, monkeypatch):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("variants: {a: {box_loss: iou}}")
    shared = ["--data", str(small_shapes)]
    given = ["compare", "--recipe", str(recipe), "--seeds", "0", "--into", str(tmp_path / "runs"), *shared]
    monkeypatch.setattr("sys.argv", given)
    read = []
    monkeypatch.setattr("studies.comparison.recipe.read_mapping", lambda path: read.append(path) or read_mapping(path))
    monkeypatch.setattr("studies.compare.make_missing", lambda *_: None)
    with pytest.raises(CommandError, match="no run is finished"):
        main()
    assert read == [recipe]


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
    metrics |= {"confidence": 0.3, "per_class": {"disc": {"ap": ap, "ap50": ap}}, "protocol": PROTOCOL} | more
    run.metrics_file.write_text(json.dumps(metrics))
    (run.folder / "results.csv").write_text(f"epoch,seconds,ap\n1,2.0,{ap / 2}\n2,4.0,{ap}\n")
    (run.folder / "env.json").write_text(json.dumps({"date": "2026-01-01T00:00", "torch": "2"}))


def report_of(values, tmp_path, **more):
    """The report, and runs.csv, of made-up runs: AP by variant and seed."""
    variants = tuple(Variant(name, {}) for name in values)
    recipe = Recipe("made up", next(iter(values)), variants)
    seeds = sorted({seed for by_seed in values.values() for seed in by_seed})
    runs = plan(variants, seeds, [], tmp_path, "val")
    for run in runs:
        if run.seed in values[run.variant.name]:
            finished_run(run, values[run.variant.name][run.seed], **more)
    text = write_report(runs, recipe, tmp_path, "the command").read_text()
    with (tmp_path / "runs.csv").open(newline="") as file:
        return text, list(csv.DictReader(file))


@pytest.fixture
def no_picture(monkeypatch):
    """Reports without their picture, which takes longer than all the rest."""
    monkeypatch.setattr("studies.comparison.report.draw_figures", lambda *_: None)


def test_report_names_a_winner_that_the_intervals_carry(tmp_path):
    values = {"iou": {0: 0.30, 1: 0.32, 2: 0.34}, "sca": {0: 0.35, 1: 0.3701, 2: 0.3899}}
    text, rows = report_of(values, tmp_path, ap_ratio_from_4=0.1)
    assert "sca against iou: above, by +5.00 (+4.98 to +5.02) points of AP" in text
    assert "sca has the highest AP of all" in text
    assert "ap_ratio_from_4" in text
    assert "| sca | 3 | 37.00 ± 2.00 | 74.00 ± 3.99 |" in text
    assert "| sca | **+5.00 (+4.98 to +5.02)** | **+10.00 (+9.95 to +10.05)** |" in text
    assert "| sca | 37.00 ± 2.00 | 37.00 ± 2.00 |" in text.partition("## By class")[2]
    assert [row["ap"] for row in rows if row["variant"] == "sca"] == ["0.35", "0.3701", "0.3899"]
    files = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert files == {"report.md", "runs.csv", "curves.csv", "figures.png"}


@pytest.mark.usefixtures("no_picture")
def test_a_mean_that_rests_on_classes_with_few_objects_is_named(tmp_path):
    labels = {"scratches": 94, "inclusion": 43, "crazing": 4, "patches": 1, "none": 0}
    per_class = {name: {"labels_ratio_from_4": count, "labels_small": 20} for name, count in labels.items()}
    measures = {"ap_ratio_from_4": 0.1, "ap_ratio_from_4_weighted": 0.2, "ap_small": 0.3}
    text, _ = report_of({"iou": {0: 0.3, 1: 0.4}}, tmp_path / "with", per_class=per_class, **measures)
    (line,) = [line for line in text.splitlines() if "such objects" in line]
    assert line == (
        "- ap_ratio_from_4: 2 of 4 classes have fewer than 10 such objects, together 5 of 142, and are 50% of this "
        "mean; ap_ratio_from_4_weighted counts a class by its objects."
    )
    assert "| ap_ratio_from_4_weighted |" in text
    without, _ = report_of({"iou": {0: 0.3, 1: 0.4}}, tmp_path / "without", **measures)
    assert "such objects" not in without


@pytest.mark.usefixtures("no_picture")
def test_a_class_of_any_name_keeps_its_table_whole(tmp_path):
    each = {"ap": 0.5, "ap50": 0.6}
    text, _ = report_of({"iou": {0: 0.3}}, tmp_path, per_class={"a|b": each, "one\ntwo": each})
    head, rule, row = text.partition("## By class")[2].split("\n\n")[1].splitlines()
    assert head == r"| variant | a\|b ap | one?two ap | a\|b ap50 | one?two ap50 |"
    assert rule == "|---|---|---|---|---|" and row == "| iou | 50.00 | 50.00 | 60.00 | 60.00 |"


def test_report_says_what_each_kind_of_error_costs(tmp_path):
    values = {"iou": {0: 0.30, 1: 0.32}, "sca": {0: 0.35, 1: 0.37}}
    plain, _ = report_of(values, tmp_path / "without")
    assert "tide" not in plain.lower()
    text, rows = report_of(values, tmp_path / "with", tide_localisation=0.04, error_counts={"localisation": 3})
    means, differences = (text.partition(part)[2].partition("##")[0] for part in ("## Mean", "## Paired"))
    assert means.count("tide_localisation |") == 1 and "| 4.00 ± 0.00 |" in means
    assert differences.count("tide_localisation |") == 1 and "less is better" in differences
    assert rows[0]["tide_localisation"] == "0.04"
    assert rows[0]["error_counts.localisation"] == "3"


def test_less_is_better_of_errors_alone():
    assert all(less_is_better(name) for name in ERROR_COLUMNS)
    assert not any(less_is_better(name) for name in COLUMNS)


def test_report_names_no_winner_without_evidence(tmp_path):
    text, _ = report_of({"iou": {0: 0.30, 1: 0.32, 2: 0.34}, "sca": {0: 0.40, 1: 0.33, 2: 0.33}}, tmp_path)
    assert "sca against iou: no difference shown" in text
    assert "no winner" in text
    assert "highest" not in text


@pytest.mark.usefixtures("no_picture")
def test_no_winner_is_named_over_a_variant_that_has_no_run_yet(tmp_path):
    values = {"iou": {0: 0.30, 1: 0.32, 2: 0.34}, "sca": {0: 0.35, 1: 0.3701, 2: 0.3899}}
    text, _ = report_of({**values, "giou": {}}, tmp_path)
    assert "No winner is named while no run is finished of giou." in text
    finished = plan((Variant("giou", {}),), [0], [], tmp_path, "val")
    finished_run(finished[0], 0.2)
    assert "no winner" in report_again(tmp_path)  # one pair carries no interval


@pytest.mark.usefixtures("no_picture")
def test_no_variant_that_diverged_is_the_winner(tmp_path):
    values = {"iou": {0: 0.30, 1: 0.32, 2: 0.34, 3: 0.31}, "sca": {0: 0.35, 1: 0.3701, 2: 0.3899}, "giou": {}}
    for name, seeds in (("sca", [3]), ("giou", range(4))):
        for run in plan((Variant(name, {}),), seeds, [], tmp_path, "val"):
            note_request(run, 3)
    text, _ = report_of(values, tmp_path)
    assert "sca has the highest AP of the runs that are finished, but others of its own diverged: no winner." in text
    # One that diverged with all seeds has lost.
    finished_run(plan((Variant("sca", {}),), [3], [], tmp_path, "val")[0], 0.36)
    assert "sca has the highest AP of all" in report_again(tmp_path)


def test_one_seed_carries_no_statement(tmp_path):
    text, _ = report_of({"iou": {0: 0.30}, "sca": {0: 0.50}}, tmp_path)
    assert "one pair of runs with the same seed, which carries no interval" in text
    assert "no winner" in text
    assert "| sca | +20.00 (no interval) |" in text


def test_report_of_an_unfinished_comparison_says_what_is_missing(tmp_path):
    text, _ = report_of({"iou": {0: 0.30, 1: 0.3}, "sca": {0: 0.50}}, tmp_path)
    assert "Missing: sca seed 1" in text


def report_again(folder, **flags):
    """What `--report-only --into folder` writes."""
    return compare(CompareConfig(into=str(folder), report_only=True, **flags), (), "").read_text()


def test_a_report_is_written_again_from_its_tables_alone(tmp_path):
    values = {"iou": {0: 0.30, 1: 0.32}, "giou": {0: 0.31, 1: 0.325}, "sca": {0: 0.35, 1: 0.3701}}
    text, rows = report_of(values, tmp_path)
    for folder in values:
        shutil.rmtree(tmp_path / folder)
    before = {name: (tmp_path / name).read_bytes() for name in ("runs.csv", "curves.csv")}
    assert report_again(tmp_path) == text
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    assert "## Paired differences to giou" in report_again(tmp_path, baseline="giou")
    with pytest.raises(UserError, match="baseline 'sc'; did you mean 'sca'"):
        report_again(tmp_path, baseline="sc")
    # What runs.csv has is not run again, and rows of other variants stay.
    with pytest.raises(UserError, match="expected report.md and runs.csv of an earlier comparison"):
        report_again(tmp_path / "elsewhere")
    variants = (Variant("iou", {}),)
    write_report(plan(variants, [0], [], tmp_path, "val"), Recipe("", "iou", variants), tmp_path, "the command")
    with (tmp_path / "runs.csv").open(newline="") as file:
        kept = list(csv.DictReader(file))
    assert [row for row in kept if row["state"] == "done"] == rows


def test_a_comparison_without_a_finished_run_leaves_an_earlier_report_alone(tmp_path):
    values = {"ciou-anchor_ratio": {0: 0.30, 1: 0.32}, "sca-anchor_ratio": {0: 0.35, 1: 0.37}}
    report_of(values, tmp_path / "runs")
    before = {path: path.read_bytes() for path in (tmp_path / "runs").iterdir() if path.is_file()}
    for into in (tmp_path / "runs", tmp_path / "new"):
        config = CompareConfig(losses=("giou", "diou"), into=str(into), report_only=True)
        with pytest.raises(CommandError, match=f"{into.name}: no run is finished: no report is written") as told:
            compare(config, [], "the command")
        assert told.value.exit_code == 1
    assert {path: path.read_bytes() for path in before} == before
    assert not (tmp_path / "new" / "report.md").exists()


@pytest.mark.usefixtures("no_picture")
@pytest.mark.parametrize(
    ("lost", "message"),
    [("split val (", r"lacks the line `split ... \("), ("## Paired diff", "lacks the heading `## Pa")],
)
def test_a_page_that_does_not_say_what_it_reported_is_not_written_again(lost, message, tmp_path):
    """Another split and another baseline were taken for those that it had."""
    text, _ = report_of({"iou": {0: 0.30, 1: 0.32}, "sca": {0: 0.35, 1: 0.37}}, tmp_path)
    (tmp_path / "report.md").write_text(text.replace(lost, "gone"))
    with pytest.raises(UserError, match=message):
        report_again(tmp_path, baseline="sca")
    assert (tmp_path / "report.md").read_text() == text.replace(lost, "gone")


def test_what_the_tables_have_is_not_run_again(tmp_path, small_shapes, capsys):
    shared = ["--data", str(small_shapes), *FAST]
    config = CompareConfig(losses=("iou",), seeds=(0,), into=str(tmp_path))
    recipe = from_lists(config.losses, ())
    runs = plan(recipe.variants, (0,), shared, tmp_path, "val")
    finished_run(runs[0], 0.3)
    write_report(runs, recipe, tmp_path, "the command")
    shutil.rmtree(runs[0].folder)
    compare(config, shared, "the command")
    assert "1 runs, 1 of them finished before" in capsys.readouterr().out
    assert not runs[0].folder.exists()
    with pytest.raises(UserError, match=r"runs.csv holds another run iou-anchor_ratio seed 0"):
        compare(config, [*shared, "--epochs", "3"], "the command")


def test_an_older_comparison_is_reported_again(tmp_path):
    """Before runs.csv held flags, splits and versions, those stood in the folders of the runs alone."""
    text, _ = report_of({"iou": {0: 0.30, 1: 0.32}, "sca": {0: 0.35, 1: 0.3701}}, tmp_path)
    header, rows = "variant,seed,state,epochs,seconds,ap,ap50", ["iou,0,done", "sca,0,done", "iou,1,done", "sca,1,done"]
    (tmp_path / "runs.csv").write_text("\n".join([header, *(f"{row},2,4.0,0.1,0.2" for row in rows)]) + "\n")
    (tmp_path / "curves.csv").write_text("variant,epoch,seeds,mean,sd\niou,1,2,0.15,0.01\n")
    assert report_again(tmp_path) == text
    for folder in ("iou", "sca"):
        shutil.rmtree(tmp_path / folder)
    (tmp_path / "runs.csv").write_text("\n".join([header, *(f"{row},2,4.0,0.1,0.2" for row in rows)]) + "\n")
    assert "| sca | 2 | 10.00 ± 0.00 | 20.00 ± 0.00 |" in report_again(tmp_path)


def recorded(folder):
    """The rows of runs.csv, by variant and seed, and the bytes of both tables."""
    rows = csv.DictReader((folder / "runs.csv").open(newline=""))
    tables = {name: (folder / name).read_bytes() for name in ("runs.csv", "curves.csv")}
    return {(row["variant"], row["seed"]): row for row in rows}, tables


@pytest.mark.usefixtures("no_picture")
def test_a_folder_replaces_what_it_holds_and_no_more(tmp_path):
    text, _ = report_of({"iou": {0: 0.30, 1: 0.32}, "sca": {0: 0.35, 1: 0.37}}, tmp_path)
    for name in ("iou", "sca"):
        shutil.rmtree(tmp_path / name)
    before, tables = recorded(tmp_path)
    folder = tmp_path / "sca" / "seed1"
    (folder / "weights").mkdir(parents=True)  # of a training that was begun once more
    assert report_again(tmp_path) == text
    assert recorded(tmp_path)[1] == tables
    # Scores alone: what is known of the training stays, its curve too.
    (folder / "metrics.json").write_text(json.dumps({"ap": 0.5, "protocol": PROTOCOL}))
    report_again(tmp_path)
    after, kept = recorded(tmp_path)
    assert kept["curves.csv"] == tables["curves.csv"]
    row = after["sca", "1"]
    assert (row["ap"], row["epochs"], row["seconds"]) == ("0.5", "2", "4.0")
    assert [row[name] for name in ("date", "env.torch")] == [before["sca", "1"][name] for name in ("date", "env.torch")]
    assert after["sca", "0"] == before["sca", "0"]


@pytest.mark.usefixtures("no_picture")
def test_a_run_without_its_table_of_epochs_is_reported(tmp_path):
    variants = (Variant("iou", {}), Variant("sca", {}))
    runs = plan(variants, [0], [], tmp_path, "val")
    for run in runs:
        finished_run(run, 0.3)
    (runs[1].folder / "results.csv").unlink()
    write_report(runs, Recipe("made up", "iou", variants), tmp_path, "the command")
    rows, _ = recorded(tmp_path)
    assert (rows["sca", "0"]["epochs"], rows["sca", "0"]["seconds"], rows["sca", "0"]["ap"]) == ("", "", "0.3")


@pytest.mark.usefixtures("no_picture")
def test_only_a_folder_with_a_training_makes_a_recorded_run_lack(tmp_path):
    variants = (Variant("iou", {}),)
    (run,) = plan(variants, [0], [], tmp_path, "val")
    finished_run(run, 0.3)
    write_report([run], Recipe("made up", "iou", variants), tmp_path, "the command")
    shutil.rmtree(run.folder)
    for kind, lacks in (("empty", False), ("weights", True), ("results.csv", True)):
        run.folder.mkdir()
        if kind == "weights":
            (run.folder / kind).mkdir()
        elif kind != "empty":
            (run.folder / kind).write_text("epoch,seconds,ap\n1,2.0,0.1\n")
        assert read_tables(tmp_path).lack(run) is lacks, kind
        shutil.rmtree(run.folder)


@pytest.mark.usefixtures("no_picture")
def test_a_run_that_diverged_is_told_where_the_tables_called_it_missing(tmp_path):
    variants = (Variant("iou", {}), Variant("sca", {}))
    runs, recipe = plan(variants, [0], [], tmp_path, "val"), Recipe("made up", "iou", variants)
    finished_run(runs[0], 0.3)
    assert "Missing: sca seed 0" in write_report(runs, recipe, tmp_path, "the command").read_text()
    (runs[1].folder / "weights").mkdir(parents=True)
    runs[1].request.write_text(json.dumps({"arguments": list(runs[1].arguments), "exit_code": 3}))
    text = write_report(runs, recipe, tmp_path, "the command").read_text()
    assert "Diverged (loss not finite): sca seed 0" in text and "Missing" not in text


def made_with(tmp_path, cells):
    """A report whose runs have other cells in runs.csv: columns with values by variant and seed."""
    report_of({"iou": {0: 0.30, 1: 0.32}, "sca": {0: 0.35, 1: 0.37}}, tmp_path)
    for name in ("iou", "sca"):
        shutil.rmtree(tmp_path / name)
    rows = list(recorded(tmp_path)[0].values())
    for column, values in cells.items():
        for row in rows:
            row[column] = values.get((row["variant"], row["seed"]), values.get("else", ""))
    with (tmp_path / "runs.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return report_again(tmp_path)


@pytest.mark.usefixtures("no_picture")
def test_runs_of_different_data_are_not_compared_without_a_word(tmp_path):
    own = {("sca", "1"): "b" * 64, "else": "a" * 64}
    text = made_with(tmp_path / "data", {"env.training_data.sha256": own})
    top = text.partition("## Mean")[0]
    assert "Warning: not all runs have the same training data (sha256).** Runs with the same seed differ too" in top
    assert f"- training data (sha256) {'b' * 64}: 1 run: sca seed 1" in top
    assert f"- training data (sha256) {'a' * 64}: 3 runs: iou seeds 0 1, sca seed 0" in top
    labels = {("iou", "1"): "811", ("sca", "1"): "811", "else": "810"}
    text = made_with(tmp_path / "labels", {"counts.labels": labels, "counts.images": {"else": "4"}})
    assert "the same scored labels.**\n" in text  # pairs are alike
    assert "scored images" not in text
    # What a run does not say is not another value.
    assert "Warning" not in made_with(tmp_path / "silent", {"counts.labels": {("iou", "0"): "4"}})


@pytest.mark.usefixtures("no_picture")
def test_every_protocol_of_a_report_is_shown_with_its_runs(tmp_path):
    own = {("iou", "0"): "split val (4 images)  NMS IoU 0.6", "else": "split val (4 images)  NMS IoU 0.5"}
    text = made_with(tmp_path, {"protocol": own})
    assert "\nsplit val (4 images)  NMS IoU 0.6 (1 run: iou seed 0)\n" in text
    assert "\nsplit val (4 images)  NMS IoU 0.5 (3 runs: sca seeds 0 1, iou seed 1)\n" in text
    assert "Warning: not all runs have the same protocol.**" in text
    assert report_again(tmp_path) == text


@pytest.mark.usefixtures("no_picture")
def test_kernels_are_named_where_they_differ(tmp_path):
    other = {("sca", "1"): "compiled; by log", "else": "compiled"}
    text = made_with(tmp_path / "two", {"env.cpu_kernels": other}).partition("## Made with")[2]
    assert "cpu_kernels compiled\n" in text and "cpu_kernels compiled; by log\n" in text
    assert "cpu_kernels" not in made_with(tmp_path / "one", {"env.cpu_kernels": {"else": "compiled"}})


def test_the_picture_has_the_curves_of_the_runs_that_are_reported(tmp_path, monkeypatch):
    report_of({"iou": {0: 0.30, 1: 0.32}, "sca": {0: 0.35, 1: 0.37}}, tmp_path)
    drawn = []
    monkeypatch.setattr("studies.comparison.report.draw_figures", lambda results, curves, path: drawn.extend(curves))
    variants = (Variant("iou", {}), Variant("sca", {}))
    write_report(plan(variants, [1], [], tmp_path, "val"), Recipe("", "iou", variants), tmp_path, "the command")
    assert {(row["variant"], row["seed"]) for row in drawn} == {("iou", "1"), ("sca", "1")}
    assert {seed for _, seed in recorded(tmp_path)[0]} == {"0", "1"}  # the tables keep all


@pytest.mark.usefixtures("no_picture")
def test_a_difference_of_few_pairs_says_how_many(tmp_path):
    values = {
        "iou": {0: 0.30, 1: 0.32, 2: 0.34},
        "giou": {0: 0.31, 1: 0.33, 2: 0.35, 3: 0.36},
        "sca": {0: 0.35, 3: 0.37, 4: 0.36},
        "siou": {2: 0.37},
    }
    text, _ = report_of(values, tmp_path)
    differences = text.partition("## Paired")[2]
    assert "| giou | **+1.00 (+1.00 to +1.00; 3 pairs)** |" in differences
    assert "| sca | +5.00 (no interval; 1 pair) |" in differences
    assert "| siou | +3.00 (no interval) |" in differences  # as many as it has seeds
    assert "giou against iou: above, by +1.00 (+1.00 to +1.00; 3 pairs) points of AP" in text
    # One of the three has a p value to correct.
    assert "beyond chance among the 1 of its column together" in differences


@pytest.mark.usefixtures("no_picture")
def test_what_is_not_beyond_chance_is_so_among_those_with_an_interval(tmp_path):
    values = {
        "iou": {0: 0.300, 1: 0.320, 2: 0.340},
        "giou": {0: 0.310, 1: 0.336, 2: 0.360},
        "diou": {0: 0.30, 1: 0.35, 2: 0.33},
        "sca": {0: 0.35},
    }
    text, _ = report_of(values, tmp_path)
    assert "by its own interval; not beyond chance among 2 comparisons" in text
    assert "among the 2 of its column together" in text


@pytest.mark.usefixtures("no_picture")
def test_a_column_that_fewer_variants_have_says_so(tmp_path):
    variants = tuple(Variant(name, {}) for name in ("iou", "giou", "sca"))
    runs = plan(variants, [0, 1], [], tmp_path, "val")
    for number, run in enumerate(runs):
        finished_run(run, 0.3 + number / 100, ap_small=None if run.variant.name == "sca" else 0.1 + number**2 / 100)
    text = write_report(runs, Recipe("", "iou", variants), tmp_path, "the command").read_text()
    assert "among the 2 of its column together, the 1 of ap_small (p below" in text


def test_some_variants_of_a_recipe_are_compared_alone(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("variants: {base: {}, sca: {box_loss: sca}, iou: {box_loss: iou}}\n")
    given = ["--recipe", str(recipe), "--data", "my.yaml", "--only", "iou", "base"]
    config, shared, read = read_flags(given)
    assert [variant.name for variant in read.variants] == ["base", "iou"] and read.baseline == "base"
    assert parse_flags(shlex.split(command_of(config, shared))[3:]) == (config, shared)
    _, _, other = read_flags([*given, "--baseline", "iou"])
    assert (other.baseline, len(other.variants)) == ("iou", 2)
    lists = ["--losses", "iou", "sca", "--assigners", "anchor_ratio", "ggiou", "--only", "sca-ggiou", "iou-ggiou"]
    found = recipe_of(parse_flags([*lists, "--baseline", "iou-ggiou"])[0])
    assert [variant.name for variant in found.variants] == ["iou-ggiou", "sca-ggiou"]
    for wrong, message in (
        (["--only", "base", "sac"], "--only sac; did you mean 'sca'"),
        (["--only", "sca", "iou"], "--only leaves out base, which the others are compared with: see --baseline"),
    ):
        with pytest.raises(UserError, match=message):
            read_flags([*given[:4], *wrong])
    with pytest.raises(UserError, match="--only has no effect with --report-only alone"):
        read_flags(["--report-only", "--into", str(tmp_path), "--only", "base"])


def test_the_command_in_a_report_means_the_same_comparison():
    arguments = ["--losses", "iou", "sca", "--split", "test", "--data", "my.yaml", "--epochs", "3", "--set", "box=0.1"]
    config, shared = parse_flags(arguments)
    command = shlex.split(command_of(replace(config, report_only=True), shared))
    assert command[:3] == ["python", "-m", "studies.compare"]
    assert parse_flags(command[3:]) == (config, shared)


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


@pytest.mark.slow
def test_a_comparison_that_was_killed_is_gone_on_with_while_its_trainer_ends(tmp_path, small_shapes):
    into = tmp_path / "runs"
    command = [sys.executable, "-m", "studies.compare", "--losses", "iou", "--seeds", "0", "--into", str(into)]
    command += ["--threads", "1", "--data", str(small_shapes), *FAST, "--epochs", "12"]
    rows = into / "iou-anchor_ratio" / "seed0" / "results.csv"
    with subprocess.Popen(command, cwd=ROOT) as first:
        while not rows.is_file():
            assert first.poll() is None
            time.sleep(0.05)
        first.kill()
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert "iou-anchor_ratio seed 0: done" in again.stdout
    log = (into / "iou-anchor_ratio" / "seed0.log").read_text()
    assert "SIGTERM: stopped; " in log
    assert "another process writes" not in log + again.stderr
    assert [int(row["epoch"]) for row in csv.DictReader(rows.open())] == list(range(1, 13))


@pytest.mark.parametrize("given", [["--device", "cpu"], ["--device=cpu"], []])
def test_a_run_is_scored_on_the_device_that_trained_it(given, tmp_path):
    """The last one counts, as for train.py."""
    (run,) = plan([Variant("a", {})], [0], ["--device", "cuda", "--cache", *given], tmp_path, "test")
    command = scoring(run)
    assert val_flags(command[1:])["device"] == ("cpu" if given else "cuda")


def test_a_failed_run_is_named_after_the_rest(tmp_path, small_shapes):
    config = CompareConfig(losses=("iou",), seeds=(0,), into=str(tmp_path / "runs"))
    (tmp_path / "none.pt").write_text("no weights at all")
    with pytest.raises(CommandError, match="1 of 1 runs failed"):
        compare(config, ["--data", str(small_shapes), *FAST, "--weights", str(tmp_path / "none.pt")], "the command")
    assert "none.pt" in (tmp_path / "runs" / "iou-anchor_ratio" / "seed0.log").read_text()
    assert not (tmp_path / "runs" / "report.md").exists()
