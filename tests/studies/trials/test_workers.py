"""Workers that share a comparison: nothing is done twice, nothing is lost when they or their database die."""

import contextlib
import fcntl
import json
import signal
import subprocess
import sys
import time

import optuna
import pytest
from optuna.storages.journal import JournalFileBackend

from studies.trials.grid import perform_all, require_free, study_name
from studies.trials.jobs import Job, locked
from studies.trials.shared_study import open_storage
from tests.engine.test_run_lock import holder
from tests.paths import ROOT
from tests.processes import end_group
from tests.studies.trials.postgresql import Server
from tests.studies.trials.stub_search import search
from tests.studies.trials.stub_worker import FAST, stub_runs, stub_steps
from utils.errors import CommandError, UserError


@contextlib.contextmanager
def workers(hosts, into, storage, *settings):
    """Worker processes, each in a process group of its own."""
    command = [sys.executable, "-m", "tests.studies.trials.stub_worker", str(into), storage]
    going = [
        subprocess.Popen([*command, host, *map(str, settings)], cwd=ROOT, start_new_session=True) for host in hosts
    ]
    try:
        yield going
    finally:
        for worker in going:
            end_group(worker)


def diary(run):
    """What the stub noted of a run."""
    path = run.folder / "diary.txt"
    return path.read_text().splitlines() if path.is_file() else []


def wait_for(condition, seconds=60):
    """Waits until something holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def values(runs):
    """The result of every run."""
    return [json.loads(run.metrics_file.read_text())["ap"] for run in runs]


def alone(into, count, epochs):
    """The results of one worker with a file."""
    runs = stub_runs(into, count)
    perform_all(runs, lambda run: not run.done, into, timing=FAST, steps=stub_steps(epochs, 0))
    return values(runs)


def check_everything_happened_once(runs, epochs):
    """Every run finished once; epochs follow each other, and a run goes on from its last.pt."""
    for run in runs:
        lines = diary(run)
        assert lines.count("finish") == 1, (run.seed, lines)
        done = 0
        for line in lines:
            word, _, number = line.partition(" ")
            if word == "start":
                # Killed between last.pt and the diary's line at most.
                assert done <= int(number) <= done + 1, lines
                done = int(number)
            elif word == "epoch":
                assert int(number) == done + 1, lines
                done += 1
        assert done == epochs


def test_a_file_is_shared_by_workers(tmp_path):
    with workers(["one", "two"], tmp_path / "two", "", 5, 3, 0.1) as going:
        assert [worker.wait(timeout=600) for worker in going] == [0, 0]
    runs = stub_runs(tmp_path / "two", 5)
    check_everything_happened_once(runs, 3)
    assert values(runs) == alone(tmp_path / "one", 5, 3)


def test_a_killed_worker_s_run_is_gone_on_with_at_once_on_its_machine(tmp_path):
    runs = stub_runs(tmp_path, 1)
    with workers(["here"], tmp_path, "", 1, 4, 0.3) as (worker,):
        wait_for(lambda: "epoch 2" in diary(runs[0]))
        end_group(worker)
    with workers(["here"], tmp_path, "", 1, 4, 0.1) as (worker,):
        assert worker.wait(timeout=600) == 0
    check_everything_happened_once(runs, 4)
    assert sum(line.startswith("start") for line in diary(runs[0])) == 2


def test_a_terminated_worker_gives_its_run_back(tmp_path):
    runs = stub_runs(tmp_path, 1)
    with workers(["one"], tmp_path, "", 1, 4, 0.3) as (worker,):
        wait_for(lambda: "epoch 1" in diary(runs[0]))
        worker.terminate()
        assert worker.wait(timeout=600) != 0
    with workers(["two"], tmp_path, "", 1, 4, 0.1) as (worker,):
        assert worker.wait(timeout=600) == 0
    check_everything_happened_once(runs, 4)


class Interrupted:
    """Stands for the pauses of a worker: in the third of them the storage goes away, and somebody ends the worker."""

    def __init__(self, monkeypatch, number):
        self.pauses, self.number, self.away = 0, number, False
        for name in ("read_logs", "append_logs"):
            real = getattr(JournalFileBackend, name)
            monkeypatch.setattr(JournalFileBackend, name, lambda *given, real=real: self.answer(real, *given))
        monkeypatch.setattr("studies.trials.workers.time", self)

    def answer(self, real, *given):
        """The storage's answer, or what a disk says that is not there."""
        if self.away:
            raise OSError("the storage is away")
        return real(*given)

    def sleep(self, seconds):
        """A pause."""
        self.pauses += 1
        if self.pauses == 3:
            self.away = True
            signal.raise_signal(self.number)
        time.sleep(seconds)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("kind", ["comparison", "search"])
