"""Detection on images, videos and streams: a loaded model, and what detect.py writes."""

import csv
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from data.images import ImageError, read_image
from engine.predict.runtimes import Backend, open_backend
from models.postprocess import Postprocess
from utils.checkpoint import newest
from utils.config.knobs import DetectConfig
from utils.device import choose_device
from utils.drawing.draw import draw_boxes, write_image
from utils.errors import UserError, nearest, printable
from utils.letterbox import Letterbox
from utils.run_folder import new_run_folder, write_json
from utils.ultralytics_only import file_loader, result, stream_loader

STREAMS = ("rtsp://", "rtmp://", "http://", "https://", "tcp://")
CSV_COLUMNS = ("image", "frame", "class", "name", "score", "x1", "y1", "x2", "y2")


@dataclass
class Model:
    """A detector that is called with an image, or a path to one, and returns ultralytics' Results."""

    backend: Backend
    image_size: tuple[int, int]
    postprocess: Postprocess
    best: tuple[float, str] = field(default=(0.0, ""))  # the best score of the last image, also below the threshold

    @property
    def names(self) -> dict[int, str]:
        """Class names by number."""
        return dict(enumerate(self.backend.names))

    def __call__(self, source: Any, conf: float | None = None) -> list:
        """The Results of a path, a (h, w, 3) RGB uint8 array, or a list of those."""
        sources = source if isinstance(source, (list, tuple)) else [source]
        postprocess = self.postprocess if conf is None else replace(self.postprocess, confidence=conf)
        results = []
        for each in sources:
            path = "" if isinstance(each, np.ndarray) else str(each)
            try:
                image = each if isinstance(each, np.ndarray) else read_image(each)
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
        """The Results of one RGB image (h, w, 3), with `wanted` of these classes only."""
        postprocess = postprocess or self.postprocess
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
        self.best = self._best(*everything)
        boxes = letterbox.undo(found["boxes"].float())
        bgr = np.ascontiguousarray(image[..., ::-1])
        return result(bgr, path, self.names, boxes, found["scores"], found["labels"])

    def _best(self, scores: torch.Tensor, labels: torch.Tensor) -> tuple[float, str]:
        """The best of scores (N,) and the name of its class (N,); (0, "") where there is none."""
        if not len(scores):
            return 0.0, ""
        row = int(scores.argmax())
        return float(scores[row]), self.backend.names[int(labels[row])]


def _taken(found: dict[str, torch.Tensor], rows: torch.Tensor) -> dict[str, torch.Tensor]:
    """The detections of these rows (N,)."""
    return {part: value[rows] for part, value in found.items()}


def load(
    weights: str | Path,
    imgsz: Sequence[int] = (),
    conf: float = 0.25,
    nms_iou: float = 0.45,
    max_det: int = 300,
    device: str = "",
) -> Model:
    """A model of weights or of an exported file; UserError where it cannot be opened or cannot take `imgsz`."""
    backend = open_backend(weights, choose_device(device))
    size = (imgsz[0], imgsz[-1]) if imgsz else backend.image_size
    if any(side % backend.stride for side in size):
        raise UserError(f"--imgsz {' '.join(map(str, size))}: expected multiples of {backend.stride}")
    if not backend.dynamic and size != backend.image_size:
        raise UserError(f"{printable(weights)}: was exported for {'x'.join(map(str, backend.image_size))} px alone")
    return Model(backend, size, Postprocess(conf, nms_iou, max_det, multi_label=False))


def run(settings: DetectConfig) -> Path:
    """Detects on the source as the flags say and returns the run folder; UserError for wrong input."""
    weights = Path(settings.weights) if settings.weights else newest(Path("runs/train"), "best.pt")
    if not settings.source:
        raise UserError("--source: expected an image, folder, glob, list file, video, webcam number or stream address")
    model = load(weights, settings.imgsz, settings.conf, settings.nms_iou, settings.max_det, settings.device)
    wanted = wanted_classes(settings.classes, model.backend.names)
    frames = Frames(settings.source, settings.vid_stride)
    output: Output | None = None
    try:
        for path, frame, image in frames:
            if output is None:  # a source of which nothing can be read leaves no folder behind
                folder = new_run_folder(Path(settings.project), settings.name, settings.exist_ok)
                output = Output(folder, settings, model.backend.names)
            found = model.detect(image, path, wanted=wanted)
            print(line(path, frame, found, model, settings.conf))
            output.add(path, frame, image, found, frames.fps)
    finally:  # also when a webcam is stopped with Ctrl-C
        if output:
            output.close()
            print(summary(output, frames.unread))
    if output is None:
        raise UserError(f"--source {printable(settings.source)}: nothing in it could be read")
    return output.folder


