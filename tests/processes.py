"""Ending the processes that a test has started, and no others."""

import os
import signal
import subprocess


def end_group(process: subprocess.Popen, number: int = signal.SIGKILL) -> None:
    """Send a signal to the group that a process leads, and wait for the process.

    Nothing is sent once the process has been waited for: its number may be another's by then. One that has ended and
    was not waited for keeps its number, so that what it has left behind in its group is still reached.
    """
    if process.returncode is None:
        os.killpg(process.pid, number)
        process.wait()
