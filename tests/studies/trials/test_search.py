"""tune.py: what it may try, what it finds, and that no trial is lost or made twice."""

import contextlib
import csv
import itertools
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace

import optuna
import pytest
import yaml

from data.open.any_layout import open_data_set
from engine.settings.configure import plan_run
from studies.compare import parse_flags as compare_flags
from studies.comparison.recipe import as_flags, read_recipe
from studies.trials.search import Search, check_metric, count_parameters, open_search, run_search
from studies.trials.search_report import best_yaml, train_command, write_search_report
from studies.trials.space import check_space, choose, config_of, out_of_reach, present_values, read_space
from tests.paths import ROOT
from tests.processes import end_group
from tests.studies.trials.stub_search import search, stub_steps
from tests.studies.trials.stub_worker import FAST
from tests.studies.trials.test_workers import wait_for
from train import parse_flags as train_flags
from tune import parse_flags, tune, without_storage
from utils.config.knobs import TuneConfig
from utils.errors import CommandError, UserError

BAD_START = ["--set", "lr0=1e-7"]


def flags(into, data, *more, trials=8, search=("lr0=1e-7..1:log",)):
    """The flags of a search."""
    return [
        "--into",
        str(into),
        "--data",
        str(data),
        "--trials",
        str(trials),
        "--epochs",
        "4",
        "--search",
        *search,
        *more,
    ]


def table(into):
    """The rows of trials.csv."""
    with (into / "trials.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ("lr=0.1..1", "unknown key 'lr'"),
        ("name=a,b", "unknown key 'name'"),
        ("lr0", "expected KEY=LOW..HIGH"),
        ("lr0=1..x", "expected two numbers, such as lr0=0.1..0.5"),
        ("lr0=0.1..0.01", "expected a low end below the high one"),
        ("box=0..1:log", "both above 0 for :log"),
        ("lr0=1..20", "lr0 is 20"),
        ("box_loss=iou,scaloss", "box_loss is 'scaloss'; did you mean 'sca'"),
        ("box_loss=1..2", "box_loss is '1'"),
        ("val=0..0.5", "val decides on which photos or labels a run is measured, .*: expected one --val for all"),
        ("data=one.yaml,two.yaml", "data decides on which photos"),
        ("bad_labels=mend,skip", "expected one --bad-labels for all"),
        ("max_pixels=1000..2000", "max_pixels decides on which photos"),
    ],
)
def test_mistakes_in_the_search_are_named(search, message):
    with pytest.raises(UserError, match=message):
        parse_flags(["--search", search])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epoch", "3"], "unknown flag --epoch; did you mean '--epochs'"),
        (["--name", "x"], "--name is set for every run"),
        (["--loss", "sca", "--search", "box_loss=iou,sca"], "--loss: --search tries it already"),
        (["--search", "lr0=1e-3..0.1", "lr0=0.1,0.2"], "lr0 stands there twice"),
    ],
)
def test_mistakes_in_the_flags_are_named(arguments, message):
    with pytest.raises(UserError, match=message):
        parse_flags(arguments)


def test_a_key_that_no_run_reads_is_named(small_shapes):
    shared = ["--data", str(small_shapes)]
    with pytest.raises(UserError, match="sca_alpha: no run reads it; it is read by --loss sca"):
        check_space(read_space(["sca_alpha=0.1..1"]), shared)
    check_space(read_space(["sca_alpha=0.1..1", "box_loss=iou,sca"]), shared)
    with pytest.raises(UserError, match="expected multiples of"):
        check_space(read_space(["imgsz=100,128"]), shared)


