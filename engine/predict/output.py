"""What detect.py writes: drawn pictures and videos, label files, crops, tables."""

import csv
import io
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.own_files import OwnFiles
from engine.predict.drafts import FILE, Drafts
from engine.predict.names import FRAME, Names, of_frame
from engine.predict.sources import Files
from engine.predict.videos import Video
from utils.config.knobs import DetectConfig
from utils.drawing.draw import draw_boxes, fitting, write_image
from utils.errors import UserError, printable
from utils.run_folder import write_atomically, write_json

# Characters of a name that are certain to fit into a file name with what is added to it (255 bytes).
LONGEST = 55
TABLE, ROWS, DRAFT = "detections.csv", "detections.json", f"annotations/{FILE}"
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
        self.video: tuple[str, Video] | None = None  # the source that is being drawn; videos come one after another
        self.lost: list[Path] = []  # videos that could not be written in full
        by_frame = settings.save_txt or settings.save_crop
        self.stems = Names(self.own_stem, files.photos, files.videos, by_frame)
        self.told: set[str] = set()
        self.own = OwnFiles(folder, "detect.py")
        if settings.exist_ok:  # a folder that was made for this run holds nothing yet
            self._require_other_files([*files.photos, *files.videos])
            stems = Names(self.own_stem, files.photos, files.videos, by_frame)
            self.own.require(*self._expected(files, stems))

    def own_stem(self, path: str) -> str:
        """Return the name that an image's outputs have where no other image has it."""
        stem = Path(path).stem if Path(path).suffix else "".join(c if c.isalnum() else "_" for c in path)[-60:]
        # Room for a number and a suffix, also where every letter takes four bytes.
        stem = stem if len(os.fsencode(stem)) <= 4 * LONGEST else stem[:LONGEST]
        if self.settings.recursive and self.source:
            stem = (Path(path).parent.relative_to(self.source) / stem).as_posix()
        return stem

    def _require_other_files(self, sources: Sequence[str]) -> None:
        """Raise UserError where a drawn photo or video, or a crop, would take the place of a source itself."""
        crops = (self.folder / "crops").resolve() if self.settings.save_crop else None
        originals = {_identity(Path(path)) for path in sources} - {None}
        for path in sources:
            drawn = (self.folder / f"{self.own_stem(path)}{suffix}" for suffix in (".jpg", ".png", ".mp4"))
            replaced = next((file for file in drawn if self.settings.save and _identity(file) in originals), None)
            if crops and crops in Path(path).resolve().parents:
                replaced = Path(path)
            if replaced:
                raise UserError(
                    f"--exist-ok: {printable(replaced)} is a file of --source, and would be replaced: name another "
                    "folder with --project or --name"
                )

    def _expected(self, files: Files, stems: Names) -> Iterator[Path]:
        """Yield the files that a run over these photos and videos is going to write, as far as that can be known."""
        labels, settings = self.folder / "labels", self.settings
        there = sorted(labels.rglob("*.txt")) if settings.save_txt and files.videos else []
        for path in files.photos:
            stem = stems.of(path)
            if settings.save:
                yield self.folder / f"{stem}{_drawn_suffix(path)}"
            if settings.save_txt:
                yield labels / f"{stem}.txt"
        for path in files.videos:
            stem = stems.of(path)
            if settings.save:
                yield self.folder / f"{stem}.mp4"
            yield from (text for text in there if of_frame(text.relative_to(labels).with_suffix("").as_posix()) == stem)
        if settings.save_crop:  # how many there will be depends on what is found
            crops = (self._crops_of(label) for label in range(len(self.names)))
            yield from (crop for folder in crops for crop in sorted(folder.rglob("*")) if not crop.is_dir())
        for asked, name in ((settings.save_csv, TABLE), (settings.save_json, ROWS), (settings.save_coco, DRAFT)):
            if asked:
                yield self.folder / name

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
            self._write_picture(self.folder / f"{stem}{_drawn_suffix(path)}", drawn)
            return
        if self.video is None or self.video[0] != path:
            self._finish_video()
            file = self.own.begin(self.folder / f"{stem}.mp4")
            file.unlink(missing_ok=True)  # a link leads to what is not this folder's
            self.video = (path, Video(file, (drawn.shape[1], drawn.shape[0]), fps))
        self.video[1].add(drawn)

    def _finish_video(self) -> None:
        """Finish the video that is being written: whatever happens to the run then, it can be played."""
        if self.video:
            video, self.video = self.video[1], None
            if not video.finish():
                self.lost.append(video.file)
            self.own.end(video.file)

    def _write_txt(self, stem: str, found: Any) -> None:
        file = self.folder / "labels" / f"{stem}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        rows = zip(found.boxes.cls.int().tolist(), found.boxes.xywhn.tolist(), found.boxes.conf.tolist(), strict=True)
        text = "".join(f"{label} {' '.join(f'{side:.6f}' for side in box)} {score:.6f}\n" for label, box, score in rows)
        write_atomically(self.own.begin(file), text, synced=False)
        self.own.end(file)

    def _write_crops(self, stem: str, image: np.ndarray, boxes: np.ndarray, labels: np.ndarray) -> None:
        for number, (box, label) in enumerate(zip(boxes, labels.tolist(), strict=True)):
            left, top = np.floor(box[:2]).astype(int)
            right, bottom = np.ceil(box[2:]).astype(int)
            if right > left and bottom > top:
                file = self._crops_of(label) / f"{stem}_{number}.jpg"
                file.parent.mkdir(parents=True, exist_ok=True)
                self._write_picture(file, np.ascontiguousarray(image[top:bottom, left:right]))

    def _crops_of(self, label: int) -> Path:
        """Return the folder of a class's crops."""
        name = "".join(c if c.isalnum() else "_" for c in self.names[label])[:LONGEST]
        return self.folder / "crops" / f"{label}_{name}"

    def _write_picture(self, file: Path, image: np.ndarray) -> None:
        """Write a picture, and say where it has another suffix, or cannot be written."""
        written = self.own.begin(fitting(file, image))
        written.unlink(missing_ok=True)  # a link leads to what is not this folder's
        try:
            write_image(written, image)
        except UserError as error:
            print(f"warning: {error}; left out", file=sys.stderr)
            return
        finally:
            self.own.end(written)
        if written != file:
            print(f"{printable(file.name)}: {image.shape[1]}x{image.shape[0]} px, written as {printable(written.name)}")

    def close(self) -> None:
        """Finish the last video and write the tables."""
        self._finish_video()
        if self.settings.save_csv:
            table = io.StringIO()
            writer = csv.DictWriter(table, CSV_COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)
            write_atomically(self.own.begin(self.folder / TABLE), table.getvalue())
            self.own.end(self.folder / TABLE)
        if self.settings.save_json:
            write_json(self.own.begin(self.folder / ROWS), json.loads(json.dumps(self.rows)))
            self.own.end(self.folder / ROWS)
        if self.settings.save_coco:
            self.own.begin(self.folder / DRAFT)
            self.drafts.write(self.folder, self.source)
            self.own.end(self.folder / DRAFT)


def _drawn_suffix(path: str) -> str:
    """Return the suffix of a drawn photo."""
    return ".png" if Path(path).suffix.lower() == ".png" else ".jpg"


def _identity(file: Path) -> tuple[int, int] | None:
    """Return what tells a file, also by another path or a link to it; None where there is none."""
    try:
        found = file.stat()
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino
