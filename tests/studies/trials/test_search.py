"""tune.py: what it may try, what it finds, and that no trial is lost or made twice."""

import contextlib
import csv
import shlex
import subprocess
import sys

import optuna
import pytest
import yaml

from engine.settings.configure import plan_run
from studies.compare import parse_flags as compare_flags
from studies.comparison.recipe import as_flags, read_recipe
from studies.trials.search import count_parameters, open_search
from studies.trials.search_report import write_search_report
from studies.trials.space import check_space, config_of, read_space, start_of
from tests.paths import ROOT
from tests.processes import end_group
from tests.studies.trials.stub_search import search
from tests.studies.trials.test_workers import wait_for
from train import parse_flags as train_flags
from tune import parse_flags, tune, without_storage
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


def test_the_first_trial_is_what_the_flags_say(small_shapes):
    space = read_space(
        ["lr0=1e-4..0.1:log", "box=0.5..1", "box_loss=ciou,sca", "close_mosaic=0..4", "batch_size=2..32"]
    )
    start = start_of(space, ["--data", str(small_shapes), "--set", "lr0=0.002", "--batch-size", "8"])
    assert start == {"lr0": 0.002, "box_loss": "ciou", "batch_size": 8}


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
    # At lr0 = .01, the default, the stub's AP is 1; within a factor of two of it above .99.
    assert study.study.best_value > 0.99
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
    assert found == best and abs(best.lr0 - 0.01) < 0.01


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
        assert [process.wait(timeout=120) for process in going] == [0, 0]
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