@pytest.mark.parametrize(
    ("searches", "given"),
    [
        (["ggiou_gamma=0.1..1", "ggiou_wloc=1..3"], []),
        (["ggiou_gamma=0.1..1", "balance_metric=iou,ggiou"], []),
        (["warmup_epochs=0..3", "warmup_bias_lr=0..0.1"], ["warmup_epochs=0"]),
        (["mosaic=0..1", "close_mosaic=0..6", "mixup=0..0.5"], ["mosaic=0"]),  # six epochs: all without mosaic
        (["ggiou_gamma=0.1..1", "balance_metric=iou,ggiou", "ggiou_alpha=0.1..0.5"], []),
    ],
)
def test_a_range_may_make_another_key_readable(searches, given, small_shapes):
    shared = ["--data", str(small_shapes), "--epochs", "6", *(part for each in given for part in ("--set", each))]
    for space in (read_space(searches), read_space(searches[::-1])):
        check_space(space, shared)
    unread = read_space([*searches, "sca_alpha=0.1..1"])
    with pytest.raises(UserError, match="sca_alpha: no run reads it"):
        check_space(unread, shared)


def test_a_chain_of_keys_that_read_each_other_is_chosen_in_any_order(tmp_path, small_shapes):
    """GGIoU's alpha is read where the weight is by GGIoU, and the weight's metric where there is a weight."""
    (tmp_path / "mine.yaml").write_text("balance_metric: iou\n")
    shared = ["--data", str(small_shapes), "--hyp", str(tmp_path / "mine.yaml")]
    chain = ("ggiou_alpha=.1,.5", "balance_metric=iou,ggiou", "ggiou_gamma=.5,1")
    for searches in itertools.permutations(chain):
        chosen = choose(read_space(searches), LastOfAll(), shared)
        assert chosen == {"ggiou_alpha": 0.5, "balance_metric": "ggiou", "ggiou_gamma": 1}


def test_the_first_trial_is_what_the_flags_say(small_shapes):
    space = read_space(["lr0=1e-4..0.1:log", "box_loss=ciou,sca", "batch_size=2..32", "sca_alpha=0.7..1"])
    shared = ["--data", str(small_shapes), "--set", "lr0=0.002", "--batch-size", "8"]
    assert present_values(space, shared) == {"lr0": 0.002, "box_loss": "ciou", "batch_size": 8}
    assert out_of_reach(space, shared) == {}  # .5 is out of the range of sca_alpha, which only SCALoss reads
    space = read_space(["lr0=0.01..0.1", "box=0.05..1", "close_mosaic=0..4", "box_loss=giou,sca"])
    assert out_of_reach(space, shared) == {"lr0": 0.002, "close_mosaic": -1, "box_loss": "ciou"}


def test_a_start_that_the_search_cannot_try_is_no_trial(tmp_path, small_shapes, capsys):
    """Neither is a random trial taken for it, nor kept from being stopped."""
    arguments = flags(tmp_path, small_shapes, trials=2, search=("lr0=1e-7..1:log", "box=0.5..1"))
    study = search(arguments)
    assert (
        "note: --search does not hold box=0.05: no trial has the settings without a search" in capsys.readouterr().out
    )
    config, shared, space = parse_flags(arguments)
    write_search_report(study, config, shared, "the command")
    assert "The settings without a search" not in (tmp_path / "report.md").read_text()
    assert [row["folder"] for row in table(tmp_path)] == ["trial000", "trial001"]
    assert Search(study, config, shared, space, stub_steps(0)).kept == ""
    assert Search(study, config, shared, read_space(["lr0=1e-7..1:log"]), stub_steps(0)).kept == "trial000"


@pytest.mark.parametrize(
    "pair",
    [
        ["focaler_low=0.1,0.96", "focaler_high=0.5,0.97"],  # the only value that .96 is below
        ["focaler_high=0.5,0.97", "focaler_low=0.1,0.96"],
        ["focaler_low=0.1,0.96", "focaler_high=0.9..0.99"],
        ["focaler_low=0.1..0.99", "focaler_high=0.2..0.99"],
    ],
)
def test_two_keys_that_bound_each_other_are_searched_together(pair, tmp_path, small_shapes):
    """Also where a value would contradict the present one of the other; what contradicts is left out, and told."""
    shared = ["--data", str(small_shapes), "--loss", "focaler_iou"]
    space = read_space([pair[0], "ggiou_alpha=0.1..0.5", pair[1]])
    with pytest.raises(UserError, match="ggiou_alpha: no run reads it"):
        check_space(space, shared)
    check_space(read_space(pair), shared)
    study = search(flags(tmp_path, small_shapes, "--loss", "focaler_iou", "--no-prune", trials=8, search=pair))
    by_state = {"COMPLETE": [], "PRUNED": []}
    for trial in study.trials():
        chosen = trial.user_attrs["settings"]
        by_state[trial.state.name].append(chosen["focaler_low"] < chosen["focaler_high"])
    assert all(by_state["COMPLETE"]) and not any(by_state["PRUNED"]) and by_state["COMPLETE"]


