"""A loaded model: images in, ultralytics' Results out."""

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.images import ImageError, read_image
from engine.export.backend import Backend, input_size, within_limits
from engine.export.detector import within
from engine.export.runtimes import device_for, open_backend
from engine.predict.arrays import EXPECTED, as_photo, is_array
from models.postprocess import Postprocess
from utils.config.flags import parsed
from utils.config.knobs import DetectConfig
from utils.errors import UserError, printable
from utils.letterbox import Letterbox
from utils.ultralytics_only import result, results_class


@dataclass
class Model:
    """A detector that is called with an image, or a path to one, and returns ultralytics' Results.

    Many threads may call one model at once: nothing is shared but weights that do not change.
    """

    backend: Backend
    image_size: tuple[int, int]
    postprocess: Postprocess
    weights: str | Path = "the file"  # as messages name it
    _seen: threading.local = field(default_factory=threading.local, repr=False, compare=False)

    @property
    def best(self) -> tuple[float, str]:
        """The best score of the last image of this thread, also below the threshold, and its class."""
        return getattr(self._seen, "best", (0.0, ""))

    @property
    def names(self) -> dict[int, str]:
        """Class names by number."""
        return dict(enumerate(self.backend.names))

    def __call__(self, source: Any, conf: float | None = None) -> list:
        """Return the Results of one image or of several.

        Args:
            source: A path, an image as engine/predict/arrays.py takes them (array, tensor, Pillow), or a list of those.
            conf: The lowest score to report; None leaves the model's own.

        Returns:
            One of ultralytics' Results for each image.

        Raises:
            UserError: An image cannot be read, an array is none, or `conf` is not from 0 to 1, or below what a file
                with NMS was made with.
        """
        if conf is not None:
            conf = parsed(DetectConfig, {"conf": conf}).conf
        sources = source if isinstance(source, (list, tuple)) else [source]
        postprocess = self.postprocess if conf is None else replace(self.postprocess, confidence=conf)
        if conf is not None and self.backend.final:
            within_limits(self.backend, {"conf": conf}, {}, self.weights)
        results = []
        for each in sources:
            path = "" if is_array(each) else path_of(each)
            try:
                bits = self.backend.photo_bits
                image = as_photo(each, bits) if is_array(each) else read_image(path, bits=bits)
            except ImageError as error:
                raise UserError(printable(error)) from None
            results.append(self.detect(image, path, postprocess))
        return results

    def detect(
        self,
        image: np.ndarray,
        path: str,
        postprocess: Postprocess | None = None,
        wanted: Sequence[int] | None = None,
    ) -> Any:
        """Return the Results of one RGB image (h, w, 3), with `wanted` of these classes only."""
        postprocess = postprocess or self.postprocess
        if not image.size:
            self._seen.best = (0.0, "")
            return result(image, path, self.names, torch.zeros(0, 4), torch.zeros(0), torch.zeros(0))
        letterbox = Letterbox.fit(image.shape[:2], self.image_size)
        tensor = torch.from_numpy(letterbox.apply(image)).permute(2, 0, 1)[None].float() / 255
        copies = self.backend.batch or 1
        outputs = self.backend.run(tensor.expand(copies, -1, -1, -1).contiguous())
        # Of the classes that are wanted alone from here on, so that others do not fill up `max_detections`; NMS is per
        # class, and does not change by that.
        if self.backend.final:
            found = _of_classes(outputs[0], outputs[0]["labels"], wanted)
            self._seen.best = self._best(found["scores"][:, None], found["labels"])
            found = within(found, postprocess)
        else:
            boxes, scores = outputs[0][0], outputs[1][0]
            if wanted is not None:
                kept = _of_classes({"boxes": boxes, "scores": scores}, scores.max(1).indices, wanted)
                boxes, scores = kept["boxes"], kept["scores"]
            self._seen.best = self._best(scores)
            found = postprocess.select(boxes, scores)
        boxes = letterbox.undo(found["boxes"].float())
        bgr = np.ascontiguousarray(image[..., ::-1])
        return result(bgr, path, self.names, boxes, found["scores"], found["labels"])

    def _best(self, scores: torch.Tensor, labels: torch.Tensor | None = None) -> tuple[float, str]:
        """Return the best of scores (N, C) and the name of its class, (0, "") where there is none.

        The class is the score's column, or where `labels` (N,) are given its row's.
        """
        if not scores.numel():
            return 0.0, ""
        row, column = divmod(int(scores.argmax()), scores.shape[1])
        return float(scores[row, column]), self.backend.names[column if labels is None else int(labels[row])]


def path_of(source: Any) -> str:
    """Return the path that a source is; UserError for what is neither a path nor an array."""
    if isinstance(source, (str, os.PathLike)):
        return os.fsdecode(source)
    raise UserError(f"an image of type {type(source).__name__}: expected a path or an array: {EXPECTED}")


def _of_classes(
    found: dict[str, torch.Tensor], labels: torch.Tensor, wanted: Sequence[int] | None
) -> dict[str, torch.Tensor]:
    """Return the rows whose labels (N,) are wanted; None wants all."""
    if wanted is None:
        return found
    rows = torch.isin(labels, torch.tensor(wanted))
    return {part: value[rows] for part, value in found.items()}


def load(
    weights: str | Path,
    imgsz: Sequence[int] = (),
    conf: float = 0.25,
    nms_iou: float = 0.45,
    max_det: int = 300,
    device: str = "",
    precision: str = "auto",
) -> Model:
    """Load weights or an exported file; UserError where it cannot be opened or cannot follow the settings.

    `precision` auto computes in bf16 where the device does, which moves scores by about .01; float32 is exact.
    """
    results_class()  # now, since its import touches what all threads of the process share
    backend = open_backend(weights, device_for(Path(weights), device), precision=precision)
    limits: dict[str, Any] = {"conf": conf, "nms_iou": nms_iou, "max_det": max_det}
    if backend.final:
        limits = within_limits(backend, limits, vars(DetectConfig()), weights)
    postprocess = Postprocess(limits["conf"], limits["nms_iou"], limits["max_det"], multi_label=False)
    return Model(backend, input_size(backend, imgsz, weights), postprocess, weights)