def summary(output: "Output", unread: int) -> str:
    """What a run came to."""
    images = f"{output.frames} image{'' if output.frames == 1 else 's'}"
    detections = f"{output.detections} detection{'' if output.detections == 1 else 's'}"
    skipped = f", {unread} could not be read" if unread else ""
    return f"{images}, {detections}{skipped}; written to {printable(output.folder)}"


def wanted_classes(classes: Sequence[str], names: Sequence[str]) -> list[int] | None:
    """The numbers of the classes to report, None for all; UserError with the nearest name for an unknown one."""
    for name in classes:
        if name not in names:
            raise UserError(f"--classes: no class {printable(name)!r}{nearest(name, names)}")
    return sorted({names.index(name) for name in classes}) or None


def line(path: str, frame: int | None, found: Any, model: Model, conf: float) -> str:
    """What was found in an image; where nothing was, how near the best came."""
    where = printable(Path(path).name or path) + ("" if frame is None else f" frame {frame}")
    counts: dict[str, int] = {}
    for label in found.boxes.cls.int().tolist():
        counts[model.names[label]] = counts.get(model.names[label], 0) + 1
    if counts:
        return f"{where}: " + ", ".join(f"{count} {printable(name)}" for name, count in counts.items())
    score, name = model.best
    best = f"; best score {short(score)} {printable(name)!r}" if name else ""
    return f"{where}: 0 detections >= {short(conf)}{best}"


def short(number: float) -> str:
    """.25 for 0.25."""
    return f"{number:.2f}".removeprefix("0")


class Frames:
    """The images of a source as (path, frame number or None, RGB image); what cannot be read is said and counted."""

    def __init__(self, source: str, vid_stride: int):
        self.unread, self.stream, self.fps = 0, source.isnumeric() or source.lower().startswith(STREAMS), 30.0
        self.source = source
        try:
            if self.stream:
                self.loader = stream_loader(source, vid_stride)
            else:
                files = self._listed(Path(source)) if source.lower().endswith(".txt") else source
                self.loader = file_loader(files, vid_stride)
        except ConnectionError:
            raise UserError(f"--source {printable(source)}: no such webcam or stream, or it sends nothing") from None
        except (OSError, UnicodeDecodeError) as error:
            reason = str(error).splitlines()[0].partition(" Supported formats")[0]
            raise UserError(f"--source {printable(source)}: {printable(reason, 200)}") from None

    def __iter__(self) -> Iterator[tuple[str, int | None, np.ndarray]]:
        yield from (self._of_stream() if self.stream else self._of_files())

    def _listed(self, path: Path) -> list[str]:
        """The files that a list names, relative to the working directory or to the list; missing ones are said."""
        names = [line.strip() for line in path.read_text("utf-8-sig").splitlines() if line.strip()]
        files = []
        for name in names:
            found = next((each for each in (Path(name), path.parent / name) if each.exists()), None)
            if found or "*" in name:
                files.append(str(found or name))
            else:
                self._said(name, "does not exist")
        if not files:
            raise FileNotFoundError(f"a list of {len(names)} files, none of which exists")
        return files

    def _said(self, path: str, reason: str) -> None:
        self.unread += 1
        print(f"warning: {printable(path)}: {printable(reason)}; left out", file=sys.stderr)

    def _of_files(self) -> Iterator[tuple[str, int | None, np.ndarray]]:
        """Images one by one, upright, then the loader's videos."""
        for path in self.loader.files[: self.loader.ni]:
            try:
                yield path, None, read_image(path)
            except ImageError as error:
                self._said(path, error.reason)
        videos = self.loader.files[self.loader.ni :]
        batches, seen = iter(self.loader), dict.fromkeys(videos, 0)
        self.loader.count = self.loader.ni
        while True:
            try:
                (path,), (image,), _ = next(batches)
            except StopIteration:
                break
            except FileNotFoundError:
                self.loader.count += 1
                continue
            self.fps = self.loader.fps or 30.0
            seen[path] = self.loader.frame
            yield path, self.loader.frame, np.ascontiguousarray(image[..., ::-1])
        for path in videos:
            if not seen[path]:
                self._said(path, "no video, or a damaged one")

    def _of_stream(self) -> Iterator[tuple[str, int | None, np.ndarray]]:
        """Frames until the stream ends."""
        self.fps = self.loader.fps[0] or 30.0
        number = lost = 0
        try:
            for (path,), (image,), _ in self.loader:
                if image.any():
                    number, lost = number + 1, 0
                    yield path, number, np.ascontiguousarray(image[..., ::-1])
                    continue
                lost += 1  # the loader shows black while it opens a lost stream again
                if lost == 1:
                    print(f"warning: {printable(self.source)}: no signal after {number} frames", file=sys.stderr)
        finally:
            self.loader.close()
        print(f"{printable(self.source)}: the stream ended after {number} frames")


