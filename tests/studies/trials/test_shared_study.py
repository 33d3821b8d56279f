"""Who counts as dead, whose lock is whose, and mistakes in --storage named in a line."""

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import optuna
import pytest

from studies.compare import command_of, compare
from studies.trials import installed
from studies.trials.jobs import Job, locked, one_at_a_time, unlocked
from studies.trials.shared_study import Timing, Watch, open_storage, open_study
from utils.config.knobs import CompareConfig
from utils.errors import UserError


def test_what_stands_still_for_the_grace_period_is_dead():
    watch = Watch(10)
    for now in (0, 4, 8):
        assert watch.still({1: 0, 2: now}, now) == []
    assert watch.still({1: 0, 2: 12}, 12) == [1]
    assert watch.still({2: 12}, 14) == []


def test_time_in_which_nobody_could_look_does_not_count():
    watch = Watch(10)
    watch.still({1: 0}, 0)
    assert watch.still({1: 0}, 30) == []
    watch.still({1: 0}, 38)
    watch.forget()
    assert watch.still({1: 0}, 42) == []
    assert watch.still({1: 0}, 47) == []
    assert watch.still({1: 0}, 53) == [1]


def test_a_log_s_lock_lasts_as_long_as_what_writes_to_it(tmp_path):
    log = tmp_path / "run" / "seed0.log"
    assert not unlocked(log)
    output = locked(log)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], stdout=output)
    output.close()
    assert locked(log) is None
    assert not unlocked(log)
    child.kill()
    child.wait()
    assert unlocked(log)


def test_workers_that_end_together_write_one_report_after_another(tmp_path):
    inside, most = [], []

    def write(number):
        with one_at_a_time(tmp_path / "into" / "report.lock"):
            inside.append(number)
            most.append(len(inside))
            time.sleep(0.02)
            inside.remove(number)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(8)))
    assert most == [1] * 8


def steps(*commands):
    """Commands one after another, each with the exit code of the one before."""
    code = 0
    for command in commands:
        code = yield command(code)
    return code


def test_a_job_hands_each_exit_code_to_what_comes_next(tmp_path):
    first, second = (
        (lambda _: ["-c", "print('one'); exit(3)"]),
        (lambda code: ["-c", f"print('two'); exit({code + 4})"]),
    )
    job = Job(steps(first, second), tmp_path / "log", threads=0)
    code = None
    while code is None:
        code = job.poll()
    assert code == 7
    assert not unlocked(tmp_path / "log"), "others would take it for abandoned before its end is told"
    job.close()
    assert (tmp_path / "log").read_text().split() == ["one", "two"]
    assert unlocked(tmp_path / "log")


def test_a_trial_that_was_taken_for_dead_is_known_to_be_lost(tmp_path):
    file = tmp_path / "trials.journal"
    (mine, new), (others, again) = (open_study("one", "", file, Timing(beat=0, grace=1)) for _ in range(2))
    assert (new, again) == (True, False)
    trial = mine.ask()
    assert mine.beat(trial)
    while len(others.trials()) == 1:
        others.retry_dead(others.trials(), lambda trial: False)
        time.sleep(0.05)
    assert [each.state.name for each in others.trials()] == ["FAIL", "WAITING"]
    assert not mine.beat(trial)
    assert not mine.tell(trial, optuna.trial.TrialState.COMPLETE, 1.0)


@pytest.mark.parametrize(
    ("storage", "message"),
    [
        ("here", "expected postgresql://USER:PASSWORD@HOST/DATABASE"),
        ("postgresql://me:secret@127.0.0.1:1/none", r"postgresql\+psycopg://me:\*\*\*@127.0.0.1:1/none: .*connection"),
    ],
)
def test_a_storage_that_cannot_be_used_is_named(storage, message, tmp_path):
    pytest.importorskip("psycopg", reason="psycopg is absent: pip install 'psycopg[binary]'")
    with pytest.raises(UserError, match=message) as error:
        open_storage(storage, tmp_path)
    assert "secret" not in str(error.value)


def test_a_missing_package_is_named_with_what_installs_it(tmp_path, small_shapes, monkeypatch):
    monkeypatch.setattr(installed.importlib.util, "find_spec", lambda name: None)
    config = CompareConfig(losses=("iou",), seeds=(0,), into=str(tmp_path))
    with pytest.raises(UserError, match="need Optuna, which is not installed: python -m pip install optuna"):
        compare(config, ["--data", str(small_shapes)], "the command")
    with pytest.raises(UserError, match="python -m pip install .*psycopg"):
        open_storage("postgresql://127.0.0.1/none", tmp_path)


def test_the_storage_s_password_stays_out_of_the_report():
    assert "secret" not in command_of(CompareConfig(losses=("iou",), storage="postgresql://me:secret@host/base"), ())
