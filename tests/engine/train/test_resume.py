"""Runs that are gone on with: whatever was lost, they end as if nothing had happened, or say what it was."""

import contextlib
import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engine.run_files import Records
from engine.settings.configure import plan_run
from engine.train.resume import change_of_schedule, changes, require_steps, resume_path, whole_best
from engine.train.trainer import Trainer
from tests.engine.train.test_stop_signals import rows_of
from train import parse_flags, train
from utils.checkpoint import load_checkpoint, save_checkpoint
from utils.config.knobs import Config
from utils.errors import CommandError, InterruptedRun, UserError

# Nothing is learnt, so AP never rises.
STILL = ["lr0=0", "warmup_bias_lr=0"]


class Killed(BaseException):
    """Stands in for SIGKILL: nothing of the product catches it."""


def damaged(path):
    path.write_bytes(path.read_bytes()[:1000])


def weights_of(folder, name="last.pt"):
    contents = load_checkpoint(folder / "weights" / name)
    return {part: contents[part] for part in ("model", "network") if part in contents}


def equal(first, second):
    return all(torch.equal(value, second[part][name]) for part in first for name, value in first[part].items())


@pytest.fixture(scope="module")
def made(small_shapes, tmp_path_factory):
    """Run folders that are made once: of four epochs, and of one that --patience has stopped after its third."""
    from tests.engine.conftest import NARROW

    flags = {
        "data": str(small_shapes), "imgsz": [64], "batch_size": 8, "workers": 0, "device": "cpu", "amp": "off",
        "plots": False, "project": str(tmp_path_factory.mktemp("made")), "set": [*NARROW, "nominal_batch=8"],
    }  # fmt: skip
    still = {**flags, "epochs": 9, "patience": 2, "set": [*flags["set"], *STILL]}
    return {"whole": train(**flags, epochs=4, name="whole"), "patient": train(**still, name="patient"), "still": still}


@pytest.fixture
def copied(made, tmp_path):
    """A copy of a run that may be spoilt."""
    return lambda name: Path(shutil.copytree(made[name], tmp_path / name))


@pytest.mark.parametrize("name", ["whole", "patient"])
def test_a_run_without_its_metrics_gets_its_final_validation_and_nothing_else(name, made, copied, capsys):
    folder = copied(name)
    (folder / "metrics.json").unlink()
    before = {each: (folder / each).read_bytes() for each in ("results.csv", "weights/last.pt", "weights/best.pt")}
    assert train(resume=str(folder)) == folder
    assert "what is left is the final validation" in capsys.readouterr().out
    assert json.loads((folder / "metrics.json").read_text()) == json.loads((made[name] / "metrics.json").read_text())
    assert before == {each: (folder / each).read_bytes() for each in before}
    with pytest.raises(UserError, match=r"all 4 epochs are done; --epochs N|AP has not risen for 2 .*new run"):
        train(resume=str(folder))


def test_patience_that_stopped_a_run_stays(copied):
    folder = copied("patient")
    assert len(rows_of(folder)) == 3
    before = (folder / "weights" / "last.pt").read_bytes()
    for more in ({}, {"epochs": 20}):
        with pytest.raises(UserError, match=r"AP has not risen for 2 epochs \(--patience\); start a new run"):
            train(resume=str(folder), **more)
    assert (folder / "weights" / "last.pt").read_bytes() == before


MOMENTS = {
    "before the row": (Records, "epoch", False),
    "between row and checkpoint": (Trainer, "save", False),
    "after the checkpoint": (Trainer, "save", True),
    "in the final validation": (Trainer, "finish", False),
    "before metrics.json": (Records, "finish", False),
}


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("number", [2, 3], ids=["the last but one", "the last"])
def test_a_kill_in_the_last_epochs_changes_nothing(moment, number, made, tmp_path, monkeypatch):
    kind, method, after = MOMENTS[moment]
    original, calls = getattr(kind, method), []

    def killed(self, *arguments, **keywords):
        calls.append(1)
        due = method == "finish" or len(calls) == number
        if due and not after:
            raise Killed
        result = original(self, *arguments, **keywords)
        if due:
            raise Killed
        return result

    with monkeypatch.context() as patch:
        patch.setattr(kind, method, killed)
        with pytest.raises(Killed):
            train(**{**made["still"], "project": str(tmp_path)})
    folder = train(resume=str(tmp_path / "exp"))
    assert rows_of(folder) == rows_of(made["patient"])
    assert equal(weights_of(folder), weights_of(made["patient"]))
    assert equal(weights_of(folder, "best.pt"), weights_of(made["patient"], "best.pt"))
    first, second = (json.loads((each / "metrics.json").read_text()) for each in (folder, made["patient"]))
    assert first == second


