"""Where the parts of a VOC set lie: annotations, photos and image sets, in the layouts in which tools write them."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from data.formats.annotation_set import FOLDER_SPLITS
from data.formats.reading import BadAnnotation, place_in_set
from data.formats.voc.xml_file import looks_like_voc
from data.photo_files import IMAGE_SUFFIXES, LISTED_SUFFIXES, is_photo_name, lines_of_list, walk
from utils.errors import UserError, printable
from utils.regular_file import require_regular

# `default` is what CVAT and datumaro call the one subset of a set without splits.
SPLIT_KEYS = {"train": "train", "val": "val", "test": "test", "trainval": "train"}
SET_KEYS = {**SPLIT_KEYS, "default": "train"}
LABELMAP = "labelmap.txt"
HEADER = re.compile(r"#\s*label\s*:")
MARK = re.compile(r"\s+(-1|0|1)$")
YEAR = re.compile(r"(19|20)\d\d$")
PHOTO_FOLDERS = ("JPEGImages", "images", "Images", "imgs", "photos")
MOST_FILES_LOOKED_AT = 20


class Photos(NamedTuple):
    """Photos by their path below their folder, and by that path without its suffix, those that are read here first."""

    files: dict[str, Path]
    stems: dict[str, list[Path]]


@dataclass(frozen=True)
class VocFolder:
    """A set or a split of one: folders of the XML files, of the photos and of the image sets, split, year."""

    xml_folder: Path
    photo_folder: Path
    root: Path
    split: str = "train"
    year: str = ""

    def annotations(self) -> dict[str, Path]:
        """Find the XML files, however deep, by their path without suffix."""
        return {_without_suffix(key): path for key, path in _files(self.xml_folder, (".xml",)).items()}

    def photos(self) -> Photos:
        """Find the photos, however deep; several may differ in their suffix only, such as a camera's CR2 and JPG."""
        files = _files(self.photo_folder, ())
        stems: dict[str, list[Path]] = {}
        for key, path in files.items():
            stems.setdefault(_without_suffix(key), []).append(path)
        for paths in stems.values():
            paths.sort(key=lambda path: path.suffix.lower() not in IMAGE_SUFFIXES)
        return Photos(files, stems)

    def place(self, photo: Path) -> str:
        """Choose a photo's place below the split's folder of the converted set."""
        return str(place_in_set(PurePosixPath(photo.relative_to(self.photo_folder).as_posix())))

    def class_order(self) -> list[str]:
        """Read the class names of a labelmap.txt, as CVAT and datumaro write it: `name:color:parts:actions` lines.

        A name may hold colons, and begin as a comment does; a comment has no three colons.
        """
        try:
            lines = require_regular(self.root / LABELMAP).read_text("utf-8-sig").splitlines()
        except (OSError, ValueError):
            return []
        names = []
        for line in lines:
            parts = line.rsplit(":", 3)
            comment = line.startswith("#") and (len(parts) < 4 or bool(HEADER.match(line)))
            if line.strip() and not comment:
                names.append((parts[0] if len(parts) == 4 else line.split(":")[0]).strip())
        return names


def identifiers_of(text: str) -> str:
    """Check a line of an image set: a photo's path without suffix, below its folder."""
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts or "\0" in text or not path.parts:
        raise BadAnnotation("not a file name in the image set")
    return str(path)


def find_voc_folders(source: Path) -> list[VocFolder]:
    """Find the VOC folders at or below `source`; UserError that says what was looked for if there is none."""
    if not source.is_dir():
        raise UserError(f"no such folder: {printable(source)}")
    if (source / "Annotations").is_dir():
        return [_whole(source)]
    for root in (source, source / "VOCdevkit"):
        folders = sorted(path.parent for path in root.glob("*/Annotations") if path.is_dir())
        if folders and all(folder.name.lower() in FOLDER_SPLITS for folder in folders):
            return [_whole(folder, FOLDER_SPLITS[folder.name.lower()]) for folder in folders]
        if len(folders) == 1:
            return [_whole(folders[0])]
        years = [re.sub(r"\D", "", folder.name) for folder in folders]
        if folders and all(years) and len(set(years)) == len(years):
            return [_whole(folder, year=year) for folder, year in zip(folders, years, strict=True)]
        if folders:
            listed = ", ".join(printable(folder.name) for folder in folders)
            raise UserError(f"{printable(root)}: several folders without a year of their own ({listed}); convert one")
    found = _beside_photos(source)
    if not found:
        raise UserError(f"no VOC folder: expected {printable(source / 'Annotations')} (or VOC2007/Annotations ...)")
    return found


