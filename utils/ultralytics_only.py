"""The only module that imports ultralytics: offline, silent, without telemetry or traces in the process."""

import importlib
import math
import os
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torch import _tensor_str

from utils.regular_file import require_regular

# Removed by its finaliser when the process ends; ultralytics writes its settings file here instead of into HOME.
_settings_folder = tempfile.TemporaryDirectory(prefix="alignyolo-", ignore_cleanup_errors=True)

_OFFLINE = {
    "YOLO_OFFLINE": "1",
    "YOLO_AUTOINSTALL": "0",
    "YOLO_VERBOSE": "0",
    "YOLO_CONFIG_DIR": _settings_folder.name,
}
_parts: dict[tuple[str, str], Any] = {}
_importing = threading.Lock()
# With these set, importing waits at a barrier for the other ranks, which may never import it.
_DISTRIBUTED = ("WORLD_SIZE", "RANK", "LOCAL_RANK")


@contextmanager
def _process_state_kept() -> Iterator[None]:
    """Restore what importing ultralytics changes: environment, warnings, print options, threads and functions.

    At an import only, once each: other threads of the process share all of that.
    """
    environment, numpy_options, cv2_threads = dict(os.environ), np.get_printoptions(), cv2.getNumThreads()
    torch_options = dict(vars(_tensor_str.PRINT_OPTS))
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
        vars(_tensor_str.PRINT_OPTS).update(torch_options)
        # One by one: emptied and filled again, it would lack for a moment what another thread asks for.
        for name in {*environment, *os.environ}:
            if name not in environment:
                os.environ.pop(name, None)
            elif os.environ.get(name) != environment[name]:
                os.environ[name] = environment[name]


os.environ.update(_OFFLINE)
with _process_state_kept():
    for _name in _DISTRIBUTED:
        os.environ.pop(_name, None)
    from ultralytics.utils import SETTINGS
    from ultralytics.utils.torch_utils import ModelEMA

    dict.update(SETTINGS, sync=False)  # no telemetry; the plain dict method leaves the settings file alone

__all__ = ["ModelEMA", "benchmark_peer", "file_loader", "inference_peer", "opencv_silent", "result", "results_class"]
__all__ += ["stream_loader", "video_suffixes"]


def _part(module: str, name: str) -> Any:
    """Return a part of ultralytics, imported once."""
    if (module, name) not in _parts:
        with _importing, _process_state_kept():
            _parts[module, name] = getattr(importlib.import_module(module), name)
    return _parts[module, name]


def result(
    image: np.ndarray, path: str, names: dict[int, str], boxes: torch.Tensor, scores: torch.Tensor, labels: torch.Tensor
) -> Any:
    """Make an ultralytics Results of a BGR image (h, w, 3), boxes (N, 4) xyxy, scores (N,) and labels (N,)."""
    rows = torch.cat([boxes.float(), scores[:, None].float(), labels[:, None].float()], dim=1)
    return results_class()(image, path=path, names=names, boxes=rows)


def results_class() -> type:
    """Return the class of `result`; imported once, by the first thread that asks."""
    return _part("ultralytics.engine.results", "Results")


@contextmanager
def opencv_silent() -> Iterator[None]:
    """Silence OpenCV and FFmpeg on a video or stream that cannot be opened: our own words are one line."""
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    given = os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)
        if given == "-8":
            os.environ.pop("OPENCV_FFMPEG_LOGLEVEL", None)


def file_loader(source: str | list[str], vid_stride: int) -> Any:
    """Return ultralytics' loader of images, folders, globs, lists and videos; yields ([path], [BGR image], [info]).

    Raises FileNotFoundError where the source holds nothing, and from `next` for a video that cannot be opened.
    """
    LoadImagesAndVideos = _part("ultralytics.data.loaders", "LoadImagesAndVideos")

    class Loader(LoadImagesAndVideos):  # type: ignore[valid-type, misc]
        cap, frame, frames, fps = None, 0, 0, 0.0

        def _new_video(self, path: str) -> None:
            if hasattr(self, "count"):  # not yet while constructing: a damaged first video would end everything
                try:
                    require_regular(path)
                except OSError as error:
                    raise FileNotFoundError(*error.args) from None
                with opencv_silent():
                    super()._new_video(path)

    return Loader(source, vid_stride=vid_stride)


def video_suffixes() -> tuple[str, ...]:
    """Return the suffixes of the videos that `file_loader` reads."""
    return tuple(sorted(f".{suffix}" for suffix in _part("ultralytics.data.utils", "VID_FORMATS")))


def stream_loader(source: str, vid_stride: int) -> Any:
    """Return ultralytics' loader of webcams and network streams; ConnectionError when one cannot be opened."""
    LoadStreams = _part("ultralytics.data.loaders", "LoadStreams")

    class Loader(LoadStreams):  # type: ignore[valid-type, misc]
        @property
        def buffer(self) -> bool:
            """Wait for each frame to be taken, which the frames of a file at an address can; a camera's cannot."""
            return math.isfinite(self.frames[0])

        @buffer.setter
        def buffer(self, wanted: bool) -> None:
            pass

    with opencv_silent():
        return Loader(source, vid_stride=vid_stride)


def inference_peer() -> SimpleNamespace:
    """Return the parts of ultralytics that benchmarks/inference.py measures.

    YOLO (its models, to export) and its NMS.
    """
    with _process_state_kept():
        from ultralytics import YOLO
        from ultralytics.utils.nms import non_max_suppression

    return SimpleNamespace(YOLO=YOLO, non_max_suppression=non_max_suppression)


def benchmark_peer() -> SimpleNamespace:
    """Return the parts of ultralytics that benchmarks/ measures: its trainer, validator, data set, model and settings.

    `cv2_threads` and `threads` are what its own commands give OpenCV and, on a CPU, torch. `without_amp_check()` lets
    it train in half precision without downloading a network to try that with.
    """
    with _process_state_kept():
        import ultralytics.engine.trainer
        from ultralytics.cfg import get_cfg
        from ultralytics.data.dataset import YOLODataset
        from ultralytics.models.yolo.detect import DetectionTrainer, DetectionValidator
        from ultralytics.nn.tasks import DetectionModel
        from ultralytics.utils import NUM_THREADS

    return SimpleNamespace(
        get_cfg=get_cfg,
        Dataset=YOLODataset,
        Trainer=DetectionTrainer,
        Validator=DetectionValidator,
        Model=DetectionModel,
        threads=NUM_THREADS,
        cv2_threads=0,
        without_amp_check=lambda: setattr(ultralytics.engine.trainer, "check_amp", lambda model: True),
    )