SPOILT = {
    "deleted": lambda path: path.unlink(),
    "emptied": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-300]),
    "garbled": lambda path: path.write_bytes(b"\xff\0epoch" + path.read_bytes()[40:]),
    "a changed number": lambda path: path.write_text(path.read_text().replace(".", "9", 1)),
    "rows of another run": lambda path: path.write_text("epoch,loss\n1,2\n2,3\n"),
}


@pytest.mark.parametrize("how", SPOILT)
def test_results_csv_is_written_anew_from_the_checkpoint(how, made, copied, capsys):
    folder = copied("whole")
    (folder / "metrics.json").unlink()
    SPOILT[how](folder / "results.csv")
    train(resume=str(folder))
    assert (folder / "results.csv").read_bytes() == (made["whole"] / "results.csv").read_bytes()
    said = capsys.readouterr().err
    assert said.count("written anew from the checkpoint") == 1 and "results.csv" in said


def test_a_damaged_results_csv_that_an_old_checkpoint_does_not_know_is_put_aside(copied, capsys):
    folder = copied("whole")
    last = folder / "weights" / "last.pt"
    contents = load_checkpoint(last)
    assert len(contents.pop("results")) == 4
    torch.save(contents, last)
    SPOILT["garbled"](folder / "results.csv")
    train(resume=str(folder), epochs=5)
    assert [row["epoch"] for row in rows_of(folder)] == ["5"]
    assert (folder / "results.damaged.csv").is_file()
    assert "put aside as results.damaged.csv" in capsys.readouterr().err


@pytest.mark.parametrize("how", [damaged, Path.unlink], ids=["damaged", "missing"])
@pytest.mark.parametrize("where", ["last.pt", "last_prev.pt", "nowhere"])
def test_a_lost_best_pt_is_said_at_once_and_made_anew_where_it_can_be(how, where, copied, monkeypatch, capsys):
    folder = copied("whole")
    weights = folder / "weights"
    (folder / "metrics.json").unlink()
    contents = load_checkpoint(weights / "last.pt")
    contents["best"] = {"ap": 0.99, "epoch": {"last.pt": 3, "last_prev.pt": 2, "nowhere": 0}[where]}
    save_checkpoint(weights / "last.pt", contents)
    how(weights / "best.pt")
    monkeypatch.setattr(Trainer, "validate", lambda self, *rest, **more: pytest.fail("validated before it was said"))
    with pytest.raises(pytest.fail.Exception):
        train(resume=str(folder))
    said = capsys.readouterr().err
    found = load_checkpoint(weights / "best.pt")
    source = load_checkpoint(weights / ("last_prev.pt" if where == "last_prev.pt" else "last.pt"))
    assert equal({"model": found["model"]}, {"model": source["model"]})
    assert found.keys() == {"format", "version", "config", "names", "epoch", "metrics", "model"}
    assert f"{'epoch 1 (AP 0.9900), the best, is lost' if where == 'nowhere' else 'made anew'}" in said
    assert (weights / "best_damaged.pt").exists() == (how is damaged)


