"""A loaded model: images in, ultralytics' Results out."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.images import ImageError, read_image
from engine.export.backend import Backend, input_size
from engine.export.runtimes import device_for, open_backend
from engine.predict.arrays import as_photo, is_array
from models.postprocess import Postprocess
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
            UserError: An image cannot be read, or an array is none.
        """
        sources = source if isinstance(source, (list, tuple)) else [source]
        postprocess = self.postprocess if conf is None else replace(self.postprocess, confidence=conf)
        results = []
        for each in sources:
            path = "" if is_array(each) else str(each)
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
        if self.backend.final:
            found = _taken(outputs[0], outputs[0]["scores"] >= postprocess.confidence)
            everything = outputs[0]["scores"], outputs[0]["labels"]
        else:
            boxes, scores = outputs[0][0], outputs[1][0]
            found = postprocess.select(boxes, scores)
            everything = scores.amax(0), torch.arange(scores.shape[1])
        if wanted is not None:
            found = _taken(found, torch.isin(found["labels"], torch.tensor(wanted)))
            of_wanted = torch.isin(everything[1], torch.tensor(wanted))
            everything = everything[0][of_wanted], everything[1][of_wanted]
        self._seen.best = self._best(*everything)
        boxes = letterbox.undo(found["boxes"].float())
        bgr = np.ascontiguousarray(image[..., ::-1])
        return result(bgr, path, self.names, boxes, found["scores"], found["labels"])

    def _best(self, scores: torch.Tensor, labels: torch.Tensor) -> tuple[float, str]:
        """Return the best of scores (N,) and the name of its class (N,); (0, "") where there is none."""
        if not len(scores):
            return 0.0, ""
        row = int(scores.argmax())
        return float(scores[row]), self.backend.names[int(labels[row])]


def _taken(found: dict[str, torch.Tensor], rows: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the detections of these rows (N,)."""
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
    """Load weights or an exported file; UserError where it cannot be opened or cannot take `imgsz`.

    `precision` auto computes in bf16 where the device does, which moves scores by about .01; float32 is exact.
    """
    results_class()  # now, since its import touches what all threads of the process share
    backend = open_backend(weights, device_for(Path(weights), device), precision=precision)
    return Model(backend, input_size(backend, imgsz, weights), Postprocess(conf, nms_iou, max_det, multi_label=False))