def test_a_trial_whose_settings_contradict_each_other_is_left_out_with_a_line(tmp_path, small_shapes, capsys):
    arguments = flags(tmp_path, small_shapes, "--loss", "focaler_iou", trials=1, search=("focaler_low=0.1..0.99",))
    config, shared, space = parse_flags(arguments)
    study = open_search(config, shared, space)
    study.study.enqueue_trial({"focaler_low": 0.97})
    with pytest.raises(CommandError, match="no trial succeeded"):
        run_search(study, config, shared, space, stub_steps(0))
    (trial,) = study.trials()
    assert trial.state.name == "PRUNED" and trial.user_attrs["settings"] == {"focaler_low": 0.97}
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("trial000: ")]
    assert said == ["trial000: left out, --set: focaler_low 0.97 is not below focaler_high 0.95: expected low < high"]
    assert not (tmp_path / "trial000").exists()


def test_a_choice_that_fits_no_other_is_named(small_shapes):
    shared = ["--data", str(small_shapes), "--loss", "focaler_iou"]
    with pytest.raises(UserError, match="focaler_low 0.98 is not below focaler_high"):
        check_space(read_space(["focaler_low=0.1,0.98", "focaler_high=0.5,0.97"]), shared)


class LastOfAll:
    """Stands in for a trial of Optuna: takes the last choice, and the high end of a range."""

    def suggest_categorical(self, name, choices):
        return choices[-1]

    def suggest_float(self, name, low, high, *, log=False):
        return high


@pytest.mark.parametrize(
    ("searches", "last"),
    [
        (["mosaic_from=all,batch", "mosaic=1,0"], {"mosaic": 0}),
        (["mixup=0,.5", "mosaic_from=all,batch", "mosaic=1,0", "close_mosaic=2,3"], {"mosaic": 0}),
        (["mosaic_from=all,batch", "mosaic=0,1"], {"mosaic": 1, "mosaic_from": "batch"}),
        (["sca_alpha=.5,1", "box_loss=ciou,sca"], {"box_loss": "sca", "sca_alpha": 1}),
    ],
)
def test_a_key_is_left_out_where_another_leaves_it_unread_in_any_order(searches, last, small_shapes):
    shared = ["--data", str(small_shapes)]
    for space in (read_space(searches), read_space(searches[::-1])):
        check_space(space, shared)
        assert choose(space, LastOfAll(), shared) == last


@pytest.mark.parametrize(("metric", "hint"), [("ap_75", "did you mean 'ap75'"), ("loss", "expected one of: ap, ")])
def test_a_measure_that_no_run_reports_is_named_before_a_study_is_made(metric, hint, tmp_path, small_shapes):
    arguments = flags(tmp_path / "new", small_shapes, "--metric", metric, trials=1)
    with pytest.raises(UserError, match=f"--metric {metric}: no run reports it; {hint}"):
        search(arguments)
    assert not (tmp_path / "new").exists()
    for known in ("ap75", "ap_ratio_from_4", "ap_rare"):
        check_metric(known)


def test_a_measure_of_which_less_is_better_is_not_searched_for(tmp_path, small_shapes):
    arguments = flags(tmp_path / "new", small_shapes, "--metric", "tide_localisation", trials=1)
    with pytest.raises(UserError, match="--metric tide_localisation: less of it is better, and a search maximises"):
        search(arguments)
    assert not (tmp_path / "new").exists()


def test_a_measure_without_objects_is_told_by_the_first_run_and_again(tmp_path, small_shapes):
    arguments = flags(tmp_path, small_shapes, "--metric", "ap_small", trials=2)
    for _ in range(2):
        with pytest.raises(UserError, match="--metric ap_small is undefined on val: it has no such objects"):
            search(arguments)
    assert [path.name for path in tmp_path.glob("trial*/metrics.json")] == ["metrics.json"]
    assert not (tmp_path / "trial001").exists()


