"""From a YOLOv3 head's raw outputs to boxes and scores: the one place where that is computed."""

from typing import NamedTuple

import torch
from torch import Tensor

from alignyolo.anchors import Anchors


class Decoding(NamedTuple):
    """How raw outputs become boxes: `bounded` (ultralytics') or `darknet` (YOLOv3's), and the reach of the former."""

    kind: str = "bounded"
    xy_reach: float = 0.5

    @property
    def reach(self) -> float:
        """Return the cells by which a decoded centre can leave its cell."""
        return 0.0 if self.kind == "darknet" else self.xy_reach

    def center_and_size(
        self, raw: Tensor, centers: Tensor, sizes: Tensor, strides: Tensor | float
    ) -> tuple[Tensor, Tensor]:
        """Turn raw (..., 4) outputs into centres and sides (..., 2) in pixels, given those of the anchors.

        bounded: centre (1 + 2r) sigmoid - r cells, side (2 sigmoid)^2 anchor sides.
        darknet: centre sigmoid cells, side exp anchor sides.
        """
        raw_center, raw_size = raw.split(2, dim=-1)
        if self.kind == "darknet":
            offset, scale = raw_center.sigmoid() - 0.5, raw_size.exp()
        else:
            doubled = 2 * raw_size.sigmoid()
            offset, scale = (raw_center.sigmoid() - 0.5) * (1 + 2 * self.xy_reach), doubled * doubled
        return centers + offset * strides, sizes * scale

    def boxes(self, raw: Tensor, anchors: Anchors) -> Tensor:
        """Turn raw (..., A, 4) outputs into xyxy pixels (..., A, 4), in float32 or wider.

        The anchors may be picked to match (alignyolo.anchors.take).
        """
        raw = raw.to(torch.promote_types(raw.dtype, torch.float32))
        center, size = self.center_and_size(raw, anchors.centers, anchors.sizes, anchors.strides[:, None])
        half = size / 2
        return torch.cat([center - half, center + half], dim=-1)

    def candidates(self, raw: Tensor, anchors: Anchors) -> tuple[Tensor, Tensor]:
        """Turn raw (B, A, 5 + C) outputs into boxes (B, A, 4) xyxy pixels and scores (B, A, C), in float32."""
        with torch.autocast(raw.device.type, enabled=False):
            raw = raw.float()
            return self.boxes(raw[..., :4], anchors), scores_of(raw[..., 4:])


def scores_of(logits: Tensor) -> Tensor:
    """Turn objectness and class logits (..., 1 + C) into scores (..., C): objectness times class probability."""
    return logits[..., :1].sigmoid() * logits[..., 1:].sigmoid()
