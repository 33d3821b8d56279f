"""What detect.py writes: drawn pictures and videos, label files, crops, tables."""

import csv
import io
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from engine.predict.drafts import Drafts
from engine.predict.names import FRAME, Names
from engine.predict.sources import Files
from utils.config.knobs import DetectConfig
from utils.drawing.draw import draw_boxes, write_image
from utils.errors import UserError, printable
from utils.run_folder import write_atomically, write_json

# Characters of a name that are certain to fit into a file name with what is added to it (255 bytes).
LONGEST = 55
CSV_COLUMNS = ("image", "frame", "class", "name", "score", "x1", "y1", "x2", "y2", "precision")


class Output:
    """What a run writes: drawn pictures and videos, label files, crops, CSV and JSON."""

    def __init__(
        self, folder: Path, settings: DetectConfig, names: Sequence[str], precision: str, files: Files | None = None
    ) -> None:
        files = files or Files([], [], 0, None)  # a stream's, which lists none
        # The results of a folder's sub-folders lie in the same sub-folders.
        self.source = files.folder.absolute() if files.folder else None
        self.drafts = Drafts(tuple(names))
        self.folder, self.settings, self.names, self.precision = folder, settings, names, precision
        self.rows: list[dict[str, Any]] = []
        self.frames = self.detections = 0
        self.videos: dict[str, cv2.VideoWriter] = {}
        by_frame = settings.save_txt or settings.save_crop
        self.stems = Names(self.own_stem, files.photos, files.videos, by_frame)
        self.told: set[str] = set()

    def own_stem(self, path: str) -> str:
        """Return the name that an image's outputs have where no other image has it."""
        stem = Path(path).stem if Path(path).suffix else "".join(c if c.isalnum() else "_" for c in path)[-60:]
        # Room for a number and a suffix, also where every letter takes four bytes.
        stem = stem if len(os.fsencode(stem)) <= 4 * LONGEST else stem[:LONGEST]
        if self.settings.recursive and self.source:
            stem = (Path(path).parent.relative_to(self.source) / stem).as_posix()
        return stem

    def stem(self, path: str) -> str:
        """Return a file name for an image's outputs, another one for another image of the same name, which is said."""
        stem = self.stems.of(path)
        if stem != self.own_stem(path) and path not in self.told:
            self.told.add(path)
            print(f"{printable(path)}: written as {printable(stem)}, since the files of another have its own name")
        return stem

    def add(self, path: str, frame: int | None, image: np.ndarray, found: Any, fps: float) -> None:
        """Write what the flags ask for of one image."""
        boxes, scores = found.boxes.xyxy.numpy(), found.boxes.conf.numpy()
        labels = found.boxes.cls.int().numpy()
        stem = self.stem(path)
        numbered = stem if frame is None else FRAME.format(stem=stem, frame=frame)
        self.frames += 1
        self.detections += len(labels)
        if self.settings.save_csv or self.settings.save_json:  # a stream without an end would fill the memory otherwise
            self.rows += self._rows(path, frame, boxes, scores, labels)
        if self.settings.save_coco:
            self.drafts.add(path, frame, image.shape[:2], boxes, scores, labels)
        if self.settings.save:
            (self.folder / stem).parent.mkdir(parents=True, exist_ok=True)
            self._draw(path, stem, frame, draw_boxes(image, boxes, labels, self.names, scores), fps)
        if self.settings.save_txt:
            self._write_txt(numbered, found)
        if self.settings.save_crop:
            self._write_crops(numbered, image, boxes, labels)

    def _rows(
        self, path: str, frame: int | None, boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray
    ) -> list[dict[str, Any]]:
        """Return a row of the tables for each detection."""
        rows = []
        for box, score, label in zip(boxes.tolist(), scores.tolist(), labels.tolist(), strict=True):
            corners = dict(zip(("x1", "y1", "x2", "y2"), (round(side, 2) for side in box), strict=True))
            row = {"image": path, "frame": frame, "class": label, "name": self.names[label], "score": round(score, 5)}
            rows.append(row | corners | {"precision": self.precision})
        return rows

    def _draw(self, path: str, stem: str, frame: int | None, drawn: np.ndarray, fps: float) -> None:
        if frame is None:
            suffix = ".png" if Path(path).suffix.lower() == ".png" else ".jpg"
            self._write_picture(self.folder / f"{stem}{suffix}", drawn)
            return
        if path not in self.videos:
            size = (drawn.shape[1], drawn.shape[0])
            file = str(self.folder / f"{stem}.mp4")
            # MPEG-4 counts time in steps of 1/65535 second at most: 29.97002997 is written at the nearest rate.
            self.videos[path] = cv2.VideoWriter(file, cv2.VideoWriter.fourcc(*"mp4v"), round(fps, 3), size)
            if not self.videos[path].isOpened():
                shown = f"{size[0]}x{size[1]} at {fps:g} frames a second"
                print(f"warning: {printable(file)}: cannot be written ({shown}); left out", file=sys.stderr)
        self.videos[path].write(np.ascontiguousarray(drawn[..., ::-1]))

    def _write_txt(self, stem: str, found: Any) -> None:
        file = self.folder / "labels" / f"{stem}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        rows = zip(found.boxes.cls.int().tolist(), found.boxes.xywhn.tolist(), found.boxes.conf.tolist(), strict=True)
        text = "".join(f"{label} {' '.join(f'{side:.6f}' for side in box)} {score:.6f}\n" for label, box, score in rows)
        file.write_text(text, "utf-8")

    def _write_crops(self, stem: str, image: np.ndarray, boxes: np.ndarray, labels: np.ndarray) -> None:
        for number, (box, label) in enumerate(zip(boxes, labels.tolist(), strict=True)):
            left, top = np.floor(box[:2]).astype(int)
            right, bottom = np.ceil(box[2:]).astype(int)
            if right > left and bottom > top:
                name = "".join(c if c.isalnum() else "_" for c in self.names[label])[:LONGEST]
                file = self.folder / "crops" / f"{label}_{name}" / f"{stem}_{number}.jpg"
                file.parent.mkdir(parents=True, exist_ok=True)
                self._write_picture(file, np.ascontiguousarray(image[top:bottom, left:right]))

    def _write_picture(self, file: Path, image: np.ndarray) -> None:
        """Write a picture, and say where it has another suffix, or cannot be written."""
        try:
            written = write_image(file, image)
        except UserError as error:
            print(f"warning: {error}; left out", file=sys.stderr)
            return
        if written != file:
            print(f"{printable(file.name)}: {image.shape[1]}x{image.shape[0]} px, written as {printable(written.name)}")

    def close(self) -> None:
        """Finish the videos and write the tables."""
        for video in self.videos.values():
            video.release()
        if self.settings.save_csv:
            table = io.StringIO()
            writer = csv.DictWriter(table, CSV_COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)
            write_atomically(self.folder / "detections.csv", table.getvalue())
        if self.settings.save_json:
            write_json(self.folder / "detections.json", json.loads(json.dumps(self.rows)))
        if self.settings.save_coco:
            self.drafts.write(self.folder, self.source)
