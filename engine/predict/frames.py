"""The images of a source: photos, folders, lists, videos, webcams and streams."""

import glob
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data.images import ImageError, read_image
from engine.predict.sources import Files, files_of, is_listed, is_there
from engine.predict.videos import frames_of
from utils.errors import UserError, printable
from utils.regular_file import require_regular
from utils.ultralytics_only import file_loader, stream_loader

STREAMS = ("rtsp://", "rtmp://", "http://", "https://", "tcp://")


class Frames:
    """The images of a source as (path, frame number or None, RGB image); what cannot be read is said and counted."""

    def __init__(self, source: str, vid_stride: int, recursive: bool = False, photo_bits: int = 0):
        self.unread, self.stream, self.fps = 0, source.isnumeric() or source.lower().startswith(STREAMS), 30.0
        self.source, self.vid_stride, self.photo_bits = source, vid_stride, photo_bits
        self.files = Files([], [], 0, None)
        self.loader: Any = None
        try:
            if self.stream:
                if recursive:
                    raise UserError(f"--recursive: expected --source to be a folder, not {printable(source)}")
                self.loader = stream_loader(source, vid_stride)
            else:
                listed = self._listed(Path(source)) if source.lower().endswith(".txt") else None
                self.files = files_of(source, recursive, listed)
                if self.files.again:
                    named = f"{self.files.again} named another time: every photo and video is taken once"
                    print(f"warning: --source {printable(source)}: {named}", file=sys.stderr)
                videos = [path for path in self.files.videos if self._is_file(path)]
                self.loader = file_loader(videos, vid_stride) if videos else None
        except ConnectionError:
            raise UserError(f"--source {printable(source)}: no such webcam or stream, or it sends nothing") from None
        except (OSError, UnicodeDecodeError) as error:
            reason = str(error).splitlines()[0].partition(" Supported formats")[0]
            raise UserError(f"--source {printable(source)}: {printable(reason, 200)}") from None

    def __iter__(self) -> Iterator[tuple[str, int | None, np.ndarray]]:
        yield from (self._of_stream() if self.stream else self._of_files())

    def _listed(self, path: Path) -> list[str]:
        """Return the files and globs that a list names, relative to the working directory or to the list.

        Those that name nothing are said.
        """
        names = [line.strip() for line in require_regular(path).read_text("utf-8-sig").splitlines() if line.strip()]
        files = []
        for name in names:
            here = os.path.join(glob.escape(str(path.parent)) if "*" in name else path.parent, name)  # noqa: PTH118
            found = next((each for each in (name, here) if is_there(each)), None)
            if found is None:
                self._said(name, "matches nothing" if "*" in name else "does not exist")
            elif Path(found).is_file() and not is_listed(found):
                self._said(name, "neither a photo nor a video by its suffix")
            else:
                files.append(found)
        if not files:
            raise FileNotFoundError(f"a list of {len(names)} files, none of which exists")
        return files

    def _is_file(self, path: str) -> bool:
        """Tell whether a video can be opened; one that is a pipe or a device is said, as a damaged one is."""
        try:
            return require_regular(path).is_file()
        except OSError:
            self._said(path, "no video, or a damaged one")
            return False

    def _said(self, path: str, reason: str) -> None:
        self.unread += 1
        print(f"warning: {printable(path)}: {printable(reason)}; left out", file=sys.stderr)

    def _of_files(self) -> Iterator[tuple[str, int | None, np.ndarray]]:
        """Yield images one by one, upright, then the loader's videos."""
        for path in self.files.photos:
            try:
                yield path, None, read_image(path, bits=self.photo_bits)
            except ImageError as error:
                self._said(path, error.reason)
        if self.loader is None:
            return
        videos = self.loader.files
        batches, seen = iter(self.loader), dict.fromkeys(videos, 0)
        self.loader.count = 0
        while True:
            try:
                (path,), (image,), _ = next(batches)
            except StopIteration:
                break
            except FileNotFoundError:
                self.loader.count += 1
                continue
            # The loader counts the frames that it gives; the source's own are `vid_stride` times as many and as dense.
            self.fps = (self.loader.fps or 30.0) / self.vid_stride
            seen[path] = self.loader.frame * self.vid_stride
            yield path, seen[path], np.ascontiguousarray(image[..., ::-1])
        for path in videos:
            if not seen[path]:
                count = frames_of(Path(path)) if self.vid_stride > 1 else 0
                few = f"has {count} frames, fewer than --vid-stride {self.vid_stride}"
                self._said(path, few if 0 < count < self.vid_stride else "no video, or a damaged one")

    def _of_stream(self) -> Iterator[tuple[str, int | None, np.ndarray]]:
        """Yield frames until the stream ends."""
        self.fps = (self.loader.fps[0] or 30.0) / self.vid_stride
        number = lost = 0
        try:
            for (path,), (image,), _ in self.loader:
                if image.any():
                    number, lost = number + 1, 0
                    yield path, number * self.vid_stride, np.ascontiguousarray(image[..., ::-1])
                    continue
                lost += 1  # the loader shows black while it opens a lost stream again
                if lost == 1:
                    print(f"warning: {printable(self.source)}: no signal after {number} frames", file=sys.stderr)
        finally:
            self.loader.close()
        print(f"{printable(self.source)}: the stream ended after {number} frames")
