"""Darknet's own layout of an annotation set, which CVAT and datumaro import too ("YOLO 1.1"): obj.data and lists."""

from pathlib import Path

from data.formats.annotation_set import AnnotationSet
from data.formats.write.folder import bring, check_target, note_ignored, write_folder, write_overlays, write_report
from data.formats.write.yolo import label_text
from utils.errors import UserError, printable
from utils.run_folder import encoded

IGNORED = "crowd regions and difficult objects: Darknet's layout has no place for them, and they count as false alarms"


def write_darknet_set(found: AnnotationSet, target: Path, images: str = "link", exist_ok: bool = False) -> None:
    """Write obj.data, obj.names, train.txt and so on, and obj_<split>_data/ with photos and labels, all or nothing.

    Lists name photos as CVAT's do, with data/ before them, though that folder is not there.
    """
    target = Path(target).absolute()
    if "images" in target.parts:
        # The labels lie beside the photos, and of photos below `images` they are looked for in `labels`.
        raise UserError(
            f"{printable(target)}: Darknet's labels would not be found again below a folder called images; choose "
            "another place"
        )

    note_ignored(found, {"crowd", "difficult"}, IGNORED)

    def fill(draft: Path) -> None:
        lines = [f"classes = {len(found.names)}\n"]
        for base, splits in found.by_base().items():
            listed = []
            for photo in (photo for photo in found.photos if photo.split in splits):
                folder = f"obj_{base if len(splits) == 1 else photo.split}_data"
                place = draft / folder / photo.name
                bring(photo.photo, place, images)
                place.with_suffix(".txt").write_text(label_text(photo.objects), "utf-8")
                listed.append(f"data/{folder}/{photo.name}\n")
            (draft / f"{base}.txt").write_bytes(encoded("".join(listed)))
            lines.append(f"{'valid' if base == 'val' else base} = data/{base}.txt\n")
        (draft / "obj.data").write_text("".join([*lines, "names = data/obj.names\n", "backup = backup/\n"]), "utf-8")
        names = "".join(f"{printable(name)}\n" for name in found.names)
        (draft / "obj.names").write_text(names, "utf-8")
        write_report(found, draft)
        write_overlays(found, draft / "overlays")

    write_folder(target, fill, lambda: check_target(target, found.source, exist_ok))
