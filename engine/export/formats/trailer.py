"""Metadata behind a file's own bytes, as a zip archive of one entry, for formats that have no place for it.

Their readers go by the sizes that the file states, and never see it. It holds a check sum of what lies before it, since
runtimes take a flipped bit for another number.
"""

import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

from engine.export.job import Job
from utils.errors import UserError, printable

ENTRY, SUM = "metadata.json", "crc32"


def append_metadata(path: Path, job: Job) -> None:
    """Append the job's metadata to a whole file."""
    metadata = {**job.metadata(), SUM: zlib.crc32(path.read_bytes())}
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(ENTRY, json.dumps(metadata))


def read_metadata_of(path: Path, title: str) -> dict[str, Any]:
    """Read the metadata at the end of a file; UserError, which calls it a `title`, where it is none or damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            metadata = json.loads(archive.read(ENTRY))
            own = archive.infolist()[0].header_offset
        if zlib.crc32(path.read_bytes()[:own]) != metadata[SUM]:
            raise ValueError("its check sum is wrong")
    except (zipfile.BadZipFile, zlib.error, KeyError, ValueError, TypeError, EOFError, NotImplementedError) as error:
        raise UserError(f"{printable(path)}: not {title} of ours, or damaged ({printable(error, 100)})") from None
    return metadata
