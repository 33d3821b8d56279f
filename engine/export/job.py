"""What is exported, and what a file says about itself."""

import hashlib
import json
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np
import torch

from alignyolo import __version__
from engine.export.metadata import VAL_SETTINGS
from models.detector import AnyDetector
from models.families import family_of
from utils.config.knobs import Config, ExportConfig, plain


@dataclass(frozen=True)
class Job:
    """The detector, its config, what its checkpoint held, the flags, the input size (height, width)."""

    detector: AnyDetector
    config: Config
    contents: dict[str, Any]
    settings: ExportConfig
    size: tuple[int, int]
    calibration: tuple[np.ndarray, ...] = ()  # batches (B, 3, H, W) of the exported shape, for int8

    def in_float32(self) -> "Job":
        """Return the job without --half and --int8, for a format that makes other numbers itself."""
        return replace(self, settings=replace(self.settings, half=False, int8=False))

    def sized_config(self) -> Config:
        """Return the config with the exported size, for formats that hold no more than weights and a config."""
        same = self.size == self.config.run.image_size
        return self.config if same else replace(self.config, run=replace(self.config.run, imgsz=self.size))

    def network(self) -> Any:
        """Return the network in the layout that was asked for, batch normalisation folded."""
        return family_of(self.config.model).exporting.build(self.detector, self.config, self.settings.layout)

    def example(self) -> torch.Tensor:
        """Return a batch (B, 3, H, W) of the exported shape, to trace with."""
        return torch.zeros(self.settings.batch_size, 3, *self.size)

    def metadata(self, pinned: bool = True) -> dict[str, Any]:
        """Return what the file says about itself; the first keys as ultralytics' exporter names them.

        With `pinned`, ultralytics.YOLO takes a file of any size for one of the exported size.
        """
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
            **self._for_ultralytics(pinned),
            "layout": settings.layout,
            **({"photo_bits": config.run.photo_bits} if config.run.photo_bits else {}),
            "any_size": settings.dynamic,
            **({"nms_limits": limits} if settings.layout == "nms" else {}),
            "val_settings": {name: getattr(config.run, name) for name in VAL_SETTINGS},
            "letterbox": "scale = min(H/h, W/w), resized to whole pixels, centred on 114",
            "colour_order": "RGB, 0 to 1",
            "config_sha256": hashlib.sha256(described).hexdigest(),
            "metrics": json.dumps(metrics),
            # Not "model": ultralytics makes every key an attribute, and would lose the network itself.
            "model_config": json.dumps(plain(config.model)),
        }

    def _for_ultralytics(self, pinned: bool) -> dict[str, Any]:
        """Return the keys by which ultralytics.YOLO runs a file as detect.py does, or refuses it.

        It runs a file that calls itself dynamic at 640 px, whatever it was exported for. Raw outputs it would take for
        boxes; it has no check for that, but reads `channels` as a number.
        """
        settings, raw = self.settings, self.settings.layout == "raw"
        args = {
            "batch": settings.batch_size,
            "half": settings.half,
            "int8": settings.int8,
            "dynamic": settings.dynamic and not pinned,
        }
        channels = "layout raw, which ultralytics cannot decode: export with --layout decoded or nms" if raw else 3
        return {"args": {**args, "nms": settings.layout == "nms"}, "channels": channels}