def test_a_measure_of_the_end_alone_stops_no_run_and_says_so(tmp_path, small_shapes, capsys):
    arguments = flags(tmp_path, small_shapes, *BAD_START, "--metric", "ap_ratio_from_4", trials=12)
    study = search([*arguments, "--set", "warmup_epochs=0"])
    assert {trial.state.name for trial in study.trials()} == {"COMPLETE"}
    assert not any(trial.intermediate_values for trial in study.trials())
    said = capsys.readouterr().out
    assert said.count("note: ap_ratio_from_4 is not measured by epoch: no run is stopped early") == 1


def test_a_bad_start_is_left_behind(tmp_path, small_shapes):
    arguments = flags(tmp_path, small_shapes, *BAD_START, "--jobs", "2", trials=30)
    study = search(arguments, 0.1)
    config, shared, _ = parse_flags(arguments)
    path = write_search_report(study, config, shared, "the command")
    rows = table(tmp_path)
    assert len(rows) == 30
    assert {row["state"] for row in rows} == {"complete", "pruned"}, "Hyperband stopped none"
    assert float(rows[0]["lr0"]) == 1e-7
    # However far it falls behind, the start is what all others are compared with.
    assert (rows[0]["folder"], rows[0]["state"], rows[0]["epochs"]) == ("trial000", "complete", "4")
    # At lr0 = .01, the default, the stub's AP is 1; within a factor of three and a half of it above .97. Which trials
    # are proposed depends on which of two jobs at once ends first.
    assert study.study.best_value > 0.97
    assert float(rows[0]["ap"] or 0) < 0.1
    text = (tmp_path / "report.md").read_text()
    assert "The settings without a search (trial000) have -150.00." in text
    assert "30 trials" in text and f"--hyp {path}" in text and "lr0=1e-07" not in text.replace("the command", "")
    assert {each.name for each in tmp_path.iterdir() if each.is_file() and each.suffix not in (".json", ".log")} == {
        "report.md",
        "trials.csv",
        "best.yaml",
        "comparison.yaml",
        "figures.png",
        "trials.journal",
    }
    found = plan_run(train_flags([*as_flags({"data": str(small_shapes)}, ""), "--hyp", str(path)])).config.hyper
    best = config_of(shared, study.study.best_trial.user_attrs["settings"]).hyper
    assert found == best and 0.0028 < best.lr0 < 0.035


def commands_of(report):
    """The commands on a search's page, by the first words after python."""
    lines = (report / "report.md").read_text().splitlines()
    return {tuple(line.split()[1:3]): shlex.split(line)[1:] for line in lines if line.startswith("python ")}


def test_what_is_found_is_compared_with_the_start_by_one_command(tmp_path, small_shapes):
    """With the same flags, new seeds, and a loss and assignment that a recipe has as hyperparameters."""
    given = ["--loss", "sca", "--assign=ggiou", "--seed", "3", "--set", "cls=0.4", "--set", "lr0=0.001", "--no-prune"]
    keys = ("lr0=1e-4..1:log", "min_positives=1..9")
    study = search(flags(tmp_path, small_shapes, *given, trials=3, search=keys))
    config, shared, _ = parse_flags(flags(tmp_path, small_shapes, *given, trials=3, search=keys))
    write_search_report(study, config, shared, "the command")
    command = commands_of(tmp_path)["-m", "studies.compare"]
    compared, others = compare_flags(command[2:])
    assert compared.seeds == (4, 5, 6, 7, 8) and compared.into == f"{tmp_path.as_posix()}/comparison"
    assert compared.split == "val"  # these pictures have no test split
    recipe = read_recipe(compared.recipe)
    assert recipe.baseline == "start" and [each.name for each in recipe.variants] == ["start", "found"]
    start, found = (plan_run(train_flags([*others, *each.arguments()])).config.hyper for each in recipe.variants)
    best = config_of(shared, study.study.best_trial.user_attrs["settings"])
    assert found == best.hyper and start == config_of(shared, {}).hyper
    assert (start.box_loss, start.assigner, start.cls, start.lr0) == ("sca", "ggiou", 0.4, 0.001)


