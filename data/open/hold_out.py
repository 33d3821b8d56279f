"""A validation split for a set that has none: by seed, with every class's share, the same photo never on both sides."""

import hashlib
import json
import os
import shutil
import sys
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import yaml

from data.data_yaml import DataSpec, list_images
from data.formats.annotation_set import AnnotationSet, base_split
from data.formats.coco_json import part_of
from data.images import ImageError, read_image
from data.labels.index import LabelIndex
from data.labels.read_files import cache_folder
from data.split import fingerprint, load_split
from utils.errors import UserError, printable
from utils.hardware import usable_cores

SIDE = 16  # of the thumbnails by which photos are compared
ALIKE = 4.0  # mean difference of two thumbnails' grey levels below which the photos are taken for the same
FINE_SIDE, FINE_ALIKE = 32, 24.0  # the same of closer looks, by the largest difference: something has moved
SAME_BITS = 3  # of 64 that may differ
CROWDED = 500  # photos with a quarter of their bits in common, beyond which only equal ones are compared
FOLDER = "split"  # in a run's folder
SPLITS = "splits"  # in the cache folder


def hold_out(spec: DataSpec, share: float, seed: int, run_folder: Path | None = None) -> DataSpec:
    """Take a share of the photos of `train` as `val`; UserError for a set that has a `val`, or too few photos.

    The same set, share and seed give the same. With `run_folder`, that of a run which exists, it is the split that the
    run has written down (`keep_split`); UserError where that is gone: another may hold out photos that it trained on.
    """
    if run_folder is not None:
        written = run_folder / FOLDER / "data.yaml"
        if not written.is_file():
            raise UserError(
                f"{printable(written)}: no such file; it lists the photos that --val {share:g} held out of this run: "
                "keep the weights in their run folder, or validate with --data"
            )
        return _read(run_folder / FOLDER, spec)
    if "val" in spec.splits:
        raise UserError(f"--val {share:g}: {printable(spec.shown)} has a validation split already; leave --val out")
    index = load_split(spec, "train")
    cache = cache_folder(None)
    if cache is None:
        raise UserError("--val: no cache folder to write the split to: set XDG_CACHE_HOME")
    folder = cache / SPLITS / f"{str(fingerprint(index)['sha256'])[:16]}-{share:g}-{seed}-{_key(spec, index)}"
    if not (folder / "data.yaml").is_file():
        classes = [set(index.of(row)[1].tolist()) for row in range(len(index))]
        held = choose_held_out(list(map(Path, index.images)), classes, share, seed)
        _write(spec, index, held, folder, f"{share:g} of {printable(spec.shown)}, seed {seed}")
    split = _read(folder, spec)
    _tell_few(len(list_images(split, "val")), len(index), share)
    return split


def _tell_few(held: int, photos: int, share: float) -> None:
    """Warn where far fewer photos are held back than were asked for."""
    if 2 * held < share * photos:
        print(
            f"warning: --val {share:g} holds back {held:,} of {photos:,} photos, not {share * photos:,.0f}: most of "
            "them are nearly the same, and such photos stay on one side",
            file=sys.stderr,
        )


def _read(folder: Path, spec: DataSpec) -> DataSpec:
    """Open a split that was written down, wherever its folder lies now; all but train and val is the set's of today."""
    lists = {split: (folder / f"{split}.txt",) for split in ("train", "val")}
    annotations = _annotations(spec)
    return replace(
        spec, yaml=folder / "data.yaml", splits={**lists, **_test(spec)}, annotations=annotations, source=spec.shown
    )


def _test(spec: DataSpec) -> dict[str, tuple[Path, ...]]:
    return {split: sources for split, sources in spec.splits.items() if split == "test"}


def _annotations(spec: DataSpec) -> dict[str, Path]:
    """Name the annotation files of the set's splits: those of train know the photos of val."""
    files = {split: file for split, file in spec.annotations.items() if split != "val"}
    return {**files, "val": files["train"]} if "train" in files else files