@pytest.mark.parametrize("name", ["last.pt", "best.pt"])
def test_a_checkpoint_that_could_not_be_written_leaves_no_best_epoch_that_the_run_does_not_know(
    name, made, tmp_path, monkeypatch
):
    folder, validate = tmp_path / "exp", Trainer.validate

    def rising(self, *rest, **more):
        metrics = validate(self, *rest, **more)
        metrics.overall["ap"] = 0.1 * (self.start_epoch + 1)
        return metrics

    def refused(path, contents, **more):
        if (path.name, contents["epoch"]) == (name, 3):
            raise CommandError("no room")
        save_checkpoint(path, contents, **more)

    def epochs():
        parts = load_checkpoint(folder / "weights" / "best.pt"), load_checkpoint(folder / "weights" / "last.pt")
        return [*(part["epoch"] for part in parts), parts[1]["best"]["epoch"] + 1]

    monkeypatch.setattr(Trainer, "validate", rising)
    monkeypatch.setattr("engine.train.trainer.save_checkpoint", refused)
    with pytest.raises(CommandError, match="no room"):
        train(**{**made["still"], "project": str(tmp_path)})
    assert epochs() == ([2, 2, 2] if name == "last.pt" else [2, 3, 3])
    monkeypatch.setattr(Trainer, "one_epoch", lambda *rest: pytest.fail("was to be looked at before it trains"))
    with pytest.raises(pytest.fail.Exception):
        train(resume=str(folder))
    assert epochs() == ([2, 2, 2] if name == "last.pt" else [3, 3, 3])


def test_a_best_pt_of_an_epoch_that_the_run_does_not_know_is_put_aside(copied, capsys):
    weights = copied("whole") / "weights"
    contents = {**load_checkpoint(weights / "last.pt"), "best": {"ap": 0.2, "epoch": 0}}
    save_checkpoint(weights / "best.pt", {**load_checkpoint(weights / "best.pt"), "epoch": 9})
    assert whole_best(weights / "last.pt", contents)["epoch"] == 3
    assert [load_checkpoint(weights / name)["epoch"] for name in ("best.pt", "best_damaged.pt")] == [4, 9]
    said = capsys.readouterr().err
    assert "best.pt: of epoch 9; the run's best is epoch 1; epoch 1 (AP 0.2000), the best, is lost" in said


def test_a_run_whose_last_pt_is_gone_goes_on_from_the_one_before(made, copied, monkeypatch):
    monkeypatch.chdir(copied("whole").parent)
    Path("runs/train").mkdir(parents=True)
    Path("whole").rename("runs/train/x")
    Path("runs/train/x/weights/last.pt").unlink()
    assert resume_path("newest") == Path("runs/train/x/weights/last.pt")
    resumed = train(resume="newest")
    assert rows_of(resumed) == rows_of(made["whole"])
    assert equal(weights_of(resumed), weights_of(made["whole"]))


def test_the_metrics_of_an_earlier_end_do_not_pass_for_those_of_a_longer_run(copied, monkeypatch):
    folder = copied("whole")

    def killed(self, records):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "finish", killed)
        with pytest.raises(Killed):
            train(resume=str(folder), epochs=5)
    assert not (folder / "metrics.json").exists()
    train(resume=str(folder))
    assert (folder / "metrics.json").is_file()


@pytest.fixture
def dies(monkeypatch):
    """Lets every run die in its first epoch."""

    def killed(self, *rest):
        raise Killed

    monkeypatch.setattr(Trainer, "train_epoch", killed)


def in_its_place(folder, flags):
    return {**flags, "project": str(folder.parent), "name": folder.name, "exist_ok": True}


def test_a_new_run_in_the_folder_of_an_old_one_is_not_taken_for_it(copied, flags, dies):
    folder = copied("whole")
    (folder / "split").mkdir()
    (folder / "split" / "data.yaml").write_text("names: [other]\n")
    with pytest.raises(Killed):
        train(**in_its_place(folder, flags))
    told = "neither weights/last.pt nor weights/last_prev.pt in .*: a run without a complete epoch leaves none"
    with pytest.raises(UserError, match=told):
        train(resume=str(folder))
    assert not any((folder / each).exists() for each in ("metrics.json", "metrics.csv", "results.csv", "split"))
    assert not list((folder / "weights").iterdir())


def test_the_weights_that_a_new_run_starts_from_outlive_its_first_epoch(copied, flags, dies):
    folder = copied("whole")
    best = folder / "weights" / "best.pt"
    with pytest.raises(Killed):
        train(**in_its_place(folder, flags), weights=str(best))
    assert [each.name for each in best.parent.iterdir()] == ["best.pt"]


