"""The recipe of the best losses and assignments is chosen on the validation split, and can be run."""

import csv

import pytest
import yaml

from studies.combine import main, parse_flags, recipe_of
from studies.comparison.recipe import read_recipe
from tests.paths import ROOT
from utils.errors import UserError

SHARED = "--imgsz 64 --epochs 2 --cache --amp bf16 --data my/data.yaml"
LOSSES = {"ciou": "box_loss=ciou", "sca": "box_loss=sca sca_alpha=0.7", "giou": "box_loss=giou"}
ASSIGNERS = {"anchor_ratio": "assigner=anchor_ratio", "ggiou": "box_loss=ciou assigner=ggiou", "iou": "assigner=iou"}

SUM = "env.training_data.sha256"


def comparison(folder, variants, scores, baseline, shared=SHARED, digest=""):
    """A comparison's report and table: `scores` are AP by variant and seed on val; on test the order is reversed.

    A score that is a word is the state of a run without one. `digest` is the sum of the training data.
    """
    folder.mkdir()
    (folder / "report.md").write_text(f"# Comparison\n\n## Paired differences to {baseline}, points, 95% interval\n")
    with (folder / "runs.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["variant", "seed", "scored", "state", "flags", "ap", "ap75", "tide_localisation", SUM])
        for name, by_seed in scores.items():
            settings = " ".join(f"--set {each}" for each in variants[name].split())
            for seed, ap in by_seed.items():
                flags = f"{shared} {settings} --seed {seed}"
                if isinstance(ap, str):
                    writer.writerow([name, seed, "test", ap, flags, "", "", "", ""])
                    continue
                writer.writerow([name, seed, "val", "done", flags, ap, 1 - ap, ap / 10, digest])
                writer.writerow([name, seed, "test", "done", flags, 1 - ap, ap, (1 - ap) / 10, digest])
    return folder


@pytest.fixture
def folders(tmp_path):
    losses = {"ciou": {0: 0.1, 1: 0.2}, "sca": {0: 0.4, 1: 0.3}, "giou": {0: 0.3, 1: 0.3, 2: 0.9}}
    assigners = {"anchor_ratio": {0: 0.3}, "ggiou": {0: 0.2}, "iou": {0: 0.1}}
    return (
        comparison(tmp_path / "losses", LOSSES, losses, "ciou"),
        comparison(tmp_path / "assigners", ASSIGNERS, assigners, "anchor_ratio"),
    )


def config(folders, *flags):
    return parse_flags(["--losses", str(folders[0]), "--assigners", str(folders[1]), *flags])


def test_the_best_on_the_validation_split_are_combined_and_the_defaults_come_first(folders):
    """Over the seeds that all have, giou's third seed does not count."""
    recipe = recipe_of(config(folders, "--best", "1"))
    assert recipe["baseline"] == "ciou-anchor_ratio"
    assert recipe["variants"] == {
        "ciou-anchor_ratio": {"box_loss": "ciou", "assigner": "anchor_ratio"},
        "sca-anchor_ratio": {"box_loss": "sca", "sca_alpha": "0.7", "assigner": "anchor_ratio"},
    }
    assert recipe["train"] == {"imgsz": "64", "epochs": "2", "cache": True, "amp": "bf16"}
    assert "(2 and 1 seeds)" in recipe["description"]
    both = recipe_of(config(folders, "--best", "2"))["variants"]
    assert list(both) == [f"{loss}-{assigner}" for loss in ("ciou", "sca", "giou") for assigner in ASSIGNERS][:2] + [
        "sca-anchor_ratio",
        "sca-ggiou",
        "giou-anchor_ratio",
        "giou-ggiou",
    ]
    assert both["sca-ggiou"] == {"box_loss": "sca", "sca_alpha": "0.7", "assigner": "ggiou"}


def test_another_measure_chooses_others(folders):
    assert set(recipe_of(config(folders, "--best", "1", "--by", "ap75"))["variants"]) == {
        "ciou-anchor_ratio",
        "ciou-iou",
    }


def test_of_what_errors_cost_the_least_is_best(folders):
    assert set(recipe_of(config(folders, "--best", "1", "--by", "tide_localisation"))["variants"]) == {
        "ciou-anchor_ratio",
        "ciou-iou",
    }


def test_a_measure_without_values_chooses_nothing(folders):
    table = folders[0] / "runs.csv"
    header, *rows = csv.reader(table.open(newline=""))
    table.write_text("\n".join(",".join(row) for row in [header, *([*row[:6], "", *row[7:]] for row in rows)]) + "\n")
    with pytest.raises(UserError, match=r"--by ap75: .*losses has no values of it on the validation split"):
        recipe_of(config(folders, "--by", "ap75"))


def test_the_recipe_is_one_that_a_comparison_takes(folders, tmp_path, monkeypatch, capsys):
    into = tmp_path / "new" / "folder" / "combined.yaml"
    flags = ["--losses", str(folders[0]), "--assigners", str(folders[1]), "--into", str(into)]
    monkeypatch.setattr("sys.argv", ["combine", *flags])
    assert main() == 0
    assert "9 variants, ciou-anchor_ratio is the baseline" in capsys.readouterr().out
    recipe = read_recipe(str(into))
    assert recipe.train == ("--imgsz", "64", "--epochs", "2", "--cache", "--amp", "bf16")
    arguments = next(each.arguments() for each in recipe.variants if each.name == "sca-ggiou")
    assert arguments == ["--set", "box_loss=sca", "--set", "sca_alpha=0.7", "--set", "assigner=ggiou"]
    with pytest.raises(UserError, match="is there already"):
        main()
    assert yaml.safe_load(into.read_text())["variants"]


def test_what_cannot_be_combined_is_one_line(folders, tmp_path):
    with pytest.raises(UserError, match=r"--by ap7.*ap75"):
        recipe_of(config(folders, "--by", "ap7"))
    with pytest.raises(UserError, match=r"nowhere: expected report.md and runs.csv"):
        recipe_of(config((tmp_path / "nowhere", folders[1])))
    other = comparison(tmp_path / "longer", ASSIGNERS, {"iou": {0: 0.1}}, "iou", SHARED.replace("2", "3"))
    with pytest.raises(UserError, match="expected the same flags"):
        recipe_of(config((folders[0], other)))
    apart = comparison(tmp_path / "apart", LOSSES, {"ciou": {0: 0.1}, "sca": {1: 0.1}}, "ciou")
    with pytest.raises(UserError, match="no seed in common"):
        recipe_of(config((apart, folders[1])))
    clash = comparison(tmp_path / "clash", {"sca": "sca_alpha=0.1 assigner=iou"}, {"sca": {0: 0.1}}, "sca")
    with pytest.raises(UserError, match=r"sca sets sca_alpha=0.7, sca sets sca_alpha=0.1"):
        recipe_of(config((folders[0], clash)))


def test_the_assigner_that_all_losses_share_gives_way(folders, tmp_path):
    """`studies.compare --losses` writes it into each run, as --assigners does with the box loss."""
    lists = {"ciou-iou": "box_loss=ciou assigner=iou", "sca-iou": "box_loss=sca assigner=iou"}
    losses = comparison(tmp_path / "lists", lists, {"ciou-iou": {0: 0.2}, "sca-iou": {0: 0.3}}, "ciou-iou")
    found = recipe_of(config((losses, folders[1]), "--best", "1"))["variants"]
    assert found == {
        "ciou-iou-anchor_ratio": {"box_loss": "ciou", "assigner": "anchor_ratio"},
        "sca-iou-anchor_ratio": {"box_loss": "sca", "assigner": "anchor_ratio"},
    }
    with pytest.raises(UserError, match="anchor_ratio has assigner=anchor_ratio, ggiou has assigner=ggiou: expected"):
        recipe_of(config((folders[1], folders[1])))


def test_a_variant_without_a_finished_run_is_named(folders, tmp_path):
    unfinished = {"ciou": {0: 0.1}, "sca": {0: 0.2}, "giou": {0: "missing", 1: "diverged"}}
    for name, scores, who in (
        ("some", {**unfinished, "giou": {0: "missing"}}, "giou"),
        ("start", {**unfinished, "ciou": {0: "diverged"}}, "ciou"),
    ):
        folder = comparison(tmp_path / name, LOSSES, scores, "ciou")
        with pytest.raises(UserError, match=f"{name}: {who} has no finished run"):
            recipe_of(config((folder, folders[1])))
    lost = comparison(tmp_path / "lost", LOSSES, unfinished, "ciou")
    assert set(recipe_of(config((lost, folders[1]), "--best", "3"))["variants"]) == {
        f"{loss}-{assigner}" for loss in ("ciou", "sca") for assigner in ASSIGNERS
    }


def test_one_variant_that_diverged_costs_the_others_no_seed(folders, tmp_path, capsys):
    """sca has the highest mean over the seeds that it has; ciou is ahead with the other two."""
    scores = {"ciou": {0: 0.2, 1: 0.2, 2: 0.3}, "giou": {0: 0.3, 1: 0.1, 2: 0.1}}
    scores["sca"] = {0: 0.9, 1: "diverged", 2: "diverged"}
    some = comparison(tmp_path / "some", LOSSES, scores, "ciou")
    found = recipe_of(config((some, folders[1]), "--best", "2"))
    assert {name.partition("-")[0] for name in found["variants"]} == {"ciou", "giou"}
    assert "(3 and 1 seeds)" in found["description"]
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"note: {some}: sca is not among the best: its loss became infinite with seed 1, 2"]


