"""A Backend with this project's NMS, called as a detector is."""

import torch
from torch import Tensor, nn

from engine.export.backend import Backend
from models.postprocess import Postprocess


class BackendDetector(nn.Module):
    """A Backend with this project's NMS, called as a detector is: images (B, 3, H, W) to detections per image."""

    def __init__(self, backend: Backend, postprocess: Postprocess):
        super().__init__()
        self.backend, self.postprocess = backend, postprocess

    def forward(self, images: Tensor) -> list[dict[str, Tensor]]:
        """Run the batch whole, or in parts of the size that the file was exported for, the last one filled up."""
        size = self.backend.batch or len(images)
        found: list[dict[str, Tensor]] = []
        for part in images.split(size):
            filled = torch.cat([part, part[-1:].expand(size - len(part), -1, -1, -1)])
            found += self._detections(filled.contiguous())[: len(part)]
        return found

    def _detections(self, images: Tensor) -> list[dict[str, Tensor]]:
        outputs = self.backend.run(images)
        if not self.backend.final:
            return [self.postprocess.select(*image) for image in zip(*outputs, strict=True)]
        return [within(each, self.postprocess) for each in outputs]


def within(found: dict[str, Tensor], postprocess: Postprocess) -> dict[str, Tensor]:
    """Return what is left of the detections of a file that does its own NMS: the best above the threshold."""
    rows = found["scores"] > postprocess.confidence
    return {part: values[rows][: postprocess.max_detections] for part, values in found.items()}
