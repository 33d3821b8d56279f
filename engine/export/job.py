"""What is exported, and what a file says about itself."""

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import torch

from alignyolo import __version__
from models.yolov3.export_network import ExportNetwork
from utils.config.knobs import Config, ExportConfig, plain


@dataclass(frozen=True)
class Job:
    """The detector, its config, what its checkpoint held, the flags, and the input size (height, width)."""

    detector: torch.nn.Module
    config: Config
    contents: dict[str, Any]
    settings: ExportConfig
    size: tuple[int, int]

    def network(self) -> ExportNetwork:
        """The network in the layout that was asked for, batch normalisation folded."""
        return ExportNetwork(self.detector.network, self.config.model, self.settings.layout)

    def example(self) -> torch.Tensor:
        """A batch (B, 3, H, W) of the exported shape, to trace with."""
        return torch.zeros(self.settings.batch_size, 3, *self.size)

    def metadata(self) -> dict[str, Any]:
        """What the file says about itself; the first keys as ultralytics' exporter names them."""
        config, settings = self.config, self.settings
        described = json.dumps(config.to_dict(), sort_keys=True).encode()
        metrics = {key: value for key, value in self.contents.get("metrics", {}).items() if isinstance(value, float)}
        limits = {"conf": settings.conf, "nms_iou": settings.nms_iou, "max_det": settings.max_det}
        return {
            "description": f"AlignYOLO {config.run.cfg}",
            "author": "AlignYOLO",
            "date": datetime.now().astimezone().isoformat(timespec="seconds"),
            "version": __version__,
            "license": "AGPL-3.0",
            "stride": max(config.model.strides),
            "task": "detect",
            "batch": settings.batch_size,
            "imgsz": list(self.size),
            "names": dict(enumerate(config.names)),
            "args": {"batch": settings.batch_size, "half": settings.half, "dynamic": settings.dynamic, "nms": False},
            "channels": 3,
            "layout": settings.layout,
            **({"nms_limits": limits} if settings.layout == "nms" else {}),
            "letterbox": "scale = min(H/h, W/w), resized to whole pixels, centred on 114",
            "colour_order": "RGB, 0 to 1",
            "config_sha256": hashlib.sha256(described).hexdigest(),
            "metrics": json.dumps(metrics),
            "model": json.dumps(plain(config.model)),
        }
