"""Run folders are never overwritten, results.csv survives crashes and reads back, env.json tells what ran."""

import json
import math
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from utils import run_folder
from utils.errors import UserError
from utils.run_folder import ResultsCsv, git_revision, new_run_folder, read_csv, write_csv, write_env, write_json


def test_names_count_up_and_nothing_is_overwritten(tmp_path):
    project = tmp_path / "runs" / "train"
    folders = [new_run_folder(project, "exp", False) for _ in range(3)]
    assert [folder.name for folder in folders] == ["exp", "exp2", "exp3"]
    (folders[0] / "kept.txt").write_text("mine", encoding="utf-8")
    assert new_run_folder(project, "exp", True) == folders[0]
    assert (folders[0] / "kept.txt").read_text(encoding="utf-8") == "mine"


def test_two_runs_started_at_once_get_two_folders(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: new_run_folder(tmp_path, "exp", False), range(40)))
    assert len(set(folders)) == 40


def test_names_may_hold_folders_and_any_script(tmp_path):
    assert new_run_folder(tmp_path, "sca/Größe 犬", False).is_dir()


@pytest.mark.parametrize("exist_ok", [False, True])
def test_a_folder_that_cannot_be_made_is_the_users_error(tmp_path, exist_ok):
    (tmp_path / "file").write_text("", encoding="utf-8")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for project in (tmp_path / "file", tmp_path / "file" / "deeper", tmp_path / "dangling"):
        with pytest.raises(UserError, match="cannot make this run folder"):
            new_run_folder(project, "exp", exist_ok)
    for name in ("", ".", "..", "a/..", "a\0b"):
        with pytest.raises(UserError):
            new_run_folder(tmp_path, name, exist_ok)


def test_rows_read_back_exactly(tmp_path):
    results = ResultsCsv(tmp_path / "results.csv")
    values = {
        "third": 1 / 3,
        "tiny": 1e-300,
        "single": np.float32(0.1),
        "tensor": torch.tensor(0.2),
        "count": np.int64(7),
    }
    results.append({"epoch": 0, **values, "absent": None, "undefined": math.nan})
    (row,) = read_csv(tmp_path / "results.csv")
    assert list(row) == ["epoch", *values, "absent", "undefined"]
    assert {key: float(row[key]) for key in values} == {key: float(value) for key, value in values.items()}
    assert (row["epoch"], row["count"], row["absent"], row["undefined"]) == ("0", "7", "", "")


def test_a_resumed_run_trains_its_epochs_once(tmp_path):
    path = tmp_path / "results.csv"
    first = ResultsCsv(path)
    for epoch in range(4):
        first.append({"epoch": epoch, "loss": 1 / (epoch + 3)})
    resumed = ResultsCsv(path)
    resumed.truncate_to(2)
    resumed.append({"loss": 0.5, "epoch": 2})
    rows = read_csv(path)
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    assert [float(row["loss"]) for row in rows] == [1 / 3, 1 / 4, 0.5]
    resumed.truncate_to(0)
    resumed.append({"epoch": 0, "another": 1})
    assert read_csv(path) == [{"epoch": "0", "another": "1"}]


def test_columns_are_fixed(tmp_path):
    results = ResultsCsv(tmp_path / "results.csv")
    with pytest.raises(ValueError, match="epoch"):
        results.append({"loss": 1})
    results.append({"epoch": 0, "loss": 1})
    with pytest.raises(ValueError, match="los"):
        results.append({"epoch": 1, "los": 1})


def test_a_crash_while_writing_leaves_the_old_file(tmp_path, monkeypatch):
    results = ResultsCsv(tmp_path / "results.csv")
    results.append({"epoch": 0, "loss": 1})
    before = (tmp_path / "results.csv").read_bytes()

    def no_space(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space"):
        results.append({"epoch": 1, "loss": 2})
    assert (tmp_path / "results.csv").read_bytes() == before


@pytest.mark.parametrize("text", ["epoch,loss\n0\n", "epoch,loss\n0,1,2\n", "loss\n1\n", "epoch,loss\n0,\xff\n"])
def test_a_broken_results_file_is_the_users_error(tmp_path, text):
    path = tmp_path / "results.csv"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match="results.csv"):
        ResultsCsv(path)


def test_json_and_csv_keep_any_script(tmp_path):
    write_json(tmp_path / "a.json", {"犬": [1, None]})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"犬": [1, None]}
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"ap": math.nan})
    write_csv(tmp_path / "a.csv", [{"class": 'a "quoted", 犬', "ap": 0.5}])
    assert read_csv(tmp_path / "a.csv") == [{"class": 'a "quoted", 犬', "ap": "0.5"}]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "a.json"]


def test_env_says_what_ran_and_on_what(tmp_path):
    write_env(tmp_path / "env.json", ["train.py", "--name", "two words"], {"device": "cpu"})
    document = json.loads((tmp_path / "env.json").read_text(encoding="utf-8"))
    assert document["command"] == "train.py --name 'two words'"
    assert document["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert document["numpy"] == np.__version__
    assert document["device"] == "cpu"
    assert document["cpu"]
    assert document["cpu_cores"] == os.cpu_count()
    assert document["memory_gib"] is None or document["memory_gib"] > 0.1
    assert isinstance(document["gpus"], list)


def test_git_revision_of_a_checkout_and_without_one(tmp_path, monkeypatch):
    assert git_revision(tmp_path) is None
    repository = tmp_path / "repository"
    options = ("user.name=a", "user.email=a@b", "commit.gpgsign=false", "core.hooksPath=/dev/null")
    settings = [part for option in options for part in ("-c", option)]

    def git(*words):
        return subprocess.run(["git", "-C", repository, *settings, *words], check=True, capture_output=True, text=True)

    repository.mkdir()
    git("init")
    assert git_revision(repository) is None  # no commit yet
    (repository / "file").write_text("a", encoding="utf-8")
    git("add", "file")
    git("commit", "-m", "first")
    commit = git("rev-parse", "HEAD").stdout.strip()
    git("tag", "-m", "a tag", "v1")
    assert git_revision(repository) == commit
    (repository / "file").write_text("b", encoding="utf-8")
    assert git_revision(repository) == f"{commit}-dirty"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_revision(repository) is None  # no git


def test_missing_packages_are_none():
    assert run_folder.package_version("no-such-package-here") is None
    assert run_folder.package_version("torch") is not None
    assert Path(run_folder.REPOSITORY / "utils" / "run_folder.py").is_file()
