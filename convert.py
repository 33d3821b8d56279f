"""Converts annotations of labelling tools to YOLO, COCO, VOC or Darknet; convert.py coco --help says more.

python convert.py voc  VOCdevkit datasets/voc
python convert.py coco instances_val2017.json datasets/mycoco --photos val2017
python convert.py lvis lvis_v1_val.json datasets/lvis --photos coco/images
python convert.py yolo mydata/data.yaml mydata-coco
python convert.py voc  VOCdevkit mycoco --to coco             any of them to any other: yolo, coco, voc, darknet
python convert.py detections runs/detect/exp/detections.json corrected --to voc
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.config.flags import Parser
from utils.config.knobs import LARGEST_PHOTO, MAX_PIXELS_MEANING, RunConfig, checked
from utils.errors import UserError, printable, run_command

if TYPE_CHECKING:
    from data.formats.annotation_set import AnnotationSet

# What a set can be written as; the registry says the same (data/formats/registry.py), but costs its imports.
TARGETS = ("yolo", "coco", "voc", "darknet")
TOOLS = {
    "cvat": "CVAT's XML",
    "label_studio": "Label Studio's JSON",
    "datumaro": "datumaro's JSON",
    "labelme": "labelme's JSON files",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the flags and run the chosen conversion; UserError for whatever the user can mend."""
    options, unknown = _parser().parse_known_args(arguments)
    if unknown:
        options.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    from data.pixel_limit import pixels_allowed

    with pixels_allowed(checked(RunConfig, {"max_pixels": options.max_pixels}, "--max-pixels")["max_pixels"]):
        options.run(options)


def _parser() -> Parser:
    parser = Parser(prog="convert.py", description=(__doc__ or "").splitlines()[0])
    formats = parser.add_subparsers(metavar="format", required=True)
    voc = formats.add_parser("voc", help="Pascal VOC folders", description="Pascal VOC folders to a YOLO data set.")
    voc.add_argument("source", metavar="SRC", type=Path, help="folder with Annotations and JPEGImages, or a VOCdevkit")
    _add_shared(voc, "yolo", ("link", "copy", "list"))
    voc.add_argument("--names", metavar="A,B,C", help="class names in the order of their ids (default: all, sorted)")
    voc.add_argument("--splits", nargs="+", metavar="SPLIT", help="of train val test trainval (default: what is there)")
    voc.add_argument("--keep-difficult", action="store_true", help="keep objects that are marked difficult")
    voc.add_argument(
        "--pixel-origin",
        choices=("auto", "0", "1"),
        default="auto",
        help="the number of the first pixel: 1 in VOC's own files, 0 in those of most tools; auto tells them apart",
    )
    voc.set_defaults(run=_run_voc, parser=voc)
    for name in ("coco", "lvis"):
        shown = name.upper()
        coco = formats.add_parser(
            name, help=f"{shown} annotation files", description=f"{shown} files to a YOLO data set."
        )
        coco.add_argument("source", metavar="SRC", type=Path, help="an annotation file, or a folder with annotations/")
        _add_shared(coco, "yolo", ("link", "copy"))
        coco.add_argument("--photos", nargs="+", type=Path, default=(), metavar="DIR", help="folders with the photos")
        coco.add_argument("--splits", nargs="+", default=(), metavar="SPLIT", help="split of each annotation file")
        coco.add_argument("--subset", action="store_true", help="only of the photos at hand; the others are counted")
        coco.set_defaults(run=_run_coco, parser=coco)
    for name, shown in TOOLS.items():
        tool = formats.add_parser(name, help=shown, description=f"{shown} to a YOLO data set.")
        tool.add_argument("source", metavar="SRC", type=Path, help="the file, or a folder that holds it")
        _add_shared(tool, "yolo", ("link", "copy"))
        tool.add_argument("--photos", nargs="+", type=Path, default=(), metavar="DIR", help="folders with the photos")
        tool.set_defaults(run=_run_tool, parser=tool, name=name)
    yolo = formats.add_parser(
        "yolo",
        help="YOLO labels, to COCO files unless --to says otherwise",
        description="A YOLO data set to COCO annotation files, or to what --to says.",
    )
    yolo.add_argument("source", metavar="DATA", help="data YAML, built-in name, or a folder with YOLO labels")
    _add_shared(yolo, "coco", ())
    yolo.add_argument("--data-root", default="", metavar="DIR", help="folder of the built-in data sets")
    yolo.set_defaults(run=_run_yolo, parser=yolo)
    _add_detections(formats)
    return parser


def _add_detections(formats: argparse._SubParsersAction) -> None:
    parser = formats.add_parser(
        "detections",
        help="detections of detect.py --save-json, to correct them in a labelling tool",
        description="Detections of detect.py --save-json to a set that labelling tools import.",
    )
    parser.add_argument("source", metavar="SRC", type=Path, help="detections.json of detect.py --save-json")
    _add_shared(parser, "coco", ("link", "copy"))
    parser.add_argument("--names", metavar="A,B,C", help="all class names by id (default: those that were found)")
    more = "folders with more photos; those without a detection become background"
    parser.add_argument("--photos", nargs="+", type=Path, default=(), metavar="DIR", help=more)
    parser.add_argument("--conf", type=float, default=0.25, metavar="X", help="least score that is kept (default .25)")
    parser.set_defaults(run=_run_detections, parser=parser)


