"""Ending with the process that started this one, also where that is killed."""

import os
import signal
import threading

# The process with whose end this one ends too: set by who starts runs, such as studies/trials/jobs.py.
PARENT = "ALIGNYOLO_PARENT"
LOOK_S = 0.5


def end_with_parent() -> threading.Event:
    """Watch the process that the environment names as the one to end with: this one gets SIGTERM when it is gone.

    Until the event that is returned is set: a process that goes on after its run must not be ended later.
    """
    over = threading.Event()
    parent = os.environ.get(PARENT, "")
    if not parent.isdigit():
        return over

    def watch() -> None:
        while os.getppid() == int(parent):
            if over.wait(LOOK_S):
                return
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="watches its parent", daemon=True).start()
    return over
