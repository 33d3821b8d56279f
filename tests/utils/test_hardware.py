"""Cores and memory: the limits of control groups, version 1 and 2, count."""

import mmap
import os
from pathlib import Path

import pytest

from utils.hardware import (
    available_memory,
    control_groups,
    cpu_features,
    free_shared_memory,
    has_gpu,
    resident_memory,
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


def test_features_and_gpus_are_those_that_the_system_tells(tmp_path):
    assert cpu_features(tmp_path) == frozenset()
    root = machine(tmp_path, "", {"proc/cpuinfo": "processor : 0\nflags\t: fpu avx2\n\nflags\t: fpu avx2\n"})
    assert cpu_features(root) == {"fpu", "avx2"}
    assert not has_gpu(root)
    (root / "dev").mkdir()
    (root / "dev/nvidiactl").touch()
    assert not has_gpu(root)
    (root / "dev/nvidia1").touch()
    assert has_gpu(root)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="another system than Linux")
def test_resident_memory_grows_with_what_is_written(tmp_path):
    size = 64 << 20
    with mmap.mmap(-1, size) as pages:
        before = resident_memory()
        pages.write(b"1" * size)
        assert resident_memory() - before > 0.9 * size
    assert resident_memory(tmp_path) == 0