@pytest.mark.parametrize(
    ("given", "settings"),
    [
        (["--data", "DATA", "--cfg", "retinanet_resnet18_fpn"], {"nominal_batch": 32, "lr0": 0.02}),
        # The defaults of YOLOv3, over the detector's own.
        (["--data", "DATA", "--cfg", "retinanet_resnet18_fpn", "--set", "box_loss=ciou"], {"nominal_batch": 64}),
        # The demo's optimiser, which this detector leaves out beside a --hyp.
        (["--cfg", "retinanet_resnet18_fpn"], {"lr0": 0.002}),
        (["--data", "DATA"], {"hyp": "ggiou", "lr0": 0.02}),
    ],
)
def test_what_is_found_is_trained_by_one_command(given, settings, tmp_path, small_shapes, monkeypatch):
    monkeypatch.setattr("engine.settings.configure.open_data", lambda *_: open_data_set(str(small_shapes), tmp_path))
    shared = [str(small_shapes) if part == "DATA" else part for part in given]
    best = optuna.create_trial(value=0.5, user_attrs={"settings": settings})
    config = TuneConfig(into=str(tmp_path))
    (tmp_path / "best.yaml").write_text(best_yaml(best, config, shared))
    found = plan_run(train_flags(shlex.split(train_command(best, config, shared))[2:])).config
    wanted = config_of(shared, settings)
    assert (found.hyper, found.model) == (wanted.hyper, wanted.model)
    assert replace(found.run, hyp="") == replace(wanted.run, hyp="")


def test_the_comparison_is_scored_on_a_test_split_where_there_is_one(tmp_path, small_shapes):
    data = tmp_path / "with_test.yaml"
    values = yaml.safe_load(small_shapes.read_text()) | {"path": str(small_shapes.parent)}
    data.write_text(yaml.safe_dump(values | {"test": values["val"]}))
    study = search(flags(tmp_path, data, trials=1))
    config, shared, _ = parse_flags(flags(tmp_path, data, trials=1))
    write_search_report(study, config, shared, "the command")
    assert compare_flags(commands_of(tmp_path)["-m", "studies.compare"][2:])[0].split == "test"


def test_a_search_of_flags_leaves_no_recipe(tmp_path, small_shapes):
    study = search(flags(tmp_path, small_shapes, trials=1, search=("batch_size=4,8",)))
    config, shared, _ = parse_flags(flags(tmp_path, small_shapes, trials=1, search=("batch_size=4,8",)))
    write_search_report(study, config, shared, "the command")
    assert not (tmp_path / "comparison.yaml").exists()
    assert set(commands_of(tmp_path)) == {("train.py", "--data")}


@pytest.mark.parametrize(
    ("epochs", "warmup", "first"), [("20", "3", 3), ("20", "2.5", 3), ("7", "3", 2), ("20", "0", 1), ("2", "3", 1)]
)
def test_runs_are_first_compared_after_their_warm_up(epochs, warmup, first, tmp_path, small_shapes):
    arguments = ["--into", str(tmp_path), "--data", str(small_shapes), "--epochs", epochs]
    config, shared, space = parse_flags([*arguments, "--set", f"warmup_epochs={warmup}"])
    study = open_search(config, shared, space).study
    stopped = []
    for value in (1.0, 0.5, 0.1) * 8:  # in every bracket of Hyperband's, which a trial's number decides
        trial = study.ask({"lr0": optuna.distributions.FloatDistribution(1e-4, 1)})
        for epoch in range(1, int(epochs) + 1):
            trial.report(value, epoch)
            if trial.should_prune():
                stopped.append(epoch)
                break
    assert min(stopped) == first


