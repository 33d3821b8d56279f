"""Detections as a COCO file that labelling tools open, for people to correct: a score stands in every annotation."""

import os
import sys
from pathlib import Path

import numpy as np

from data.formats.annotation_set import AnnotationSet, LabelledObject, LabelledPhoto
from data.formats.reading import clipped_box
from data.formats.write.coco import coco_document
from utils.errors import printable
from utils.run_folder import write_json

# datumaro and CVAT call the one subset of a set without splits so, and look for a file of this name.
FILE = "instances_default.json"
SPLIT = "default"


class Drafts:
    """The photos of a run with what was found on them; frames of videos are no photos, and are counted."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self.photos: list[tuple[str, tuple[int, int], list[LabelledObject]]] = []
        self.frames = 0

    def add(
        self,
        path: str,
        frame: int | None,
        size: tuple[int, int],
        boxes: np.ndarray,
        scores: np.ndarray,
        labels: np.ndarray,
    ) -> None:
        """Add a photo of (height, width) with boxes (N, 4) xyxy, scores (N,) and labels (N,), or count a frame."""
        if frame is not None:
            self.frames += 1
            return
        objects = []
        for box, score, label in zip(boxes.tolist(), scores.tolist(), labels.tolist(), strict=True):
            fractions, _ = clipped_box(box, size)
            if min(fractions[2:]) > 0:
                objects.append(LabelledObject(label, *fractions, score=round(score, 5)))
        self.photos.append((path, size, objects))

    def write(self, folder: Path, source: Path | None) -> None:
        """Write annotations/instances_default.json; photos are named below `source`, or below their common folder."""
        if self.frames:
            told = f"{self.frames} frames of videos are no photos: not in {FILE}; save them as photos, then detect"
            print(f"warning: {told}", file=sys.stderr)
        parents = [str(Path(path).parent) for path, _, _ in self.photos]
        root = source or Path(os.path.commonpath(parents) if parents else ".")
        found = AnnotationSet(root, self.names, self._labelled(root), [])
        (folder / "annotations").mkdir(exist_ok=True)
        write_json(folder / "annotations" / FILE, coco_document(found, SPLIT))
        objects = sum(len(objects) for _, _, objects in self.photos)
        print(f"annotations/{FILE}: {objects} boxes with scores on {len(self.photos)} photos of {printable(root)}")

    def _labelled(self, root: Path) -> list[LabelledPhoto]:
        return [
            LabelledPhoto(SPLIT, Path(path), objects, Path(path).relative_to(root).as_posix(), size)
            for path, size, objects in self.photos
        ]
