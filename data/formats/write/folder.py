"""A converted data set as a new folder: written whole or not at all, with a report and pictures to look at."""

import csv
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path

import numpy as np

from data.formats.annotation_set import AnnotationSet, Finding
from data.images import ImageError, read_image
from utils.drawing.draw import draw_boxes, write_image
from utils.errors import UserError, printable
from utils.run_folder import json_text

REPORT = "report.json"
MADE_BY = "AlignYOLO convert.py"
WRITTEN = ".written.json"  # the files of the set as they were written
EDITED = (".txt", ".xml", ".json", ".yaml", ".csv", ".data", ".names")
OVERLAYS = 16


def check_target(target: Path, source: Path, exist_ok: bool, inside: bool = False) -> None:
    """Raise UserError if the converted set may not go to `target`: it is in the source, or something else is there."""
    target, source = target.resolve(), source.resolve()
    if target == source or (target.is_relative_to(source) and not inside):
        raise UserError(f"{printable(target)} lies in the source folder, which stays as it is; choose another place")
    check_kept(target, (source,))
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not exist_ok:
        raise UserError(f"{printable(target)} exists already (--exist-ok replaces an earlier conversion)")
    if not _is_conversion(target):
        raise UserError(f"{printable(target)} is no earlier conversion (it has no {REPORT} of one); it is not replaced")
    if work := _changed(target):
        raise UserError(f"{printable(target / work)} is new or changed since convert.py wrote it; choose another place")


def check_kept(target: Path, sources: Iterable[Path]) -> None:
    """Raise UserError if one of the sources lies in `target`, an earlier set that would be replaced."""
    for source in sources:
        if target.exists() and source.resolve().is_relative_to(target.resolve()):
            raise UserError(f"{printable(source)} lies in {printable(target)}, which is replaced; choose another place")


def check_beside(target: Path, folders: Iterable[Path]) -> None:
    """Raise UserError if the converted set would lie below a folder of photos, of which its pictures would be some."""
    for folder in folders:
        if target.resolve().is_relative_to(folder.resolve()):
            raise UserError(
                f"{printable(target)} lies below {printable(folder)}, all of whose photos are the set's: its pictures "
                "with boxes would be trained on; choose another place"
            )


def _is_conversion(target: Path) -> bool:
    try:
        return json.loads((target / REPORT).read_text("utf-8"))["made_by"] == MADE_BY
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _changed(target: Path) -> str:
    """Name a file that somebody has put into a conversion, or corrected there; "" for none.

    Nothing is known of the conversions of older versions, which hold no list.
    """
    try:
        written = json.loads((target / WRITTEN).read_text("utf-8"))
    except (OSError, ValueError):
        return ""
    return next((name for name, state in _states(target) if not _by_programs(name) and written.get(name) != state), "")


def _states(folder: Path) -> Iterator[tuple[str, list[int]]]:
    """Yield the files below a folder with their sizes, and the check sums of those that people edit."""
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not path.is_dir():
            text = path.suffix in EDITED and path.is_file()
            yield (
                path.relative_to(folder).as_posix(),
                [path.lstat().st_size, zlib.crc32(path.read_bytes()) if text else 0],
            )


def _by_programs(name: str) -> bool:
    """Tell whether a file is one that programs leave behind: ultralytics' caches, hidden files of desktops."""
    return name.endswith(".cache") or any(part.startswith(".") for part in name.split("/"))


def write_folder(target: Path, fill: Callable[[Path], None], check: Callable[[], None]) -> None:
    """Let `fill` write into a draft, then rename it to `target`; UserError, and nothing written, if that fails."""
    check()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as temporary:
            draft = Path(temporary) / "set"
            draft.mkdir()
            fill(draft)
            (draft / WRITTEN).write_text(json.dumps(dict(_states(draft))), "utf-8")
            check()
            _publish(draft, target, Path(temporary) / "replaced")
    except OSError as error:
        raise UserError(f"the conversion cannot be written to {printable(target)}: {printable(error)}") from error


def _publish(draft: Path, target: Path, replaced: Path) -> None:
    """Rename the finished set to its place; what was there is moved away, or back if that fails."""
    if target.exists():
        target.rename(replaced)
    try:
        draft.rename(target)
    except OSError:
        if replaced.exists():
            replaced.rename(target)
        raise


def bring(photo: Path, place: Path, images: str) -> None:
    """Make a hard link (link), a symbolic link (symlink) or a copy; a copy too where links cannot be made."""
    photo = photo.resolve()
    place.parent.mkdir(parents=True, exist_ok=True)
    if images in ("link", "symlink"):
        try:
            (os.link if images == "link" else os.symlink)(photo, place)
            return
        except OSError:
            place.unlink(missing_ok=True)
    shutil.copyfile(photo, place)


def write_report(found: AnnotationSet, draft: Path) -> None:
    """Write report.json and, one finding per line, report.csv."""
    report = {
        "made_by": MADE_BY,
        "source": str(found.source),
        "names": list(found.names),
        **found.facts,
        "splits": found.counts(),
        "found": [
            {"action": action, "reason": reason, "count": count}
            for (action, reason), count in found.reasons().most_common()
        ],
        "findings": [finding._asdict() for finding in found.findings],
    }
    (draft / REPORT).write_text(json_text(report, indent=1) + "\n", "utf-8")
    with (draft / "report.csv").open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(Finding._fields)
        writer.writerows(found.findings)


def note_ignored(found: AnnotationSet, kinds: Collection[str], reason: str) -> None:
    """Note how many of the objects that an evaluation leaves out are lost, by split."""
    for split in found.counts():
        photos = (photo for photo in found.photos if photo.split == split)
        if lost := sum(item.kind in kinds for photo in photos for item in photo.ignored):
            found.findings.append(Finding("dropped", split, "", "", reason, str(lost)))


def write_overlays(found: AnnotationSet, folder: Path) -> None:
    """Draw the boxes on up to 16 photos, spread over the set: the quickest check that they fit."""
    candidates = [photo for photo in found.photos if photo.objects]
    folder.mkdir(exist_ok=True)
    for number in range(min(OVERLAYS, len(candidates))):
        photo = candidates[number * len(candidates) // min(OVERLAYS, len(candidates))]
        try:
            image = read_image(photo.photo)
        except ImageError:
            continue
        height, width = image.shape[:2]
        x, y, w, h = np.array([item[1:5] for item in photo.objects]).T
        boxes = np.column_stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2]) * [width, height, width, height]
        drawn = draw_boxes(image, boxes, [item.label for item in photo.objects], found.names)
        write_image(folder / f"{number:02d}_{photo.split}_{photo.photo.stem[:60]}.jpg", drawn)