def with_held_out(found: AnnotationSet, share: float, seed: int) -> AnnotationSet:
    """Make a share of the photos of the one train split, such as `train2017`, a split `val2017`.

    UserError where there is none, several, or a val.
    """
    splits = {photo.split for photo in found.photos}
    trains = [split for split in splits if base_split(split) == "train"]
    if any(split.startswith("val") for split in splits) or len(trains) != 1:
        raise UserError(f"--val {share:g}: expected a train split and no val, found {', '.join(sorted(splits))}")
    source, target = trains[0], f"val{trains[0].removeprefix('train')}"
    train = [photo for photo in found.photos if photo.split == source]
    classes = [{item.label for item in photo.objects} for photo in train]
    held = choose_held_out([photo.photo for photo in train], classes, share, seed)
    _tell_few(int(held.sum()), len(train), share)
    chosen = {photo.name for photo, out in zip(train, held.tolist(), strict=True) if out}
    moved = [
        photo._replace(split=target) if photo.split == source and photo.name in chosen else photo
        for photo in found.photos
    ]
    images = found.ids.get("images", {})
    for name in chosen & {key.removeprefix(f"{source}/") for key in images if key.startswith(f"{source}/")}:
        images[f"{target}/{name}"] = images.pop(f"{source}/{name}")
    if source in found.annotations:
        found.annotations[target] = found.annotations[source]
    if source in found.truths:
        whole = found.truths[source]
        found.truths[target] = part_of(whole, chosen)
        found.truths[source] = part_of(whole, {photo.name for photo in train} - chosen)
    found.facts.pop("validation", None)
    found.facts["validation"] = (
        f"{len(chosen):,} of {len(train):,} photos of {source}, by seed {seed} (--val {share:g})"
    )
    return replace(found, photos=moved)


def keep_split(spec: DataSpec, run_folder: Path) -> None:
    """Write a held-out split down in the folder of its run, which has none, for --resume and val.py."""
    cache = cache_folder(None)
    # A data set of the user's own may lie in a folder called splits, with all its photos.
    held_out = cache is not None and spec.yaml.parent.parent.resolve() == (cache / SPLITS).resolve()
    if held_out:
        folder = run_folder / FOLDER
        shutil.copytree(spec.yaml.parent, folder)
        if spec.labels_dir is not None:
            # The set's own folder is the root of its labels, so that the lists have absolute paths.
            note = (folder / "data.yaml").read_text("utf-8").partition("\n")[0]
            (folder / "data.yaml").write_text(_text(_values(spec, folder), note), "utf-8")


def choose_held_out(photos: Sequence[Path], classes: Sequence[set[int]], share: float, seed: int) -> np.ndarray:
    """Choose photos (N,) bool for validation; those that are the same or nearly stay together.

    Where that is more than the share, such as all photos of a fixed camera, only those do in which nothing has moved.
    The rarest class comes first, and each group of photos goes where it is wanted most (the iterative stratification of
    Sechidis et al. 2011). UserError where one side would be empty.
    """
    groups = _kept_together(photos, share)
    members: dict[int, list[int]] = defaultdict(list)
    for row, group in enumerate(groups.tolist()):
        members[group].append(row)
    has: dict[int, set[int]] = {group: set().union(*(classes[row] for row in rows)) for group, rows in members.items()}
    wanted: dict[int, float] = defaultdict(float)
    left: dict[int, set[int]] = defaultdict(set)
    for group, rows in members.items():
        for row in rows:
            for label in classes[row]:
                wanted[label] += share
        for label in has[group]:
            left[label].add(group)
    held, room = np.zeros(len(photos), bool), share * len(photos)
    order = dict(zip(members, np.random.default_rng(seed).permutation(len(members)).tolist(), strict=True))
    open_groups, largest = set(members), max(map(len, members.values()))

    def settle(group: int, label: int | None) -> None:
        nonlocal room
        rows = members[group]
        need = room if label is None else wanted[label]
        # Half of what goes over is as near as half of what is missing; classes decide, then the number of photos.
        if need >= len(rows) / 2 and room >= len(rows) / 2 - largest:
            held[rows] = True
            room -= len(rows)
            for row in rows:
                for each in classes[row]:
                    wanted[each] -= 1
        open_groups.discard(group)
        for each in has[group]:
            left[each].discard(group)

    while any(left.values()):
        rarest = min((label for label in left if left[label]), key=lambda label: (len(left[label]), label))
        for group in sorted(left[rarest], key=order.__getitem__):
            settle(group, rarest)
    for group in sorted(open_groups, key=order.__getitem__):
        settle(group, None)
    if not held.any() or held.all():
        raise UserError(f"--val {share:g}: {len(photos)} photos ({len(members)} different ones) are too few to divide")
    return held


def _kept_together(photos: Sequence[Path], share: float) -> np.ndarray:
    """Give photos (N,) numbers, the same number to those that stay on one side."""
    groups = same_photos(photos)
    for group, count in zip(*np.unique(groups, return_counts=True), strict=True):
        if count > share * len(photos):  # a fixed camera's, all of whose photos are nearly the same
            rows = np.flatnonzero(groups == group)
            groups[rows] = rows[same_photos([photos[row] for row in rows.tolist()], finely=True)]
    return groups


