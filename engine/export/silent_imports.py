"""Imports of runtimes that report to their makers, unless they are told not to when they are imported."""

import os
import sys
from types import ModuleType


def silent_onnxruntime() -> ModuleType:
    """onnxruntime, which by itself keeps an identity of the machine in HOME and reports to its makers."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when it is imported
    import onnxruntime

    return onnxruntime


def silent_openvino() -> ModuleType:
    """Import OpenVINO without openvino_telemetry, which looks up its makers' host and writes an identity into HOME.

    OpenVINO does without it where it is not installed, which is what this import looks like.
    """
    name = "openvino_telemetry"
    given = sys.modules.get(name)
    sys.modules[name] = None  # type: ignore[assignment] - how an import is made to fail
    try:
        import openvino
    finally:
        del sys.modules[name]
        if given is not None:
            sys.modules[name] = given
    return openvino
