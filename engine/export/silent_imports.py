"""Imports of runtimes that report to their makers, unless they are told not to when they are imported."""

import importlib
import logging
import os
import sys
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
