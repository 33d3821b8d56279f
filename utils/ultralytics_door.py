"""The only module that imports ultralytics: offline, silent, without telemetry or traces in the process."""

import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import numpy as np
import torch
from PIL import Image

# Removed by its finaliser when the process ends; ultralytics writes its settings file here instead of into HOME.
_settings_folder = tempfile.TemporaryDirectory(prefix="alignyolo-", ignore_cleanup_errors=True)

_OFFLINE = {
    "YOLO_OFFLINE": "1",
    "YOLO_AUTOINSTALL": "0",
    "YOLO_VERBOSE": "0",
    "YOLO_CONFIG_DIR": _settings_folder.name,
}
# With these set, importing waits at a barrier for the other ranks, which may never import it.
_DISTRIBUTED = ("WORLD_SIZE", "RANK", "LOCAL_RANK")


@contextmanager
def _process_state_kept() -> Iterator[None]:
    """Restores what importing ultralytics changes: environment, warnings, print options, threads and functions."""
    environment, numpy_options, cv2_threads = dict(os.environ), np.get_printoptions(), cv2.getNumThreads()
    functions = [(torch, "save"), (Image, "open"), (cv2, "imread"), (cv2, "imwrite"), (cv2, "imshow")]
    originals = [getattr(module, name) for module, name in functions]
    try:
        with warnings.catch_warnings():
            yield
    finally:
        for (module, name), original in zip(functions, originals, strict=True):
            setattr(module, name, original)
        cv2.setNumThreads(cv2_threads)
        np.set_printoptions(**numpy_options)
        torch.set_printoptions(profile="default")
        os.environ.clear()
        os.environ.update(environment)


os.environ.update(_OFFLINE)
with _process_state_kept():
    for _name in _DISTRIBUTED:
        os.environ.pop(_name, None)
    from ultralytics.utils import SETTINGS
    from ultralytics.utils.torch_utils import EarlyStopping, ModelEMA

    dict.update(SETTINGS, sync=False)  # no telemetry; the plain dict method leaves the settings file alone

__all__ = ["EarlyStopping", "ModelEMA"]
