"""Cores and memory: the limits of control groups, version 1 and 2, count."""

import contextlib
import os
import platform
import subprocess
import sys

import pytest

import utils.hardware
from utils.hardware import (
    available_memory,
    control_groups,
    free_shared_memory,
    freed_memory_kept,
    keep_freed_memory,
    most_taken,
    usable_cores,
)

MEMINFO = "MemTotal:       16000000 kB\nMemAvailable:    8000000 kB\n"


def machine(root, groups, files):
    for name, text in {"proc/meminfo": MEMINFO, "proc/self/cgroup": groups, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_without_limits_all_that_is_free(tmp_path):
    root = machine(tmp_path, "0::/\n", {"sys/fs/cgroup/memory.max": "max\n", "sys/fs/cgroup/cpu.max": "max 100000\n"})
    assert available_memory(root) == 8_000_000 * 1024
    assert usable_cores(root) == len(os.sched_getaffinity(0))
    assert available_memory(tmp_path / "elsewhere") is None


@pytest.mark.parametrize("folder", ["", "job/", "job/step/"], ids=["whole", "parent", "own"])
def test_version_2_limits_of_every_group_around_count(folder, tmp_path):
    files = {
        f"sys/fs/cgroup/{folder}memory.max": "1000000\n",
        f"sys/fs/cgroup/{folder}memory.current": "900000\n",
        f"sys/fs/cgroup/{folder}memory.stat": "anon 500000\ninactive_file 300000\n",
        f"sys/fs/cgroup/{folder}cpu.max": "50000 100000\n",
        "sys/fs/cgroup/job/step/cgroup.procs": "1\n",
    }
    root = machine(tmp_path, "0::/job/step\n", files)
    assert available_memory(root) == 400_000
    assert usable_cores(root) == 1


def test_version_1_limits_count(tmp_path):
    files = {
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "2000000\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": "500000\n",
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "20000\n",
        "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
    }
    # The path is the host's, and not mounted here.
    root = machine(tmp_path, "4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n0::/\n", files)
    assert available_memory(root) == 1_500_000
    assert usable_cores(root) == 1
    assert [str(each.relative_to(root)) for each in control_groups("memory", root)][0] == "sys/fs/cgroup/memory"


def test_this_machine():
    assert usable_cores() >= 1
    assert free_shared_memory() is None or free_shared_memory() >= 0


def output_of(script, *arguments):
    """What a script prints in a process whose environment says nothing to the C library."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout


FETCHED = """
import resource, sys
import numpy as np
from utils.hardware import keep_freed_memory

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
from utils.hardware import give_freed_memory_back, keep_freed_memory

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
    monkeypatch.setattr(utils.hardware.ctypes, "CDLL", lambda _: fake_library(changed))
    for name in [name for name in os.environ if name.startswith(("MALLOC_", "GLIBC_"))]:
        monkeypatch.delenv(name)
    for free, processes, kept in [(most_taken() * 9, 1, True), (most_taken() * 9, 20, False), (0, 1, False)]:
        monkeypatch.setattr(utils.hardware, "available_memory", lambda free=free: free)
        assert keep_freed_memory(processes) is kept
        assert bool(changed) is kept
        changed.clear()
    monkeypatch.setattr(utils.hardware, "available_memory", lambda: None)
    assert not keep_freed_memory()


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize(("begun", "possible"), [(True, True), (True, False), (False, True)])
def test_what_a_context_keeps_is_given_back_when_it_ends(begun, possible, fails, monkeypatch):
    calls = []
    monkeypatch.setattr(utils.hardware, "keep_freed_memory", lambda: calls.append("keep") or possible)
    monkeypatch.setattr(utils.hardware, "give_freed_memory_back", lambda: calls.append("give back"))
    with contextlib.suppress(ZeroDivisionError), freed_memory_kept() as keep:
        if begun:
            keep()
        assert 1 / (not fails)
    assert calls == ["keep"] * begun + ["give back"] * (begun and possible)


def test_who_sets_up_the_c_library_decides(monkeypatch):
    monkeypatch.setattr(utils.hardware, "available_memory", lambda: 1 << 50)
    monkeypatch.setattr(utils.hardware.ctypes, "CDLL", lambda _: pytest.fail("has been changed"))
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