def test_a_worker_ends_also_while_its_storage_is_away(kind, number, tmp_path, small_shapes, monkeypatch, capsys):
    def go():
        if kind == "comparison":
            perform_all(stub_runs(tmp_path, 1), lambda run: not run.done, tmp_path, timing=FAST, steps=stub_steps(2, 1))
        else:
            search(["--into", str(tmp_path), "--data", str(small_shapes), "--trials", "1", "--epochs", "4"], 0.5)

    # Of several pytest processes each ignores Ctrl-C, and would wait for ever.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    started = time.monotonic()
    try:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            Interrupted(patch, number)
            go()
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - started < 30
    assert "storage does not answer: a run is left as it is" in capsys.readouterr().out
    go()
    (metrics,) = tmp_path.rglob("metrics.json")
    assert (metrics.parent / "diary.txt").read_text().count("finish") == 1


def test_several_at_the_same_time_and_one_that_fails(tmp_path, capsys):
    runs = stub_runs(tmp_path, 4)
    steps = stub_steps(2, 0.1)

    def failing(run):
        return (yield ["-c", "raise SystemExit(1)"]) if not run.seed else (yield from steps(run))

    with pytest.raises(CommandError, match="1 of 4 runs failed"):
        perform_all(runs, lambda run: not run.done, tmp_path, jobs=3, timing=FAST, steps=failing)
    assert "stub seed 0: failed" in capsys.readouterr().out
    check_everything_happened_once(runs[1:], 2)
    assert json.loads(runs[0].request.read_text())["exit_code"] == 1
    perform_all(runs, lambda run: not run.done, tmp_path, timing=FAST, steps=steps)
    check_everything_happened_once(runs, 2)


def test_a_run_that_somebody_else_trains_is_refused_until_it_ends(tmp_path):
    """As where a trainer was started by hand, or lives on a machine whose locks of logs do not reach this one."""
    first, second = stub_runs(tmp_path, 2)
    second.folder.mkdir(parents=True)
    other = holder(second.folder)
    try:
        told = rf"seed1: another process writes in this folder \(process {other.pid} on .*\): wait for it, or stop it"
        with pytest.raises(UserError, match=told):
            perform_all([first, second], lambda run: not run.done, tmp_path, timing=FAST, steps=stub_steps(1, 0))
        assert not first.folder.exists()
    finally:
        other.kill()
        other.communicate()
    perform_all([first, second], lambda run: not run.done, tmp_path, timing=FAST, steps=stub_steps(1, 0))
    check_everything_happened_once([first, second], 1)


def test_a_trainer_of_this_comparison_is_waited_for(tmp_path):
    """Of a worker that was killed: it holds the run's log until it has ended too."""
    (run,) = stub_runs(tmp_path, 1)
    run.folder.mkdir(parents=True)
    log = run.log.open("a")
    fcntl.flock(log, fcntl.LOCK_EX)
    other = holder(run.folder)
    require_free([run])
    other.kill()
    other.communicate()
    log.close()


def test_a_run_that_waits_for_an_earlier_worker_s_process_says_so_once(tmp_path, capsys):
    def steps():
        return (yield ["-c", "print('done')"])

    job = Job(steps(), tmp_path / "seed0.log", threads=0)
    with locked(job.log):
        assert job.poll() is job.poll() is None
        said = capsys.readouterr().out
        assert said == f"{job.log}: a process of an earlier worker still writes to it: waits for its end\n"
    wait_for(lambda: job.poll() == 0)
    job.close()
    assert job.log.read_text() == "done\n"
    assert capsys.readouterr().out == ""


@pytest.fixture
def server():
    """A database that runs."""
    server = Server()
    try:
        server.start()
        yield server
    finally:
        server.remove()


def test_four_workers_two_killed_and_the_database_restarted(tmp_path, server):
    count, epochs = 6, 6
    runs = stub_runs(tmp_path / "four", count)
    hold = tmp_path / "four" / "hold"
    hold.parent.mkdir()
    hold.touch()
    with workers(["a", "b", "c", "d"], tmp_path / "four", server.url, count, epochs, 0.1) as going:
        wait_for(lambda: sum("epoch 2" in diary(run) for run in runs) == 4)
        # All four are at it: two are killed with their trainings, as when a machine loses power.
        for worker in going[:2]:
            end_group(worker)
        server.stop()
        hold.unlink()
        # The trainings of the others go on without the database, to their end.
        wait_for(lambda: sum("finish" in diary(run) for run in runs) == 2)
        server.start()
        assert [worker.wait(timeout=600) for worker in going[2:]] == [0, 0]
    check_everything_happened_once(runs, epochs)
    resumed = [run for run in runs if sum(line.startswith("start") for line in diary(run)) == 2]
    assert len(resumed) == 2
    assert values(runs) == alone(tmp_path / "one", count, epochs)
    name = study_name(runs, tmp_path / "four")
    storage = open_storage(server.url, tmp_path)
    trials = optuna.load_study(study_name=name, storage=storage).trials
    # Left open, its connections would be warned about in a test that comes later.
    storage.remove_session()
    storage.engine.dispose()
    complete = [trial.user_attrs["run"] for trial in trials if trial.state == optuna.trial.TrialState.COMPLETE]
    assert sorted(complete) == sorted(f"stub seed{run.seed}" for run in runs)
    assert all(trial.state.is_finished() for trial in trials)
