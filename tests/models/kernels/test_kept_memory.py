"""Freed memory stays with the process while a run asks for it, and goes back to the system after."""

import contextlib
import os
import platform
import subprocess
import sys
import threading

import pytest
import torch

import models.kernels.kept_memory
from models.kernels.kept_memory import (
    SETTLED,
    HoleLimit,
    freed_memory_kept,
    keep_freed_memory,
    release_scratch,
    scratch,
)
from utils.hardware import most_taken


def output_of(script, *arguments):
    """What a script prints in a process whose environment says nothing to the C library."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout


FETCHED = """
import resource, sys
import numpy as np
from models.kernels.kept_memory import keep_freed_memory

def fetched():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(1 << 24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(sys.argv[1] == "given back" or keep_freed_memory(), *(fetched() for _ in range(3)))
"""
glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")


@glibc
@pytest.mark.parametrize("memory", ["given back", "kept"])
def test_what_is_kept_need_not_be_fetched_again(memory):
    done, *fetched = output_of(FETCHED, memory).split()
    assert done == "True"
    # 128 MiB, in pages of 4 KiB, or in a few large ones; a thousandth of it is other work.
    first, second, third = map(int, fetched)
    assert first > 50
    assert max(second, third) < first / 100 if memory == "kept" else min(second, third) > first / 2


RELEASED = """
import re
from pathlib import Path
import numpy as np
from models.kernels.kept_memory import give_freed_memory_back, keep_freed_memory

def resident():
    return int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

keep_freed_memory()
np.ones(1 << 24)
kept = resident()
give_freed_memory_back()
print(kept - resident())
"""


@glibc
def test_what_was_kept_is_given_back():
    # Of 128 MiB, in KiB.
    assert int(output_of(RELEASED)) > 120 * 1024


@glibc
def test_memory_is_kept_only_where_as_much_is_free_again(monkeypatch):
    changed = []
    monkeypatch.setattr(models.kernels.kept_memory.ctypes, "CDLL", lambda _: fake_library(changed))
    for name in [name for name in os.environ if name.startswith(("MALLOC_", "GLIBC_"))]:
        monkeypatch.delenv(name)
    for free, processes, kept in [(most_taken() * 9, 1, True), (most_taken() * 9, 20, False), (0, 1, False)]:
        monkeypatch.setattr(models.kernels.kept_memory, "available_memory", lambda free=free: free)
        assert keep_freed_memory(processes) is kept
        assert bool(changed) is kept
        changed.clear()
    monkeypatch.setattr(models.kernels.kept_memory, "available_memory", lambda: None)
    assert not keep_freed_memory()


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize(("begun", "possible"), [(True, True), (True, False), (False, True)])
def test_what_a_context_keeps_is_given_back_when_it_ends(begun, possible, fails, monkeypatch):
    calls = []
    monkeypatch.setattr(models.kernels.kept_memory, "keep_freed_memory", lambda: calls.append("keep") or possible)
    monkeypatch.setattr(models.kernels.kept_memory, "give_freed_memory_back", lambda: calls.append("give back"))
    with contextlib.suppress(ZeroDivisionError), freed_memory_kept() as keep:
        if begun:
            keep()
        assert 1 / (not fails)
    assert calls == ["keep"] * begun + ["give back"] * (begun and possible)


def test_who_sets_up_the_c_library_decides(monkeypatch):
    monkeypatch.setattr(models.kernels.kept_memory, "available_memory", lambda: 1 << 50)
    monkeypatch.setattr(models.kernels.kept_memory.ctypes, "CDLL", lambda _: pytest.fail("has been changed"))
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "100000")
    assert not keep_freed_memory()


def fake_library(changed):
    """A C library that notes what is asked of it."""

    class Library:
        @staticmethod
        def mallopt(parameter, value):
            changed.append((parameter, value))
            return 1

    return Library


@pytest.fixture
def occupied(monkeypatch):
    """A process of so many GB, and how often it gave back what it kept; it fills up again with its next step."""
    state = {"now": 0.0, "given": 0}

    class Library:
        @staticmethod
        def malloc_trim(_):
            state["given"] += 1
            state["now"] = 6.0

    monkeypatch.setattr(models.kernels.kept_memory.ctypes, "CDLL", lambda _: Library)
    monkeypatch.setattr(models.kernels.kept_memory, "resident_memory", lambda: round(state["now"] * 1e9))

    def steps(*sizes):
        for size in sizes:
            state["now"] = size
            limit.after_step()
        return state["given"]

    limit = HoleLimit()
    steps.begin = limit.begin
    return steps


def test_holes_are_given_back_once_and_whenever_they_have_grown_by_a_twentieth(occupied):
    assert occupied(*[15.0] * SETTLED) == 1
    assert occupied(*[10.0] * SETTLED, 10.2, 10.4, 10.5) == 1
    for expected in (2, 3, 4):
        assert occupied(10.0, 10.4, 10.6) == expected


def test_small_processes_are_left_alone(occupied):
    assert occupied(*[0.1] * SETTLED * 2) == 1
    assert occupied(0.15, 0.16) == 1
    assert occupied(0.17) == 2


def test_what_steps_need_is_not_given_back_again_and_again(occupied):
    """Such as larger images: one step shows it."""
    assert occupied(*[10.0] * SETTLED * 2, *[20.0] * 9) == 2


def test_what_two_kinds_of_steps_in_turns_take_is_kept_for_both(occupied):
    """A validation between two epochs of training."""
    assert occupied(*[10.0] * SETTLED * 2) == 1
    occupied.begin("validation")
    assert occupied(*[12.0] * SETTLED * 3) == 1
    for _ in range(3):
        assert occupied(*[10.0] * 9) == 1
        occupied.begin("validation")
        assert occupied(*[12.0] * 9, 12.4) == 1
    assert occupied(12.7) == 2


def test_steps_of_a_kind_met_before_show_nothing_new(occupied):
    occupied(*[10.0] * SETTLED * 2)
    for expected in (2, 3):
        occupied.begin("")
        assert occupied(10.0, 10.6) == expected


def test_the_second_kind_may_begin_before_the_first_has_shown_what_it_takes(occupied):
    """Epochs of two steps: what is taken is known after the first trim, by steps of both kinds."""
    assert occupied(10.0, 10.0) == 0
    occupied.begin("validation")
    assert occupied(12.0, 12.0) == 1
    assert occupied(*[10.0, 10.0, 12.0, 12.0] * 4) == 1


HOLES = """
import numpy as np
from models.kernels.kept_memory import SETTLED, HoleLimit, keep_freed_memory
from utils.hardware import resident_memory
keep_freed_memory()
limit = HoleLimit()
for size in [1 << 20] * SETTLED * 2 + [1 << 25]:
    np.ones(size)
    kept = resident_memory()
    limit.after_step()
print(kept - resident_memory())
"""


@glibc
def test_what_is_kept_beyond_the_first_steps_goes_back_to_the_system():
    # 256 MiB, in bytes.
    assert int(output_of(HOLES)) > 240 << 20


@pytest.fixture
def fresh():
    """No scratch of the tests before, and none of this one after."""
    release_scratch()
    yield
    release_scratch()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_scratch_has_the_shape_and_type_asked_for(dtype, fresh):
    found = scratch("input", (3, 4, 5), dtype)
    assert found.shape == (3, 4, 5) and found.dtype == dtype and found.is_contiguous()


def test_the_same_scratch_serves_what_is_not_larger(fresh):
    first = scratch("input", (4, 8), torch.float32)
    assert scratch("input", (8, 4), torch.bfloat16).data_ptr() == first.data_ptr()
    larger = scratch("input", (5, 8), torch.float32)
    larger.fill_(1)
    assert scratch("input", (4, 8), torch.float32).data_ptr() == larger.data_ptr() != first.data_ptr()


def test_names_and_threads_have_scratch_of_their_own(fresh):
    found = [scratch("input", (8,), torch.float32), scratch("output", (8,), torch.float32)]
    thread = threading.Thread(target=lambda: found.append(scratch("input", (8,), torch.float32)))
    thread.start()
    thread.join()
    assert len({memory.data_ptr() for memory in found}) == 3


def test_scratch_of_inference_mode_serves_training(fresh):
    with torch.inference_mode():
        scratch("input", (8,), torch.float32).zero_()
    again = scratch("input", (8,), torch.float32)
    assert not again.is_inference()
    again += 1


def test_released_scratch_is_not_used_again(fresh):
    kept = scratch("input", (8,), torch.float32)
    release_scratch()
    assert scratch("input", (8,), torch.float32).data_ptr() != kept.data_ptr()
