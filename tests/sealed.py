"""A process without network sockets whose HOME cannot be written to, as on a cluster's machine; no rights are needed.

The system itself refuses the sockets (seccomp), so that libraries in C and child processes are refused too.
"""

import ctypes
import os
import platform
import socket
import struct
import subprocess
from pathlib import Path

import pytest

# The numbers of the call `socket`, and of the architecture, as the kernel tells them to a filter.
MACHINES = {"x86_64": (41, 0xC000003E), "aarch64": (198, 0xC00000B7)}
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, REFUSE = 0x7FFF0000, 0x00050000 | 13  # the call fails with EACCES
NO_NEW_PRIVILEGES, SECCOMP, FILTER = 38, 22, 2
DROP_FROM_BOUNDS, OVERRIDE_PERMISSIONS = 24, 1


def refuse_network() -> None:
    """Let the kernel refuse internet sockets to this process and its children from now on."""
    call, architecture = MACHINES[platform.machine()]
    steps = [
        (LOAD, 0, 0, 4), (EQUAL, 0, 5, architecture),
        (LOAD, 0, 0, 0), (EQUAL, 0, 3, call),
        (LOAD, 0, 0, 16), (EQUAL, 2, 0, socket.AF_INET), (EQUAL, 1, 0, socket.AF_INET6),
        (RETURN, 0, 0, ALLOW), (RETURN, 0, 0, REFUSE),
    ]  # fmt: skip
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(steps), ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0) or libc.prctl(SECCOMP, FILTER, program, 0, 0):
        raise OSError(ctypes.get_errno(), "no seccomp")


def obey_permissions() -> None:
    """Take from root the right to write where permissions say no, from the next program on; nothing for others."""
    if os.geteuid() == 0:
        ctypes.CDLL(None, use_errno=True).prctl(DROP_FROM_BOUNDS, OVERRIDE_PERMISSIONS, 0, 0, 0)


def seal() -> None:
    """Both, in a child process before its program starts."""
    refuse_network()
    obey_permissions()


def run_sealed(command: list[str], home: Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    """Run a program without network and with a HOME that is read-only; its code and what it said."""
    if platform.system() != "Linux" or platform.machine() not in MACHINES:
        pytest.skip("the filter of system calls is Linux's")
    home.mkdir(exist_ok=True)
    home.chmod(0o555)
    own = ("XDG_", "ORT_", "YOLO_", "TORCH", "HF_", "MPL", "ALIGNYOLO")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(own)}
    return subprocess.run(
        command,
        env={**kept, "HOME": str(home), "OMP_NUM_THREADS": "1", **environment},
        cwd=cwd,
        preexec_fn=seal,  # noqa: PLW1509 - the tests that use it start no threads before
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
