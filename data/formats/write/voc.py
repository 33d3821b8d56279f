"""Pascal VOC folders of an annotation set: Annotations, JPEGImages, ImageSets/Main, labelmap.txt."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path, PurePosixPath

from data.formats.annotation_set import AnnotationSet, Finding, LabelledObject, LabelledPhoto
from data.formats.write.folder import bring, check_target, note_ignored, write_folder, write_overlays, write_report
from utils.errors import printable
from utils.run_folder import encoded

CROWDS = "crowd regions: a VOC folder has no place for them"
RENAMED = "another photo of the split has the same name but for its suffix: written under another"


def write_voc_set(found: AnnotationSet, target: Path, images: str = "link", exist_ok: bool = False) -> None:
    """Write a VOC folder to `target`, all or nothing.

    Edges are fractions of pixels counted from 0, as datumaro and globox write them: nothing is rounded away.
    """
    target = Path(target).absolute()
    places = voc_places(found)
    for photo in found.photos:
        written = PurePosixPath(places[photo.split, photo.name])
        if written.name != PurePosixPath(photo.name).name:
            found.findings.append(Finding("noted", photo.split, printable(photo.name), "", RENAMED, str(written)))

    note_ignored(found, {"crowd"}, CROWDS)

    def fill(draft: Path) -> None:
        (draft / "ImageSets" / "Main").mkdir(parents=True)
        for base, splits in found.by_base().items():
            names = [places[photo.split, photo.name] for photo in found.photos if photo.split in splits]
            lines = "".join(f"{name[: name.rindex('.')]}\n" for name in names)
            (draft / "ImageSets" / "Main" / f"{base}.txt").write_bytes(encoded(lines))
        for photo in found.photos:
            place = places[photo.split, photo.name]
            bring(photo.photo, draft / "JPEGImages" / place, images)
            xml = (draft / "Annotations" / place).with_suffix(".xml")
            xml.parent.mkdir(parents=True, exist_ok=True)
            xml.write_bytes(_xml(found, photo, place))
        labelmap = "# label:color_rgb:parts:actions\n" + "".join(f"{name}:::\n" for name in found.names)
        (draft / "labelmap.txt").write_text(labelmap, "utf-8")
        write_report(found, draft)
        write_overlays(found, draft / "overlays")

    write_folder(target, fill, lambda: check_target(target, found.source, exist_ok))


def voc_places(found: AnnotationSet) -> dict[tuple[str, str], str]:
    """Place all photos in one folder, each with an XML of its own.

    They lie below a folder of their split where two splits have photos of one name, or one photo with other objects.
    Where a split has photos that differ in their suffix alone, a.jpg and a.png, the second one is written as a_png.png.
    """
    first: dict[str, LabelledPhoto] = {}
    shared = any(_differ(first.setdefault(_stem(photo.name), photo), photo) for photo in found.photos)
    names = [f"{photo.split}/{photo.name}" if shared else photo.name for photo in found.photos]
    own = {_stem(name) for name in names}
    places: dict[tuple[str, str], str] = {}
    owners: dict[str, Path] = {}
    for photo, name in zip(found.photos, names, strict=True):
        stem, suffix = _stem(name), PurePosixPath(name).suffix
        if owners.setdefault(stem, photo.photo) != photo.photo:
            stem += f"_{suffix[1:]}"
            while stem in own:
                stem += "_"
            own.add(stem)
            owners[stem] = photo.photo
        places[photo.split, photo.name] = stem + suffix
    return places


def _differ(first: LabelledPhoto, other: LabelledPhoto) -> bool:
    """Tell whether photos of two splits need places of their own."""
    same = (first.photo, first.objects, list(first.ignored)) == (other.photo, other.objects, list(other.ignored))
    return first.split != other.split and not same


def _stem(name: str) -> str:
    return name[: name.rindex(".")]


def _xml(found: AnnotationSet, photo: LabelledPhoto, name: str) -> bytes:
    root = ElementTree.Element("annotation")
    ElementTree.SubElement(root, "folder").text = "JPEGImages"
    # XML has no place for a name that is no UTF-8; such a photo is found by the name of its XML file.
    ElementTree.SubElement(root, "filename").text = encoded(name).decode("utf-8", "replace")
    ElementTree.SubElement(ElementTree.SubElement(root, "source"), "database").text = "AlignYOLO"
    size = ElementTree.SubElement(root, "size")
    for key, value in (("width", photo.size[1]), ("height", photo.size[0]), ("depth", 3)):
        ElementTree.SubElement(size, key).text = str(value)
    ElementTree.SubElement(root, "segmented").text = "0"
    for item in (*photo.objects, *photo.ignored):
        if item.kind != "crowd":
            _add_object(root, found.names[item.label], item, photo.size)
    ElementTree.indent(root)
    return ElementTree.tostring(root, "utf-8") + b"\n"


def _add_object(root: ElementTree.Element, name: str, item: LabelledObject, size: tuple[int, int]) -> None:
    entry = ElementTree.SubElement(root, "object")
    difficult = str(int(item.kind == "difficult"))
    for key, text in (("name", name), ("pose", "Unspecified"), ("truncated", "0"), ("difficult", difficult)):
        ElementTree.SubElement(entry, key).text = text
    box = ElementTree.SubElement(entry, "bndbox")
    edges = (item.x - item.width / 2, item.y - item.height / 2, item.x + item.width / 2, item.y + item.height / 2)
    for key, edge, side in zip(("xmin", "ymin", "xmax", "ymax"), edges, (size[1], size[0]) * 2, strict=True):
        ElementTree.SubElement(box, key).text = str(round(edge * side, 6))