def test_seeds_that_are_not_used_are_told(folders, tmp_path, capsys):
    recipe_of(config(folders))
    assert capsys.readouterr().out.splitlines() == [
        f"note: {folders[0]}: the choice is by 2 of 3 seeds: seed 2 is not finished with ciou, sca"
    ]
    start = {"ciou": {0: 0.2, 1: "diverged"}, "sca": {0: 0.1, 1: 0.3}}
    recipe_of(config((comparison(tmp_path / "start", LOSSES, start, "ciou"), folders[1])))
    assert "start: the choice is by 1 of 2 seeds: seed 1 is not finished with ciou\n" in capsys.readouterr().out


def test_comparisons_of_different_data_are_not_combined(tmp_path):
    def both(*given):
        folders = []
        for variants, (data, digest) in zip((LOSSES, ASSIGNERS), given, strict=True):
            first, shared = next(iter(variants)), SHARED.replace("my/data.yaml", data)
            folder = tmp_path / str(len(list(tmp_path.iterdir())))
            folders.append(comparison(folder, variants, {first: {0: 0.1}}, first, shared, digest))
        return recipe_of(config(folders))

    # What the data hold decides, else their name, wherever they lie.
    assert both(("steel/data.yaml", "a" * 64), ("moved/data.yaml", "a" * 64))
    assert both(("/here/steel/data.yaml", ""), ("steel/data.yaml", "a" * 64))
    assert both(("data.yaml", ""), ("steel/data.yaml", ""))
    with pytest.raises(UserError, match=r"steel/data.yaml \(sha256 aaaaaaaaaaaa\), .* steel/data.yaml \(sha256 bbbbbb"):
        both(("steel/data.yaml", "a" * 64), ("steel/data.yaml", "b" * 64))
    with pytest.raises(UserError, match=r"trained on cells/data.yaml, .* on steel/data.yaml.*: expected the same data"):
        both(("cells/data.yaml", ""), ("steel/data.yaml", "b" * 64))