def test_a_run_is_not_replaced_by_one_on_its_own_split(copied, flags, dies):
    folder = copied("whole")
    shutil.copytree(Path(flags["data"]).parent, folder / "split")
    own = folder / "split" / Path(flags["data"]).name
    with pytest.raises(UserError, match="--exist-ok: .* lies in the run that would be replaced; .* another --name"):
        train(**in_its_place(folder, {**flags, "data": str(own)}))
    assert own.is_file() and (folder / "weights" / "best.pt").is_file()


def test_a_flag_that_switches_off_what_the_run_has_is_refused(made, copied):
    config = Config.from_dict(load_checkpoint(made["whole"] / "weights" / "last.pt")["config"], "last.pt")
    config = replace(config, run=replace(config.run, rect=True, cache="device"))
    flags = parse_flags(["--resume", "x", "--no-rect", "--no-cos-lr", "--no-autoanchor", "--no-cache"])
    assert changes(flags, config) == "--no-cache (the run has device), --no-rect (the run has --rect)"
    assert changes({"patience": 0, "loss": None, "weights": ""}, config) == "--patience 0 (the run has 100)"
    assert changes(parse_flags(["--resume"]), config) == ""
    with pytest.raises(UserError, match=r"keeps the settings of its run; --plots \(the run has --no-plots\) would"):
        train(resume=str(copied("whole")), epochs=5, plots=True)


def test_a_flag_that_equals_the_runs_is_no_change(made):
    config = Config.from_dict(load_checkpoint(made["whole"] / "weights" / "last.pt")["config"], "last.pt")
    same = "--seed 0 --batch-size 8 --name whole --imgsz 64 --no-plots --val 0 --loss ciou --amp off"
    same += " --set nominal_batch=8 --set channels=[8,8,16,16,32,32,64]"
    assert changes(parse_flags(["--resume", *same.split(), "--weights", ""]), config) == ""
    other = "--seed 1 --imgsz 64 96 --plots --set nominal_batch=8 --set box=1 --set activation=leaky --set spp=true"
    assert changes(parse_flags(["--resume", *other.split()]), config) == (
        "--imgsz 64 96 (the run has 64), --plots (the run has --no-plots), --seed 1 (the run has 0), "
        "--set box=1 activation=leaky spp=true"
    )
    assert changes({"weights": "a b.pt"}, config) == "--weights a b.pt (the run has none)"
    with pytest.raises(UserError, match="--seed is 'x': expected a whole number"):
        changes({"seed": "x"}, config)


@pytest.mark.parametrize(
    ("steps", "epochs", "told"),
    [
        ("[2, 5]", 3, "lr_steps 5: --epochs 3 ends before; --resume keeps them: expected more epochs"),
        ("[.5, .7]", 2, "lr_steps: of --epochs 2 they are epochs 1, 1; --resume keeps them"),
        ("[2, 5]", 6, ""),
    ],
)
def test_fewer_epochs_than_the_steps_of_the_rate_are_refused(steps, epochs, told, flags):
    asked = {**flags, "epochs": 6, "set": ["lr_schedule=steps", f"lr_steps={steps}"]}
    config = plan_run(asked).config
    shorter = replace(config, run=replace(config.run, epochs=epochs))
    with pytest.raises(UserError, match=told) if told else contextlib.nullcontext():
        require_steps(shorter)


def test_resume_refuses_epochs_that_end_before_a_step_of_the_rate(copied):
    last = copied("whole") / "weights" / "last.pt"
    contents = load_checkpoint(last)
    contents["config"]["run"]["epochs"] = 9
    contents["config"]["hyper"] |= {"lr_schedule": "steps", "lr_steps": [2, 7]}
    save_checkpoint(last, contents)
    with pytest.raises(UserError, match="lr_steps 7: --epochs 6 ends before; --resume keeps them"):
        train(resume=str(last), epochs=6)