def _ways_of(ways: tuple[str, ...]) -> str:
    """Say what the choices of --images mean."""
    meanings = {"link": "link = hard links", "copy": "copy = copies", "list": "list = a list of where they are"}
    return ", ".join(meanings[way] for way in ways)


def _add_shared(parser: argparse.ArgumentParser, to: str, ways: tuple[str, ...]) -> None:
    parser.add_argument("target", metavar="DST", type=Path, help="new folder for annotations, data.yaml and report.*")
    parser.add_argument("--to", choices=TARGETS, default=to, help=f"what is written (default {to})")
    parser.add_argument("--dry-run", action="store_true", help="say what would come out and write nothing")
    parser.add_argument("--exist-ok", action="store_true", help="replace an earlier conversion at DST")
    parser.add_argument(
        "--max-pixels", default=LARGEST_PHOTO, metavar="N", help=f"{MAX_PIXELS_MEANING} (default %(default)s)"
    )
    if ways:
        parser.add_argument(
            "--val",
            type=float,
            default=0.0,
            metavar="X",
            help="share of the training photos that becomes val: .2",
        )
        parser.add_argument("--seed", default=0, metavar="N", help="which photos --val takes")
        parser.add_argument("--images", choices=ways, default="link", help=f"how the photos come: {_ways_of(ways)}")


def _run_voc(options: argparse.Namespace) -> None:
    from data.formats.convert import convert_voc

    of_voc = {"keep_difficult": options.keep_difficult, "pixel_origin": options.pixel_origin}
    found = convert_voc(
        options.source, _target(options), names=_names(options.names), splits=options.splits, **of_voc, **_ways(options)
    )
    _report(options, found, "train.py")


def _run_coco(options: argparse.Namespace) -> None:
    from data.formats.convert import convert_coco

    of_coco = {"photos": options.photos, "splits": options.splits, "subset": options.subset}
    found = convert_coco(options.source, _target(options), **of_coco, **_ways(options))
    _report(options, found, "train.py")


def _run_tool(options: argparse.Namespace) -> None:
    from data.formats.convert import convert

    found = convert(options.name, options.source, _target(options), photos=options.photos, **_ways(options))
    _report(options, found, "train.py")


def _run_yolo(options: argparse.Namespace) -> None:
    from data.formats.convert import convert_yolo
    from data.open.any_layout import open_data_set, root_for

    spec = open_data_set(options.source, root_for(options.source, options.data_root))
    found = convert_yolo(spec, _target(options), options.exist_ok, options.to)
    _report(options, found, "val.py" if options.to == "coco" else "train.py")


def _run_detections(options: argparse.Namespace) -> None:
    from data.formats.convert import convert_detections

    if not 0 <= options.conf <= 1:
        raise UserError(f"--conf {options.conf:g}: expected a score from 0 to 1")
    of_scores = {"names": _names(options.names), "photos": options.photos, "conf": options.conf}
    found = convert_detections(options.source, _target(options), **of_scores, **_ways(options))
    _report(options, found, "train.py")


def _target(options: argparse.Namespace) -> Path | None:
    """Return where the set is written; None where only what would come out is asked for."""
    return None if options.dry_run else options.target


def _ways(options: argparse.Namespace) -> dict[str, Any]:
    """Return how a set is written: as what, its photos as links or copies, over an earlier one, a part held out."""
    ways = {"to": options.to, "images": options.images, "exist_ok": options.exist_ok}
    return {**ways, "change": _held_out(options)}


def _held_out(options: argparse.Namespace) -> "Callable[[AnnotationSet], AnnotationSet] | None":
    """Choose what is done between reading and writing: with --val, a share of train becomes val."""
    seed = checked(RunConfig, {"seed": options.seed}, "--seed")["seed"]
    if not options.val:
        return None
    if not 0 < options.val < 1:
        raise UserError(f"--val {options.val:g}: expected a share of the training photos, above 0 and below 1")
    from data.open.hold_out import with_held_out

    return lambda found: with_held_out(found, options.val, seed)


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",")]


def _report(options: argparse.Namespace, found: "AnnotationSet", command: str) -> None:
    from data.formats.annotation_set import summary

    target = printable(options.target)
    print(f"{printable(options.source)} -> {target}{' (dry run: nothing is written)' if options.dry_run else ''}")
    print("\n".join(summary(found)))
    if not options.dry_run:
        print(f"all of it, file by file: {target}/report.csv; pictures with the boxes: {target}/overlays")
        file = {"yolo": "/data.yaml", "darknet": "/obj.data"}.get(options.to, "")
        beside = options.to == "coco" and options.run is _run_yolo
        print(f"next: python {command} --data {target}{'/data.yaml' if beside else file}")


if __name__ == "__main__":
    run_command(main)
