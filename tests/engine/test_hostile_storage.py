"""Storage that fails: one clear line, an exit code, and no damaged checkpoint."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.engine.conftest import NARROW
from tests.engine.train.test_distributed import children_that_train
from tests.paths import ROOT
from train import train
from utils.checkpoint import load_checkpoint
from utils.errors import CommandError, UserError

SETTINGS = ["--imgsz", "64", "--batch-size", "4", "--device", "cpu", "--amp", "off", "--no-plots", "--set", NARROW[0]]


def start(data, project, *more, workers=0, limit=None):
    """train.py in a process of its own; `limit` bytes are the largest file that it may write."""
    lines = ["import runpy, sys", "sys.argv = sys.argv[1:]", "runpy.run_path(sys.argv[0], run_name='__main__')"]
    if limit:
        lines.insert(0, f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))")
    command = [sys.executable, "-c", "\n".join(lines), "train.py", "--data", str(data), "--project", str(project)]
    return subprocess.Popen(
        [*command, "--workers", str(workers), *SETTINGS, *more],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(path, process):
    end = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None and time.monotonic() < end, process.communicate()
        time.sleep(0.05)


def one_error(process, code=1):
    _, errors = process.communicate(timeout=120)
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    lines = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, errors
    return lines[0]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 3 MB that can be made read-only; skipped where tests may not mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=3m", "alignyolo-test", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("a small file system cannot be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def make_read_only(folder):
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)


def test_a_disk_that_fills_up_ends_the_run_and_keeps_its_checkpoint(small_shapes, small_disk):
    process = start(small_shapes, small_disk, "--epochs", "100000")
    wait_for(small_disk / "exp" / "weights" / "last_prev.pt", process)
    free = shutil.disk_usage(small_disk).free
    (small_disk / "filler").write_bytes(bytes(max(free - 20_000, 0)))
    assert re.search(r"no room for (last|best)\.pt|No space left on device", one_error(process))
    last = load_checkpoint(small_disk / "exp" / "weights" / "last.pt")
    assert last["epoch"] >= 2
    assert not list((small_disk / "exp" / "weights").glob(".*"))


@pytest.mark.slow
def test_a_file_that_may_not_grow_ends_the_run_and_keeps_its_checkpoint(small_shapes, tmp_path):
    """A limit on the size of files stands in for a quota: the checkpoint cannot be written."""
    process = start(small_shapes, tmp_path, "--epochs", "2", limit=200_000)
    assert re.search(r"best\.pt cannot be written \(.*File too large", one_error(process))
    assert not list((tmp_path / "exp" / "weights").iterdir())


@pytest.mark.slow
def test_a_run_folder_that_becomes_read_only(small_shapes, small_disk):
    process = start(small_shapes, small_disk, "--epochs", "100000")
    wait_for(small_disk / "exp" / "weights" / "last.pt", process)
    # The kernel refuses while a file is open for writing, such as the events: try between two writes of the others.
    if subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], capture_output=True, check=False).returncode:
        process.kill()
        process.communicate()
        pytest.skip("the file system is in use")
    assert "Read-only file system" in one_error(process)
    load_checkpoint(small_disk / "exp" / "weights" / "last.pt")


def test_a_read_only_project_folder_is_refused_at_once(flags, small_disk):
    make_read_only(small_disk)
    with pytest.raises(UserError, match="cannot make this run folder"):
        train(**{**flags, "project": str(small_disk / "runs")})


def test_a_data_set_on_read_only_storage_trains(small_shapes, flags, small_disk):
    data = small_disk / "data"
    shutil.copytree(Path(small_shapes).parent, data)
    make_read_only(small_disk)
    folder = train(**{**flags, "data": str(data / "shapes.yaml"), "epochs": 1})
    assert load_checkpoint(folder / "weights" / "last.pt")["epoch"] == 1


def test_a_photo_that_vanishes_is_named_and_training_goes_on(small_shapes, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(Path(small_shapes).parent, data)
    process = start(data / "shapes.yaml", tmp_path, "--epochs", "8", workers=1)
    wait_for(tmp_path / "exp" / "weights" / "last.pt", process)
    for name in ("train/000003", "val/000002"):
        (data / "images" / f"{name}.jpg").unlink()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    assert re.search(r"image left out: .*images/train/000003.jpg: No such file", errors)
    assert errors.count("000003.jpg") == 1
    assert load_checkpoint(tmp_path / "exp" / "weights" / "last.pt")["epoch"] == 8


@pytest.mark.slow
def test_all_photos_gone_is_one_line_also_from_a_worker(small_shapes, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(Path(small_shapes).parent, data)
    process = start(data / "shapes.yaml", tmp_path, "--epochs", "100000", workers=1)
    wait_for(tmp_path / "exp" / "weights" / "last.pt", process)
    shutil.rmtree(data / "images" / "train")
    assert "images drawn in a row cannot be decoded" in one_error(process, code=2)
    load_checkpoint(tmp_path / "exp" / "weights" / "last.pt")


def test_a_killed_loading_process_ends_the_run_with_a_line(small_shapes, tmp_path):
    process = start(small_shapes, tmp_path, "--epochs", "100000", workers=2)
    wait_for(tmp_path / "exp" / "weights" / "last.pt", process)
    os.kill(children_that_train(process)[0], signal.SIGKILL)
    assert re.search(
        r"a data loading process \(\d+\) (is killed by signal: Killed|exited unexpectedly);", one_error(process)
    )
    assert load_checkpoint(tmp_path / "exp" / "weights" / "last.pt")["epoch"] >= 1


@pytest.mark.slow
def test_an_address_space_that_is_too_small_is_one_line(small_shapes, tmp_path, flags):
    """The CPU's own out of memory: the allocator is refused, and says so."""
    pytest.importorskip("resource")
    script = "import resource, torch\nfrom train import train\nfrom engine.train.trainer import Trainer\n"
    script += "original = Trainer.train_epoch\ndef starve(self, *arguments):\n"
    script += "    taken = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
    script += "    resource.setrlimit(resource.RLIMIT_AS, (taken + 2**26, -1))\n    return original(self, *arguments)\n"
    script += "Trainer.train_epoch = starve\nfrom utils.errors import run_command\n"
    script += f"run_command(lambda: train(**{ ({**flags, 'batch_size': 24, 'imgsz': [640]})!r}) and 0)\n"
    process = subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert "out of memory at --batch-size 24" in one_error(process)