def same_photos(photos: Sequence[Path], finely: bool = False) -> np.ndarray:
    """Give photos (N,) numbers, the same number to those of the same or nearly the same content.

    Compared are 64 bits of which neighbour is brighter (dHash), and of those that agree, small grey thumbnails; with
    `finely` larger ones, no place of which may differ.
    """
    with ThreadPoolExecutor(usable_cores()) as pool:
        found = list(pool.map(partial(_thumbnail, side=FINE_SIDE if finely else SIDE), photos))
    parent = list(range(len(photos)))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    bits = np.array([np.zeros(64, bool) if each is None else _bits(each) for each in found])
    quarters = np.packbits(bits, axis=1).reshape(len(photos), 4, 2)
    for quarter in range(4):
        buckets: dict[bytes, list[int]] = defaultdict(list)
        for row, each in enumerate(found):
            if each is not None:
                buckets[quarters[row, quarter].tobytes()].append(row)
        for rows in buckets.values():
            if len(rows) > CROWDED:
                finer: dict[bytes, list[int]] = defaultdict(list)
                for row in rows:
                    finer[quarters[row].tobytes()].append(row)
                groups = list(finer.values())
            else:
                groups = [rows]
            for group in groups:
                for place, row in enumerate(group):
                    others = np.array(group[place + 1 : place + 1 + CROWDED], int)
                    near = others[(bits[others] != bits[row]).sum(1) <= SAME_BITS] if len(others) else others
                    for other in near.tolist():
                        difference = np.abs(found[row] - found[other])
                        if difference.max() < FINE_ALIKE if finely else difference.mean() < ALIKE:
                            parent[root(other)] = root(row)
    return np.array([root(row) for row in range(len(photos))])


def _thumbnail(photo: Path, side: int) -> np.ndarray | None:
    """Shrink a photo to (side, side) float32 grey levels; None for one that cannot be read."""
    try:
        image = read_image(photo, 8)
        if min(image.shape[:2]) < 2 * side:
            image = read_image(photo)
    except ImageError:
        return None
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return cv2.resize(grey, (side, side), interpolation=cv2.INTER_AREA)


def _bits(thumbnail: np.ndarray) -> np.ndarray:
    small = cv2.resize(thumbnail, (9, 8), interpolation=cv2.INTER_AREA)
    return (small[:, 1:] > small[:, :-1]).reshape(-1)


def _key(spec: DataSpec, index: LabelIndex) -> str:
    """Tell apart sets of the same photos and labels at other places or with other names: all that is written down."""
    parts = (spec.yaml, json.dumps(_values(spec, Path())), *index.images)
    return hashlib.sha256(os.fsencode("\0".join(map(str, parts)))).hexdigest()[:12]


def _values(spec: DataSpec, folder: Path) -> dict[str, object]:
    """List what a data YAML in `folder` says of the set and of the two lists beside it.

    Where the set has no `labels_dir`, it names them without their folder, which may be copied elsewhere.
    """
    values: dict[str, object] = {}
    place = Path()
    if spec.labels_dir is not None:
        values, place = {"path": str(spec.root)}, folder
    values |= {split: str(place / f"{split}.txt") for split in ("train", "val")}
    if spec.labels_dir is not None:
        values["labels_dir"] = spec.labels_dir
    values |= {split: list(map(str, sources)) for split, sources in _test(spec).items()}
    if files := _annotations(spec):
        values["annotations"] = {split: str(file) for split, file in files.items()}
    return values | spec.rows | {"names": dict(enumerate(spec.names))}


def _text(values: dict[str, object], note: str) -> str:
    return f"{note}\n" + yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _write(spec: DataSpec, index: LabelIndex, held: np.ndarray, folder: Path, note: str) -> None:
    """Write two lists and a data YAML that names them, whole or not at all."""
    draft = folder.with_name(f".{folder.name}-{os.getpid()}")
    try:
        draft.mkdir(parents=True, exist_ok=True)
        for split, chosen in (("train", ~held), ("val", held)):
            text = "".join(f"{index.images[row]}\n" for row in np.flatnonzero(chosen).tolist())
            (draft / f"{split}.txt").write_text(text, "utf-8", "surrogateescape")
        (draft / "data.yaml").write_text(_text(_values(spec, folder), f"# --val: {note}"), "utf-8")
        if not folder.exists():
            draft.rename(folder)
    except OSError as error:
        raise UserError(f"--val: the split cannot be written to {printable(folder)}: {printable(error)}") from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)
