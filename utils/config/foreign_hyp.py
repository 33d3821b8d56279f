"""Hyperparameter files of ultralytics: what a key of theirs means here, if anything."""

from collections.abc import Mapping
from typing import Any

from utils.errors import UserError, printable

# Of the generation of YOLOv3 and YOLOv5, whose other keys are ours.
OLDER_KEYS = frozenset(["iou_t", "anchors", "copy_paste"])
# Of ultralytics 8, which any of them tells.
NEWER_KEYS = frozenset(
    ["copy_paste_mode", "bgr", "erasing", "auto_augment", "crop_fraction", "cutmix", "kobj", "pose", "dfl"]
    + ["rle", "angle", "dlog", "dgrad", "dlam", "dis", "distill_model", "close_mosaic", "nbs"]
)
# Ours as well, but of other losses: there, box: 7.5 is usual, and cls_pw: 0 switches a weighing of rare classes off.
KEYS_OF_OTHER_LOSSES = ("box", "cls", "cls_pw")


def translated(found: Mapping[Any, Any], where: str) -> tuple[dict[Any, Any], list[str]]:
    """Return the keys of a hyperparameter file that are meant for us, and notes on the others.

    UserError where the file says one thing by two names.
    """
    newer = NEWER_KEYS.intersection(found)
    left_out = {*OLDER_KEYS, *NEWER_KEYS, *(KEYS_OF_OTHER_LOSSES if newer else ())}
    ours = {key: value for key, value in found.items() if key not in left_out}
    if "nbs" in found:
        if "nominal_batch" in found:
            raise UserError(f"{where}: nbs and nominal_batch are one setting; expected one of them")
        ours["nominal_batch"] = found["nbs"]
    notes = []
    unread = sorted((OLDER_KEYS | NEWER_KEYS - {"nbs", "close_mosaic"}).intersection(found))
    if unread:
        notes.append(f"no meaning here, ignored: {', '.join(unread)}")
    if newer:
        gains = [f"{key} {printable(found[key])}" for key in KEYS_OF_OTHER_LOSSES if key in found]
        if gains:
            told = f"{min(newer)} tells a file of ultralytics 8, whose losses are others"
            notes.append(f"{told}; not taken over: {', '.join(gains)} (--set sets them)")
    if "close_mosaic" in found:
        notes.append(f"close_mosaic {printable(found['close_mosaic'])} is not taken over; it is a flag: --close-mosaic")
    return ours, notes
