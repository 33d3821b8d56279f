"""TensorBoard's file of a run, written at once and in this thread: what fails is said in a line and ends nothing."""

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter


class EventFile:
    """Scalars by epoch, as torch's SummaryWriter writes them.

    That one writes in a thread of its own, which ends with a traceback when the disk is full.
    """

    def __init__(self, folder: Path, first_epoch: int) -> None:
        """Open a new file, in which `first_epoch` and what follows replace those of earlier files; OSError if not."""
        path = folder / f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.0"
        self.file: BinaryIO = path.open("ab")
        self.records = RecordWriter(self.file)
        self._write(Event(file_version="brain.Event:2"))
        self._write(Event(step=first_epoch, session_log=SessionLog(status=SessionLog.START)))
        self.file.flush()

    def add(self, scalars: Mapping[str, float], epoch: int) -> None:
        """Write an epoch's values; OSError where the system refuses."""
        for name, value in scalars.items():
            self._write(Event(step=epoch, summary=Summary(value=[Summary.Value(tag=name, simple_value=float(value))])))
        self.file.flush()

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self.records.write(event.SerializeToString())
