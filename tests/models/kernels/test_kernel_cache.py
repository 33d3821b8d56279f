"""Where compiled kernels are kept, and that compiling them ahead leaves nothing to compile."""

import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from models.kernels import compiled, kernel_cache
from tests.paths import ROOT

if not compiled.available():
    pytest.skip("numba, or torch's OpenMP, is not here", allow_module_level=True)

# Compile ahead; then one step of a block with a pool and one of a block without.
STEPS = """\
import sys
import torch
from torch import nn
from models.kernels import kernel_cache
from models.kernels.fused_norm import norm_act
folder = kernel_cache.cache_folder()
if sys.argv[1:]:
    sys.executable = sys.argv[1]
kernel_cache.compile_ahead("uint16", ["norm_loops"])
kernel_cache._wait_for("norm_loops", "uint16")
print(len(list(folder.rglob("*.o"))))
x = torch.randn(2, 16, 4, 4).bfloat16().to(memory_format=torch.channels_last).requires_grad_()
for pool in (True, False):
    norm_act(x, nn.BatchNorm2d(16), None, pool).float().sum().backward()
print(len(list(folder.rglob("*.o"))))
"""


def counts(folder, *given):
    """How many kernels a fresh cache holds after compiling ahead, and after the steps."""
    environment = os.environ | {"XDG_CACHE_HOME": str(folder), "PYTHONPATH": str(ROOT)}
    environment.pop("ALIGNYOLO_KERNELS", None)
    command = [sys.executable, "-c", STEPS, *given]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    return [int(line) for line in done.stdout.split()]


def test_nothing_is_left_to_compile(tmp_path):
    expected = sum(map(len, kernel_cache.KERNELS["norm_loops"].values()))
    assert counts(tmp_path) == [expected, expected]
    # Done before: no process is started again, which could not be.
    assert counts(tmp_path, str(tmp_path / "missing")) == [expected, expected]


def test_evaluation_compiles_its_own_part_once_and_training_the_rest(monkeypatch, tmp_path):
    started = []

    class Ended:
        def __init__(self, command, **_):
            started.append(command[-3:])

        def wait(self):
            return 0

    def ahead(use, stamped=False):
        started.clear()
        monkeypatch.setattr(kernel_cache, "_AHEAD", {})
        kernel_cache.compile_ahead("uint16", ["norm_loops"], use)
        kernel_cache.compile_ahead("uint16", ["norm_loops"], use)
        if stamped:
            (tmp_path / f"norm_loops-uint16-{use}.compiled").touch()
        return [*started]

    monkeypatch.setattr(kernel_cache, "kernel_folder", lambda: tmp_path)
    monkeypatch.setattr(kernel_cache.subprocess, "Popen", Ended)
    assert ahead("evaluation", stamped=True) == [["norm_loops", "uint16", "evaluation"]]
    assert ahead("evaluation") == []
    assert ahead("training", stamped=True) == [["norm_loops", "uint16", "training"]]
    (tmp_path / "norm_loops-uint16-evaluation.compiled").unlink()
    assert ahead("evaluation") == ahead("training") == []


SUMS = """\
import torch
from torch import nn
from models.kernels.fused_norm import norm_act
torch.manual_seed(0)
for dtype in (torch.bfloat16, torch.float32):
    for pool in (True, False):
        x = torch.randn(2, 48, 9, 14).to(dtype).to(memory_format=torch.channels_last).requires_grad_()
        norm = nn.BatchNorm2d(48)
        y = norm_act(x, norm, None, pool)
        y.float().square().sum().backward()
        for found in (y, x.grad, norm.weight.grad, norm.running_var):
            print(found.detach().double().numpy().tobytes().hex()[:4000])
"""


@pytest.mark.slow
def test_levels_of_optimisation_compute_the_same_bits(tmp_path):
    """Kernels compiled ahead have another level than those that are compiled when they are used."""
    found = set()
    for level in ("1", "3"):
        (tmp_path / level).mkdir()
        environment = os.environ | {
            "ALIGNYOLO_KERNELS": str(tmp_path / level),
            "NUMBA_OPT": level,
            "PYTHONPATH": str(ROOT),
        }
        done = subprocess.run([sys.executable, "-c", SUMS], capture_output=True, text=True, env=environment, check=True)
        found.add(done.stdout)
    assert len(found) == 1
    assert len(found.pop()) > 10000


LOADED = """\
import sys
from models.kernels import kernel_cache
kernel = kernel_cache.compiled_kernel("norm_loops", "finish_statistics", "float32")
print("numba" in sys.modules, kernel.address != 0)
"""


def test_what_is_in_the_cache_is_loaded_without_numba_and_what_is_damaged_is_compiled_again(tmp_path):
    def loaded():
        environment = os.environ | {"ALIGNYOLO_KERNELS": str(tmp_path), "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", LOADED], capture_output=True, text=True, env=environment, check=True
        )
        return done.stdout.split()

    assert loaded() == ["True", "True"]
    assert loaded() == ["False", "True"]
    (file,) = tmp_path.rglob("*.o")
    whole = file.read_bytes()
    for damaged in (whole[:-1], whole[:40] + b"x" + whole[41:]):
        file.write_bytes(damaged)
        assert loaded() == ["True", "True"]
        assert file.read_bytes() == whole


@pytest.mark.parametrize("program", ["missing", "false"])
def test_where_no_process_can_compile_kernels_are_compiled_when_they_are_used(program, monkeypatch, tmp_path):
    """A program that is not there, and one that fails."""
    monkeypatch.setattr(kernel_cache, "kernel_folder", lambda: tmp_path)
    monkeypatch.setattr(sys, "executable", shutil.which(program) or str(tmp_path / program))
    kernel_cache.compile_ahead("float32")
    assert kernel_cache.compiled_kernel("norm_loops", "finish_statistics", "float32").address


def test_kernels_are_kept_in_the_users_cache_or_where_there_is_none_in_a_temporary_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = kernel_cache.cache_folder.__wrapped__()
    assert tmp_path in folder.parents
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    folder = kernel_cache.cache_folder.__wrapped__()
    assert tmp_path not in folder.parents
    assert folder.is_dir()
    folder.rmdir()


def test_threads_that_use_a_kernel_first_load_it_once(monkeypatch):
    """A second one would take the place of the first, whose code another thread may be running."""
    loaded, meeting = [], threading.Barrier(4)

    def slow(room, function, stored):
        time.sleep(0.05)
        loaded.append((room, function, stored))
        return object()

    def use():
        meeting.wait(30)
        return compiled._kernel("norm_loops.through", torch.float32)

    monkeypatch.setattr(compiled, "_KERNELS", {})
    monkeypatch.setattr(kernel_cache, "compiled_kernel", slow)
    with ThreadPoolExecutor(4) as pool:
        found = [future.result() for future in [pool.submit(use) for _ in range(4)]]
    assert loaded == [("norm_loops", "through", "float32")]
    assert all(each is found[0] for each in found)