def test_names_that_attack_a_terminal_or_a_path_do_no_harm(small_shapes, flags, tmp_path, capfd):
    data = tmp_path / "data"
    shutil.copytree(Path(small_shapes).parent, data)
    hostile = "a\x1b[31m\nb"
    (data / "images" / "train" / "000003.jpg").rename(data / "images" / "train" / f"{hostile}.jpg")
    (data / "images" / "val" / f"{hostile} broken.jpg").write_bytes(b"no photo")
    (data / "labels" / "train" / f"{hostile}.txt").write_text("0 0.5 0.5 0.2 0.2\n1 0.5 0.5 3 3\n")
    names = '["../../up", "/etc/passwd", "c\\e[2Jd", "e\\nf", "<script>", "$(touch x)"]'
    (data / "hostile.yaml").write_text(f"train: images/train\nval: images/val\nnames: {names}\n")
    before = {path for path in tmp_path.rglob("*") if "runs" not in path.parts}
    train(**{**flags, "data": str(data / "hostile.yaml"), "epochs": 1, "plots": True})
    said = "".join(capfd.readouterr())
    assert "broken.jpg" in said
    assert "\x1b" not in said
    assert not [line for line in said.splitlines() if line.startswith(("b.jpg", "b broken", "b.txt", "f "))]
    assert {path for path in tmp_path.rglob("*") if "runs" not in path.parts} == before


def test_the_wrapped_error_of_a_worker_is_unwrapped():
    from engine.failures import explained

    wrapped = "Caught UserError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
    wrapped += '  File "x.py", line 3\nutils.errors.UserError: 100 images: gone\n'
    with pytest.raises(UserError, match="^100 images: gone$"), explained(lambda: "here"):
        raise UserError(wrapped)
    with pytest.raises(CommandError, match="^plain$"), explained(lambda: "here"):
        raise CommandError("plain")
    with pytest.raises(RuntimeError, match="shape"), explained(lambda: "here"):
        raise RuntimeError("shape mismatch")