class Output:
    """What a run writes: drawn pictures and videos, label files, crops, CSV and JSON."""

    def __init__(self, folder: Path, settings: DetectConfig, names: Sequence[str]):
        self.folder, self.settings, self.names = folder, settings, names
        self.rows: list[dict[str, Any]] = []
        self.frames = self.detections = 0
        self.videos: dict[str, cv2.VideoWriter] = {}
        self.used: dict[str, str] = {}

    def stem(self, path: str) -> str:
        """A file name for an image's outputs, another one for another image of the same name."""
        if path not in self.used:
            stem = Path(path).stem if Path(path).suffix else "".join(c if c.isalnum() else "_" for c in path)[-60:]
            taken = set(self.used.values())
            number, name = 1, stem
            while name in taken:
                number += 1
                name = f"{stem}_{number}"
            self.used[path] = name
        return self.used[path]

    def add(self, path: str, frame: int | None, image: np.ndarray, found: Any, fps: float) -> None:
        """Writes what the flags ask for of one image."""
        boxes, scores = found.boxes.xyxy.numpy(), found.boxes.conf.numpy()
        labels = found.boxes.cls.int().numpy()
        stem = self.stem(path)
        numbered = stem if frame is None else f"{stem}_{frame:06d}"
        self.frames += 1
        self.detections += len(labels)
        for box, score, label in zip(boxes.tolist(), scores.tolist(), labels.tolist(), strict=True):
            corners = dict(zip(("x1", "y1", "x2", "y2"), (round(side, 2) for side in box), strict=True))
            row = {"image": path, "frame": frame, "class": label, "name": self.names[label], "score": round(score, 5)}
            self.rows.append(row | corners)
        if self.settings.save:
            self._draw(path, stem, frame, draw_boxes(image, boxes, labels, self.names, scores), fps)
        if self.settings.save_txt:
            self._write_txt(numbered, found)
        if self.settings.save_crop:
            self._write_crops(numbered, image, boxes, labels)

    def _draw(self, path: str, stem: str, frame: int | None, drawn: np.ndarray, fps: float) -> None:
        if frame is None:
            suffix = ".png" if Path(path).suffix.lower() == ".png" else ".jpg"
            write_image(self.folder / f"{stem}{suffix}", drawn)
            return
        if path not in self.videos:
            size = (drawn.shape[1], drawn.shape[0])
            file = str(self.folder / f"{stem}.mp4")
            self.videos[path] = cv2.VideoWriter(file, cv2.VideoWriter_fourcc(*"mp4v"), fps, size)
        self.videos[path].write(np.ascontiguousarray(drawn[..., ::-1]))

    def _write_txt(self, stem: str, found: Any) -> None:
        folder = self.folder / "labels"
        folder.mkdir(exist_ok=True)
        rows = zip(found.boxes.cls.int().tolist(), found.boxes.xywhn.tolist(), found.boxes.conf.tolist(), strict=True)
        text = "".join(f"{label} {' '.join(f'{side:.6f}' for side in box)} {score:.6f}\n" for label, box, score in rows)
        (folder / f"{stem}.txt").write_text(text, "utf-8")

    def _write_crops(self, stem: str, image: np.ndarray, boxes: np.ndarray, labels: np.ndarray) -> None:
        for number, (box, label) in enumerate(zip(boxes, labels.tolist(), strict=True)):
            left, top = np.floor(box[:2]).astype(int)
            right, bottom = np.ceil(box[2:]).astype(int)
            if right > left and bottom > top:
                name = "".join(c if c.isalnum() else "_" for c in self.names[label])
                folder = self.folder / "crops" / f"{label}_{name}"
                folder.mkdir(parents=True, exist_ok=True)
                write_image(folder / f"{stem}_{number}.jpg", np.ascontiguousarray(image[top:bottom, left:right]))

    def close(self) -> None:
        """Finishes the videos and writes the tables."""
        for video in self.videos.values():
            video.release()
        if self.settings.save_csv:
            with (self.folder / "detections.csv").open("w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, CSV_COLUMNS, lineterminator="\n")
                writer.writeheader()
                writer.writerows(self.rows)
        if self.settings.save_json:
            write_json(self.folder / "detections.json", json.loads(json.dumps(self.rows)))
