"""Writes a converted data set: photos, YOLO labels, data.yaml and a report of what was dropped, clipped or noted."""

import csv
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from utils.errors import UserError, printable

IMAGE_MODES = ("link", "copy", "list")
REPORT = "report.json"
MADE_BY = "AlignYOLO convert.py"


class Finding(NamedTuple):
    """One thing that the reader of a conversion should know: what was dropped, clipped or noted, where and why."""

    action: str
    split: str
    file: str
    object: str
    reason: str
    values: str = ""


class LabelledPhoto(NamedTuple):
    """A photo and its objects: (class id, centre x, centre y, width, height) in fractions of its size."""

    split: str
    photo: Path
    objects: list[tuple[int, float, float, float, float]]


@dataclass
class Conversion:
    """What a conversion found: source (absolute), class names by id, photos with labels, findings, choices made."""

    source: Path
    names: tuple[str, ...]
    photos: list[LabelledPhoto]
    findings: list[Finding]
    facts: dict[str, Any] = field(default_factory=dict)

    def counts(self) -> dict[str, dict[str, Any]]:
        """Photos and boxes per split, and boxes per class."""
        counts: dict[str, dict[str, Any]] = {}
        for split in dict.fromkeys(photo.split for photo in self.photos):
            photos = [photo for photo in self.photos if photo.split == split]
            classes = Counter(self.names[label] for photo in photos for label, *_ in photo.objects)
            per_class = {name: classes[name] for name in self.names}
            counts[split] = {"images": len(photos), "boxes": classes.total(), "per_class": per_class}
        return counts

    def reasons(self) -> Counter[tuple[str, str]]:
        """How often each (action, reason) was found."""
        return Counter((finding.action, finding.reason) for finding in self.findings)


def check_target(target: Path, source: Path, exist_ok: bool) -> None:
    """UserError if the converted set may not go to `target`: it is in the source, or something else is there."""
    target, source = target.resolve(), source.resolve()
    if target.is_relative_to(source):
        raise UserError(f"{printable(target)} lies in the source folder, which stays as it is; choose another place")
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not exist_ok:
        raise UserError(f"{printable(target)} exists already (--exist-ok replaces an earlier conversion)")
    if not _is_conversion(target):
        raise UserError(f"{printable(target)} is no earlier conversion (it has no {REPORT} of one); it is not replaced")


def write_yolo_set(conversion: Conversion, target: Path, images: str, exist_ok: bool = False) -> None:
    """Writes images/, labels/, data.yaml and the report to `target`, all or nothing; UserError where that fails."""
    target = Path(target).absolute()
    check_target(target, conversion.source, exist_ok)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as temporary:
            draft = Path(temporary) / "set"
            draft.mkdir()
            _write_photos(conversion, draft, target, images)
            _write_yaml(conversion, draft / "data.yaml", target, images)
            _write_report(conversion, draft)
            _publish(draft, target, Path(temporary) / "replaced")
    except OSError as error:
        raise UserError(f"the conversion cannot be written to {printable(target)}: {printable(error)}") from error


def _publish(draft: Path, target: Path, replaced: Path) -> None:
    """Renames the finished set to its place; what was there is moved away, or back if that fails."""
    if target.exists():
        target.rename(replaced)
    try:
        draft.rename(target)
    except OSError:
        if replaced.exists():
            replaced.rename(target)
        raise


def _is_conversion(target: Path) -> bool:
    try:
        return json.loads((target / REPORT).read_text("utf-8"))["made_by"] == MADE_BY
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _write_photos(conversion: Conversion, draft: Path, target: Path, images: str) -> None:
    """Labels, and photos as links or copies, or as lines of a list file per split."""
    lines: dict[str, list[str]] = {}
    for split, photo, objects in conversion.photos:
        if images == "list":
            below = photo.relative_to(conversion.source).parent
            label = draft / "labels" / below / f"{photo.stem}.txt"
            lines.setdefault(split, []).append(f"{photo}\n")
        else:
            label = draft / "labels" / split / f"{photo.stem}.txt"
            place = draft / "images" / split / photo.name
            place.parent.mkdir(parents=True, exist_ok=True)
            _bring(photo, place, images)
        label.parent.mkdir(parents=True, exist_ok=True)
        text = "".join(f"{label} {x:.7f} {y:.7f} {w:.7f} {h:.7f}\n" for label, x, y, w, h in objects)
        label.write_text(text, "utf-8")
    for split, photos in lines.items():
        (draft / f"{split}.txt").write_text("".join(photos), "utf-8")


def _bring(photo: Path, place: Path, images: str) -> None:
    """A hard link, or a copy where that is asked for or where links cannot be made, as across devices."""
    photo = photo.resolve()
    if images == "link":
        try:
            os.link(photo, place)
            return
        except OSError:
            place.unlink(missing_ok=True)
    shutil.copyfile(photo, place)


def _write_yaml(conversion: Conversion, path: Path, target: Path, images: str) -> None:
    """The data YAML; with `list` its paths are absolute, because the photos stay where they are."""
    values: dict[str, Any] = {"path": "."}
    if images == "list":
        values = {"path": str(conversion.source), "labels_dir": str(target / "labels")}
    for split in conversion.counts():
        entry = str(target / f"{split}.txt") if images == "list" else f"images/{split}"
        values.setdefault(split.rstrip("0123456789"), []).append(entry)
    for key, entries in values.items():
        if isinstance(entries, list) and len(entries) == 1:
            values[key] = entries[0]
    values["names"] = dict(enumerate(conversion.names))
    note = f"# Made by convert.py from {printable(conversion.source)}; see {REPORT} for what was dropped.\n"
    path.write_text(note + yaml.safe_dump(values, sort_keys=False, allow_unicode=True), "utf-8")


def _write_report(conversion: Conversion, draft: Path) -> None:
    """report.json and, one finding per line, report.csv."""
    report = {
        "made_by": MADE_BY,
        "source": str(conversion.source),
        "names": list(conversion.names),
        **conversion.facts,
        "splits": conversion.counts(),
        "found": [
            {"action": action, "reason": reason, "count": count}
            for (action, reason), count in conversion.reasons().most_common()
        ],
        "findings": [finding._asdict() for finding in conversion.findings],
    }
    (draft / REPORT).write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", "utf-8")
    with (draft / "report.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(Finding._fields)
        writer.writerows(conversion.findings)


def summary(conversion: Conversion) -> Iterable[str]:
    """Lines that tell a person what came out."""
    for split, counts in conversion.counts().items():
        classes = ", ".join(f"{name} {count:,}" for name, count in counts["per_class"].items())
        yield f"  {split:<10} {counts['images']:>7,} photos {counts['boxes']:>9,} boxes   {classes}"
    for name, value in conversion.facts.items():
        yield f"  {name.replace('_', ' ')}: {value}"
    for (action, reason), count in conversion.reasons().most_common():
        yield f"  {action} {count:,}: {reason}"
