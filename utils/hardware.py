"""What this machine lets the process use: cores, memory and shared memory, the limits of a container counted in."""

import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")


def usable_cores(root: Path = ROOT) -> int:
    """Return cores this process may run on, or as many as its control groups give it the time of."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for folder in control_groups("cpu", root):
        quota, _, period = _text(folder / "cpu.max").partition(" ")
        quota, period = quota or _text(folder / "cpu.cfs_quota_us"), period or _text(folder / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit():
            cores = min(cores, math.ceil(int(quota) / int(period)))
    return max(cores, 1)


def available_memory(root: Path = ROOT) -> int | None:
    """Return bytes of memory that this process can still take without swapping; None where the system does not say."""
    fields = dict(line.split(":", 1) for line in _text(root / "proc/meminfo").splitlines() if ":" in line)
    if "MemAvailable" not in fields:
        return None
    free = int(fields["MemAvailable"].split()[0]) * 1024
    for folder in control_groups("memory", root):
        limit = _text(folder / "memory.max") or _text(folder / "memory.limit_in_bytes")
        used = _text(folder / "memory.current") or _text(folder / "memory.usage_in_bytes")
        if limit.isdigit() and used.isdigit():
            # What files left in memory counts as used, and is given up when somebody asks.
            statistics = dict(line.split(" ", 1) for line in _text(folder / "memory.stat").splitlines() if " " in line)
            files = statistics.get("total_inactive_file") or statistics.get("inactive_file") or "0"
            free = min(free, int(limit) - int(used) + int(files))
    return max(free, 0)


def cpu_features(root: Path = ROOT) -> frozenset[str]:
    """Return what Linux says that an x86 processor can do ("avx2", "amx_bf16"); nothing elsewhere."""
    flags = [line for line in _text(root / "proc/cpuinfo").splitlines() if line.startswith("flags")]
    return frozenset(flags[0].partition(":")[2].split()) if flags else frozenset()


def has_gpu(root: Path = ROOT) -> bool:
    """Tell whether Linux shows a GPU of NVIDIA's or AMD's, or one that Windows lends it."""
    nodes = [*(root / "dev").glob("nvidia[0-9]*"), root / "dev/kfd", root / "dev/dxg"]
    return any(node.exists() for node in nodes)


def most_taken() -> int:
    """Return the most bytes of memory that this process has occupied, on Linux."""
    import resource  # Windows has none.

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def resident_memory(root: Path = ROOT) -> int:
    """Return the bytes of memory that this process occupies now, on Linux; 0 elsewhere."""
    fields = _text(root / "proc/self/statm").split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") if len(fields) > 1 else 0


def free_shared_memory(folder: Path = Path("/dev/shm")) -> int | None:
    """Return bytes free where processes share memory, which is how loading processes hand over batches.

    None without it.
    """
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def control_groups(controller: str, root: Path = ROOT) -> Iterator[Path]:
    """Yield the folders of the control groups (version 1 or 2) that hold this process, innermost first."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        mounted = root / "sys/fs/cgroup" / (controller if controllers else "")
        inner = mounted / path.lstrip("/")
        # Inside a container the path can be that of the host, while only the top is mounted.
        yield from (each for each in (inner, *inner.parents) if each.is_relative_to(mounted) and each.is_dir())


def gib(count: float) -> str:
    """Return bytes as GiB."""
    return f"{count / 2**30:.1f} GiB"


def _text(path: Path) -> str:
    """Return what a small file of the system holds, nothing if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