def test_epochs_that_are_all_without_mosaic_are_said(made):
    config = Config.from_dict(load_checkpoint(made["whole"] / "weights" / "last.pt")["config"], "last.pt")
    config = replace(config, run=replace(config.run, close_mosaic=3))
    longer, shorter = (replace(config, run=replace(config.run, epochs=epochs)) for epochs in (12, 3))
    assert ", mosaic ends 3 epochs before it;" in change_of_schedule(config, longer, 1, 3, 6)
    assert ", without mosaic from here on;" in change_of_schedule(config, shorter, 1, 3, 6)


def test_where_nothing_is_to_be_resumed_what_was_looked_for_is_said(made, tmp_path):
    runs = made["whole"].parent
    for name, told in (
        (tmp_path / "no" / "exp", r"--resume .*exp: not found: no such run folder and no such file \(.*no/exp"),
        (tmp_path, "neither weights/last.pt nor .*; expected the folder of a run"),
        (runs, "it holds the runs patient, whole: name one"),
    ):
        with pytest.raises(UserError, match=told):
            train(resume=str(name))


def test_a_resumed_run_says_where_it_goes_on(made, copied, monkeypatch, capsys):
    train(**{**made["still"], "epochs": 1, "name": "new"})
    assert "resumed" not in capsys.readouterr().out
    monkeypatch.setattr(Trainer, "one_epoch", lambda *rest: None)
    train(resume=str(copied("whole")), epochs=6)
    assert "resumed after epoch 4 of 6: goes on with epoch 5\n" in capsys.readouterr().out


@pytest.mark.parametrize("old", [False, True], ids=["this version's", "an older one's"])
def test_more_epochs_do_not_lengthen_the_warm_up(old, copied, monkeypatch, capsys):
    """Of 4 epochs of 3 batches 6 are warm-up, of 12 epochs 18 would be: the run is beyond the 6, and stays so."""
    folder, one_epoch, schedules = copied("whole"), Trainer.one_epoch, []
    last = folder / "weights" / "last.pt"
    if old:
        contents = load_checkpoint(last)
        del contents["warmup_steps"]
        torch.save(contents, last)

    def one_alone(self, epoch, *rest):
        schedules.append(self.schedule)
        if epoch > 4:
            raise Killed
        one_epoch(self, epoch, *rest)

    monkeypatch.setattr(Trainer, "one_epoch", one_alone)
    with pytest.raises(Killed):
        train(resume=str(folder), epochs=12)
    said = capsys.readouterr().out
    assert "6 of 36 batches are warm-up" in said
    assert f"it goes on at {schedules[0].at(12).lr:.3g}, not 0.0001" in said
    assert float(rows_of(folder)[-1]["lr"]) == pytest.approx(0.01 * schedules[0].decay(4))
    with pytest.raises(Killed):
        train(resume=str(folder))
    for schedule in schedules:
        assert all(schedule.at(step).lr == 0.01 * schedule.decay(step // 3) for step in range(12, 36))


@pytest.mark.parametrize("name", ["last.pt", "elsewhere/last.pt"])
def test_a_last_pt_outside_a_run_folder_is_refused(name, made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(made["whole"] / "weights" / "last.pt", tmp_path / name)
    with pytest.raises(UserError, match="expected a run folder"):
        train(resume=name)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_before_the_first_epoch_is_one_line(number, flags, monkeypatch):
    monkeypatch.setattr("engine.train.run.tell_checkup", lambda *rest: signal.raise_signal(number))
    before = signal.getsignal(number)
    with pytest.raises(InterruptedRun, match=f"{number.name}: stopped before the first epoch was complete") as told:
        train(**flags)
    assert told.value.exit_code == 130
    assert signal.getsignal(number) is before
    assert not Path(flags["project"]).exists()


def test_a_signal_in_the_final_validation_says_how_it_is_finished(copied, monkeypatch):
    folder = copied("whole")
    (folder / "metrics.json").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "finish", lambda self, records: signal.raise_signal(signal.SIGTERM))
        with pytest.raises(InterruptedRun, match=r"all epochs are saved, the final validation is left.*--resume"):
            train(resume=str(folder))
    assert train(resume=str(folder)) == folder