def _whole(root: Path, split: str = "train", year: str = "") -> VocFolder:
    """Describe a folder with Annotations: its photos lie in JPEGImages, in images, or beside it."""
    photos = next((root / name for name in PHOTO_FOLDERS if (root / name).is_dir()), root)
    return VocFolder(root / "Annotations", photos, root, split + year, year)


def _beside_photos(source: Path) -> list[VocFolder]:
    """Find XML files beside their photos, in a folder a split (Roboflow) or in one, or in a folder of any name."""
    parts = [path for path in sorted(source.iterdir()) if path.is_dir() and path.name.lower() in FOLDER_SPLITS]
    splits = [VocFolder(part, part, part, FOLDER_SPLITS[part.name.lower()]) for part in parts if holds_voc(part)]
    if splits:
        return splits
    if any(looks_like_voc(path) for path in source.glob("*.xml")):
        return [VocFolder(source, source, source)]
    for folder in sorted(path for path in source.iterdir() if path.is_dir()):
        if holds_voc(folder):
            photos = next((source / name for name in PHOTO_FOLDERS if (source / name).is_dir()), source)
            beside = any(is_photo_name(path.name) for path in folder.iterdir())
            return [VocFolder(folder, folder if beside else photos, source)]
    return []


def holds_voc(folder: Path) -> bool:
    """Tell whether one of the first XML files at or below a folder is an annotation of VOC's kind."""
    looked = 0
    for parent, names in walk(folder):
        for name in sorted(names):
            if name.lower().endswith(".xml"):
                looked += 1
                if looks_like_voc(parent / name):
                    return True
                if looked >= MOST_FILES_LOOKED_AT:
                    return False
    return False


def read_image_sets(
    folder: VocFolder, wanted: Sequence[str] | None, facts: dict[str, object], known: Collection[str]
) -> dict[str, list[str]]:
    """Read the identifiers per split from ImageSets/Main; nothing where there are no image sets.

    `known` are those of the annotations and photos that are there.
    """
    main = folder.root / "ImageSets" / "Main"
    lists = {path.stem: path for path in sorted(main.glob("*.txt"))}
    present = [split for split in SET_KEYS if split in lists]
    # Exports of COCO's subsets have train2017; beside a train.txt such a list is another selection of the user's.
    present = present or [name for split in SET_KEYS for name in lists if YEAR.sub("", name) == split]
    if wanted is None:
        others = [name for name in lists if name not in present and not re.search(r"_(train|val|trainval|test)$", name)]
        if others and not present:
            present = others
            facts["image_sets"] = f"{printable(', '.join(others))}: no split by name, taken as train"
        elif others:
            facts["image_sets"] = f"not used, no split by name: {printable(', '.join(others))}"
        bases = [YEAR.sub("", name) for name in present]
        wanted = [name for name, base in zip(present, bases, strict=True) if base != "trainval" or "train" not in bases]
    identifiers: dict[str, list[str]] = {}
    for split in wanted:
        if split not in lists:
            raise UserError(f"split {split!r}: no such file: {printable(main / f'{split}.txt')}")
        own = identifiers.setdefault(SET_KEYS.get(YEAR.sub("", split), "train") + folder.year, [])
        before = set(own)
        own += [each for each in _identifiers(lists[split], known) if each not in before]
    return identifiers


def _identifiers(path: Path, known: Collection[str]) -> list[str]:
    """Read the identifiers of an image set, each once: those `known` as they stand there, others by what tools add.

    Some image sets mark each line with 1, 0 or -1, as the per-class sets do; some name files, or quote names.
    """
    found = []
    for line in filter(None, map(str.strip, lines_of_list(path))):
        spellings = [text.strip('"') for text in (line, MARK.sub("", line))]
        stems = [_without_suffix(text) for text in spellings if text.lower().endswith((".xml", *LISTED_SUFFIXES))]
        found.append(next((text for text in (*spellings, *stems) if text in known), spellings[-1]))
    return [identifier for identifier in dict.fromkeys(found) if identifier]


def _files(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """Find the files of these suffixes (none: photos) at or below a folder, by their path below it, sorted."""
    found = {}
    for parent, names in walk(folder):
        for name in names:
            if name.lower().endswith(suffixes) if suffixes else is_photo_name(name):
                path = parent / name
                found[path.relative_to(folder).as_posix()] = path
    return dict(sorted(found.items()))


def _without_suffix(key: str) -> str:
    return key[: key.rindex(".")]