def test_flags_of_every_spelling_come_into_the_recipe(tmp_path):
    shared = "--epochs=2 --img 64 --batch-size=8 --cache=device --no-plots --data=my/data.yaml --set=lr0=0.02"
    folders = [
        comparison(tmp_path / name, variants, {next(iter(variants)): {0: 0.1}}, next(iter(variants)), shared)
        for name, variants in (("losses", LOSSES), ("assigners", ASSIGNERS))
    ]
    found = recipe_of(config(folders))
    assert found["train"] == {"epochs": "2", "imgsz": "64", "batch_size": "8", "cache": "device", "plots": False}
    assert found["variants"]["ciou-anchor_ratio"] == {"lr0": "0.02", "box_loss": "ciou", "assigner": "anchor_ratio"}


def test_kept_results_can_be_combined():
    """What git has is enough: the tables of a comparison without its runs."""
    folders = [str(ROOT / "results" / name) for name in ("neu-det-losses", "neu-det-assigners")]
    assert recipe_of(config(folders, "--best", "1"))["baseline"] == "ciou-anchor_ratio"


def test_a_comparison_of_losses_and_assignments_at_once_is_refused(tmp_path):
    """Its assignments would be taken for losses, two variants of different names with the same settings."""
    folder = str(ROOT / "results" / "bccd")  # whose baseline leaves the assigner to the default
    with pytest.raises(UserError, match=r"bccd: ciou has assigner=anchor_ratio, assign-ggiou has assigner=ggiou: exp"):
        recipe_of(config((folder, folder), "--best", "1"))
    variants = {"default": "lr0=0.02", "sca": "lr0=0.02 box_loss=sca", "other": "lr0=0.02 box_loss=sca assigner=iou"}
    scores = {name: {0: 0.1} for name in variants}
    shared = SHARED + " --hyp retinanet --cfg retinanet_resnet18_fpn"
    both = comparison(tmp_path / "both", variants, scores, "default", shared)
    with pytest.raises(UserError, match="both: default has box_loss=l1, sca has box_loss=sca: expected one box_loss"):
        recipe_of(
            config(
                (comparison(tmp_path / "l", {"default": "lr0=0.02"}, {"default": {0: 0.1}}, "default", shared), both)
            )
        )


