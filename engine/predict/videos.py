"""A drawn video: written frame by frame, finished before the next one begins, and then looked at."""

import sys
from pathlib import Path

import cv2
import numpy as np

from utils.errors import printable
from utils.ultralytics_only import opencv_silent


class Video:
    """A video (.mp4) that is being written, of the size (width, height) of its first frame."""

    def __init__(self, file: Path, size: tuple[int, int], fps: float) -> None:
        self.file, self.size, self.frames = file, size, 0
        # MPEG-4 counts time in steps of 1/65535 second at most: 29.97002997 is written at the nearest rate.
        self.writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"mp4v"), round(fps, 3), size)
        self.opened = self.writer.isOpened()
        if not self.opened:
            shown = f"{size[0]}x{size[1]} at {fps:g} frames a second"
            print(f"warning: {printable(file)}: cannot be written ({shown}); left out", file=sys.stderr)

    def add(self, drawn: np.ndarray) -> None:
        """Write an RGB frame (h, w, 3)."""
        if (drawn.shape[1], drawn.shape[0]) != self.size:  # a stream that came back in another size
            drawn = cv2.resize(drawn, self.size, interpolation=cv2.INTER_AREA)
        self.writer.write(np.ascontiguousarray(drawn[..., ::-1]))
        self.frames += 1

    def finish(self) -> bool:
        """Close the file and tell whether it holds every frame; one that does not is said and removed.

        OpenCV reports no frame that it could not write, and on a full disk leaves a file that no player opens.
        """
        self.writer.release()
        if not self.opened:
            return True  # said already
        held = frames_of(self.file)
        if held != self.frames:
            self.file.unlink(missing_ok=True)
            lost = f"could not be written (is the disk full? It held {held} of {self.frames} frames); removed"
            print(f"warning: {printable(self.file)}: {lost}", file=sys.stderr)
        return held == self.frames


def frames_of(file: Path) -> int:
    """Count the frames of a video as its index does, 0 for one that cannot be opened."""
    with opencv_silent():
        video = cv2.VideoCapture(str(file))
        count = int(video.get(cv2.CAP_PROP_FRAME_COUNT)) if video.isOpened() else 0
        video.release()
    return max(count, 0)