def test_runs_of_different_lengths_are_not_compared_midway(tmp_path, small_shapes, capsys):
    """Where epochs are searched a run that falls behind goes to its end, for it may be a longer one."""
    arguments = ["--into", str(tmp_path), "--data", str(small_shapes), "--search", "epochs=2..20", "lr0=1e-4..1"]
    config, shared, space = parse_flags(arguments)
    study = open_search(config, shared, space).study
    assert "--search tries epochs, so no run is stopped early" in capsys.readouterr().out
    for value in (1.0, 0.5, 0.1) * 8:
        trial = study.ask({"lr0": optuna.distributions.FloatDistribution(1e-4, 1)})
        for epoch in range(1, 21):
            trial.report(value, epoch)
            assert not trial.should_prune()


def test_the_limit_of_seconds_stops_no_run_after_its_own_last_epoch(tmp_path, small_shapes):
    """Without the search's choice a run has 100 epochs; the stub makes four, and says that they take 40 seconds."""
    arguments = ["--into", str(tmp_path), "--data", str(small_shapes), "--trials", "2", "--max-seconds", "35"]
    config, shared, space = parse_flags([*arguments, "--search", "epochs=3,4"])
    study = open_search(config, shared, space, FAST)
    run_search(study, config, shared, space, stub_steps(0.4))
    assert {trial.state.name for trial in study.trials()} == {"COMPLETE"}


def test_keys_are_tried_where_something_reads_them(tmp_path, small_shapes):
    keys = ("box_loss=iou,sca", "sca_alpha=0.2..1")
    study = search(flags(tmp_path, small_shapes, "--no-prune", search=keys))
    chosen = [trial.user_attrs["settings"] for trial in study.trials()]
    assert {each["box_loss"] for each in chosen} == {"iou", "sca"}
    assert all(("sca_alpha" in each) == (each["box_loss"] == "sca") for each in chosen)


def test_a_run_that_takes_too_long_is_stopped_and_never_the_best(tmp_path, small_shapes):
    """The stub's epochs say that they take 10 seconds each."""
    with pytest.raises(CommandError, match="no trial succeeded"):
        search(flags(tmp_path, small_shapes, "--max-seconds", "15", "--no-prune", trials=2), 0.4)
    config, shared, _ = parse_flags(flags(tmp_path, small_shapes, "--max-seconds", "15", "--no-prune", trials=2))
    with pytest.raises(CommandError, match="no trial has finished within the constraints"):
        write_search_report(open_search(config, shared, ()), config, shared, "the command")
    assert [(row["state"], row["within_constraints"]) for row in table(tmp_path)] == [("pruned", "False")] * 2


def test_a_detector_with_too_many_parameters_is_not_trained(tmp_path, small_shapes):
    narrow = ["--set", "channels=[8,8,16,16,32,32,64]"]
    size = count_parameters(config_of(["--data", str(small_shapes), *narrow], {}))
    assert size < count_parameters(config_of(["--data", str(small_shapes)], {}))
    study = search(flags(tmp_path / "fits", small_shapes, *narrow, "--max-parameters", str(size), trials=1))
    assert study.study.best_trial.user_attrs["parameters"] == size
    with pytest.raises(CommandError, match="no trial succeeded"):
        search(flags(tmp_path / "not", small_shapes, *narrow, "--max-parameters", str(size - 1), trials=1))
    assert not (tmp_path / "not" / "trial000").exists()


def test_another_search_in_the_same_folder_is_refused(tmp_path, small_shapes):
    search(flags(tmp_path, small_shapes, trials=1))
    search(flags(tmp_path, small_shapes, trials=2))
    with pytest.raises(UserError, match="holds another search"):
        search(flags(tmp_path, small_shapes, "--set", "box=0.1", trials=2))


def test_trials_of_another_search_are_not_taken_for_its_own(tmp_path, small_shapes):
    """In a copied folder, with another storage, without the journal; twice, as nothing is left behind."""
    search(flags(tmp_path / "first", small_shapes, trials=1))
    shutil.copytree(tmp_path / "first", tmp_path / "second")
    database = ["--storage", f"sqlite:///{tmp_path / 'trials.db'}"]
    for into, *more in [("second", "--set", "box=0.1"), ("first", *database)] * 2:
        with pytest.raises(UserError, match="holds trials of a search that .* does not know"):
            search(flags(tmp_path / into, small_shapes, *more, trials=2))
    assert len(search(flags(tmp_path / "first", small_shapes, trials=2)).trials()) == 2
    (tmp_path / "first" / "trials.journal").unlink()
    with pytest.raises(UserError, match="holds trials of a search that .*trials.journal does not know"):
        search(flags(tmp_path / "first", small_shapes, trials=2))
    assert not (tmp_path / "first" / "trials.journal").exists()


