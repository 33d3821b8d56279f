"""Imports of runtimes that report to their makers unless they are told not to, or that print from C."""

import contextlib
import importlib
import io
import logging
import os
import sys
from collections.abc import Iterator
from types import ModuleType


def silent_onnxruntime() -> ModuleType:
    """Return onnxruntime, which by itself keeps an identity of the machine in HOME and reports to its makers."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when it is imported
    import onnxruntime

    return onnxruntime


def silent_openvino() -> ModuleType:
    """Import OpenVINO without its telemetry, which looks up its makers' host and writes an identity into HOME."""
    return _without("openvino_telemetry", "openvino")


def silent_nncf() -> ModuleType:
    """Import NNCF without the same telemetry, and without its notes on the console."""
    nncf = _without("openvino_telemetry", "nncf")
    logging.getLogger("nncf").setLevel(logging.ERROR)
    return nncf


def _without(absent: str, wanted: str) -> ModuleType:
    """Import a module that does without another where that is not installed, which is what this looks like."""
    given = sys.modules.get(absent)
    sys.modules[absent] = None  # type: ignore[assignment]  # how an import is made to fail
    try:
        return importlib.import_module(wanted)
    finally:
        del sys.modules[absent]
        if given is not None:
            sys.modules[absent] = given


@contextlib.contextmanager
def nothing_printed() -> Iterator[None]:
    """Send away what is printed, also from C, where nothing else can hold it; errors are told by what is returned."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [(number, os.dup(number)) for number in (1, 2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        for number, _ in kept:
            os.dup2(nowhere, number)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        for number, copy in kept:
            os.dup2(copy, number)
            os.close(copy)
        os.close(nowhere)
