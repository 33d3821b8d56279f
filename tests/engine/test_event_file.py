"""TensorBoard reads what a run writes; a full disk costs the file, not the run."""

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from engine.event_file import EventFile
from engine.run_files import Board


def scalars(folder, tag):
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return [(event.step, event.value) for event in accumulator.Scalars(tag)]


def test_tensorboard_reads_it(tmp_path):
    file = EventFile(tmp_path, 1)
    for epoch in (1, 2):
        file.add({"train/loss": 1 / epoch, "metrics/ap": 0.25 * epoch}, epoch)
    file.close()
    assert scalars(tmp_path, "train/loss") == [(1, 1.0), (2, 0.5)]
    assert scalars(tmp_path, "metrics/ap") == [(1, 0.25), (2, 0.5)]


def test_a_resumed_runs_file_replaces_the_epochs_that_are_trained_again(tmp_path):
    first = Board(tmp_path, 1)
    for epoch in (1, 2, 3):
        first.add({"train/loss": float(epoch)}, epoch)
    first.close()
    second = Board(tmp_path, 3)
    second.add({"train/loss": 30.0}, 3)
    second.close()
    assert scalars(tmp_path, "train/loss") == [(1, 1.0), (2, 2.0), (3, 30.0)]


@pytest.mark.parametrize("when", ["opening", "adding"])
def test_a_full_disk_is_said_once_and_costs_no_more(when, tmp_path, monkeypatch, capsys):
    board = Board(tmp_path, 1)

    def full(self, event):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(EventFile, "_write", full)
    if when == "opening":
        board = Board(tmp_path, 1)
    for epoch in (1, 2):
        board.add({"train/loss": 1.0}, epoch)
    board.close()
    assert capsys.readouterr().err == (
        "warning: TensorBoard's file could not be written: [Errno 28] No space left on device\n"
    )