def test_a_trial_s_folder_that_was_asked_for_differently_is_refused(tmp_path, small_shapes):
    arguments = flags(tmp_path, small_shapes, trials=1)
    config, shared, space = parse_flags(arguments)
    open_search(config, shared, space)
    asked = tmp_path / "trial000.json"
    asked.write_text('{"arguments": ["--epochs", "99"]}')
    for _ in range(2):
        with pytest.raises(UserError, match="trial000 holds another run"):
            search(arguments)
    assert not (tmp_path / "trial000").exists()
    asked.unlink()
    done = [trial for trial in search(arguments).trials() if trial.state.name == "COMPLETE"]
    assert [trial.user_attrs["folder"] for trial in done] == ["trial000"]


def test_a_report_of_no_search_makes_none(tmp_path, small_shapes):
    arguments = ["--report-only", "--into", str(tmp_path / "new"), "--data", str(small_shapes)]
    with pytest.raises(UserError, match="new holds no search"):
        tune(*parse_flags(arguments), "the command")
    assert not (tmp_path / "new").exists()


@contextlib.contextmanager
def processes(count, arguments, seconds):
    """Processes that share a search."""
    command = [sys.executable, "-m", "tests.studies.trials.stub_search", str(seconds), *arguments]
    going = [subprocess.Popen(command, cwd=ROOT, start_new_session=True) for _ in range(count)]
    try:
        yield going
    finally:
        for process in going:
            end_group(process)


def check_every_trial_happened_once(into, study, count):
    """As many trials as asked for, each in a folder of its own that was finished once."""
    done = [trial for trial in study.trials() if trial.state.name == "COMPLETE"]
    assert len(done) == count
    folders = [trial.user_attrs["folder"] for trial in done]
    assert len(set(folders)) == count
    for name in folders:
        lines = (into / name / "diary.txt").read_text().splitlines()
        assert lines.count("finish") == 1
        assert [line for line in lines if line.startswith("epoch")] == [f"epoch {number}" for number in range(1, 5)]
    settings = [str(trial.user_attrs["settings"]) for trial in done]
    assert len(set(settings)) == count


def test_a_search_that_was_killed_loses_no_trial_and_two_share_one(tmp_path, small_shapes):
    arguments = flags(tmp_path, small_shapes, "--no-prune", trials=6)
    with processes(1, arguments, 0.3) as (process,):
        wait_for(lambda: (tmp_path / "trial001" / "diary.txt").is_file())
        wait_for(lambda: "epoch 2" in (tmp_path / "trial001" / "diary.txt").read_text())
        end_group(process)
    with processes(2, arguments, 0.1) as going:
        assert [process.wait(timeout=600) for process in going] == [0, 0]
    study = search(arguments)
    check_every_trial_happened_once(tmp_path, study, 6)
    assert (tmp_path / "trial001" / "diary.txt").read_text().count("start") == 2


def test_the_storage_s_password_stays_out_of_the_report():
    given = ["--trials", "3", "--storage", "postgresql://me:secret@host/base", "--storage=secret", "--epochs", "2"]
    assert without_storage(given) == ["--trials", "3", "--epochs", "2"]


@pytest.mark.slow
def test_tune_with_trainings(tmp_path, small_shapes):
    fast = ["--imgsz", "64", "--batch-size", "4", "--workers", "0", "--device", "cpu", "--amp", "off", "--no-plots"]
    channels = ["--set", "channels=[8,8,16,16,32,32,64]"]
    arguments = flags(tmp_path, small_shapes, *fast, *channels, "--jobs", "2", "--threads", "1", trials=3)
    config, shared, space = parse_flags(arguments)
    path = tune(config, shared, space, "the command")
    assert path.is_file() and len(table(tmp_path)) == 3
    assert all((tmp_path / f"trial{number:03d}" / "weights" / "last.pt").is_file() for number in range(3))