PLUGIN = "--model yolo26n.yaml --imgsz 64 --cache --data my/data.yaml"


def plugin_comparison(folder, variants, baseline, shared=PLUGIN):
    """A comparison's tables as a recipe with `trainer: ultralytics` leaves them: settings are flags of their own."""
    names = dict.fromkeys(variants, "lr0=1")
    comparison(folder, names, {name: {0: 0.1 * number} for number, name in enumerate(variants)}, baseline, shared)
    table = folder / "runs.csv"
    header, *rows = csv.reader(table.open(newline=""))
    for row in rows:
        row[4] = row[4].replace("--set lr0=1", variants[row[0]])
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return folder


def test_comparisons_inside_ultralytics_are_combined_for_ultralytics(tmp_path):
    losses = plugin_comparison(tmp_path / "losses", {"own": "", "sca": "--loss sca", "giou": "--loss=giou"}, "own")
    assigners = plugin_comparison(tmp_path / "assigners", {"own": "", "ggiou": "--assign ggiou"}, "own")
    into = tmp_path / "combined.yaml"
    into.write_text(yaml.safe_dump(recipe_of(config((losses, assigners))), sort_keys=False))
    recipe = read_recipe(str(into))
    assert recipe.trainer == "ultralytics" and recipe.baseline == "own-own"
    assert recipe.train == ("--model", "yolo26n.yaml", "--imgsz", "64", "--cache")
    assert {each.name: each.arguments() for each in recipe.variants} == {
        "own-own": [],
        "own-ggiou": ["--assign", "ggiou"],
        "sca-own": ["--loss", "sca"],
        "sca-ggiou": ["--loss", "sca", "--assign", "ggiou"],
        "giou-own": ["--loss", "giou"],
        "giou-ggiou": ["--loss", "giou", "--assign", "ggiou"],
    }


def test_ultralytics_and_train_py_are_not_combined(tmp_path, folders):
    alone = plugin_comparison(tmp_path / "alone", {"own": ""}, "own")
    for pair, said in (((alone, folders[1]), "ultralytics.*by train.py"), ((folders[0], alone), "train.py.*ultralyt")):
        with pytest.raises(UserError, match=f"was trained by {said}.*: expected the same trainer"):
            recipe_of(config(pair))


def test_a_comparison_inside_ultralytics_of_both_papers_at_once_is_refused():
    folder = str(ROOT / "results" / "neu-det-yolo26")
    with pytest.raises(UserError, match="ultralytics has assign=Ultralytics' own, .*ggiou has assign=ggiou: expected"):
        recipe_of(config((folder, folder)))
