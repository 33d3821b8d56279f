"""Converts VOC, COCO and LVIS to YOLO labels, and YOLO labels to COCO; convert.py coco --help says more.

python convert.py voc  VOCdevkit datasets/voc
python convert.py coco instances_val2017.json datasets/mycoco --photos val2017
python convert.py lvis lvis_v1_val.json datasets/lvis --photos coco/images
python convert.py yolo mydata/data.yaml mydata-coco
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from utils.config.flags import Parser
from utils.errors import printable, run_command


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the flags and runs the chosen conversion; UserError for whatever the user can mend."""
    options, unknown = _parser().parse_known_args(arguments)
    if unknown:
        options.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    options.run(options)


def _parser() -> Parser:
    parser = Parser(prog="convert.py", description=(__doc__ or "").splitlines()[0])
    formats = parser.add_subparsers(metavar="format", required=True)
    voc = formats.add_parser("voc", help="Pascal VOC folders", description="Pascal VOC folders to a YOLO data set.")
    voc.add_argument("source", metavar="SRC", type=Path, help="folder with Annotations and JPEGImages, or a VOCdevkit")
    _add_shared(voc, "new folder for images/, labels/, data.yaml and report.*")
    voc.add_argument("--names", metavar="A,B,C", help="class names in the order of their ids (default: all, sorted)")
    voc.add_argument("--splits", nargs="+", metavar="SPLIT", help="of train val test trainval (default: what is there)")
    voc.add_argument("--keep-difficult", action="store_true", help="keep objects that are marked difficult")
    voc.add_argument(
        "--pixel-origin",
        choices=("auto", "0", "1"),
        default="auto",
        help="the number of the first pixel: 1 in VOC's own files, 0 in those of other tools; auto tells them apart",
    )
    _add_images(voc, ("link", "copy", "list"))
    voc.set_defaults(run=_run_voc, parser=voc)
    for name in ("coco", "lvis"):
        shown = name.upper()
        coco = formats.add_parser(
            name, help=f"{shown} annotation files", description=f"{shown} files to a YOLO data set."
        )
        coco.add_argument("source", metavar="SRC", type=Path, help="an annotation file, or a folder with annotations/")
        _add_shared(coco, "new folder for images/, labels/, data.yaml, ids.json and report.*")
        coco.add_argument("--photos", nargs="+", type=Path, default=(), metavar="DIR", help="folders with the photos")
        coco.add_argument("--splits", nargs="+", default=(), metavar="SPLIT", help="split of each annotation file")
        coco.add_argument("--subset", action="store_true", help="only of the photos at hand; the others are counted")
        _add_images(coco, ("link", "copy"))
        coco.set_defaults(run=_run_coco, parser=coco)
    yolo = formats.add_parser(
        "yolo", help="YOLO labels to COCO files", description="A YOLO data set to COCO annotation files."
    )
    yolo.add_argument("source", metavar="DATA.yaml", help="data YAML, or a built-in name")
    _add_shared(yolo, "new folder for annotations/, data.yaml and report.*")
    yolo.add_argument("--data-root", default="", metavar="DIR", help="folder of the built-in data sets")
    yolo.set_defaults(run=_run_yolo, parser=yolo)
    return parser


def _add_shared(parser: argparse.ArgumentParser, target: str) -> None:
    parser.add_argument("target", metavar="DST", type=Path, help=target)
    parser.add_argument("--dry-run", action="store_true", help="say what would come out and write nothing")
    parser.add_argument("--exist-ok", action="store_true", help="replace an earlier conversion at DST")


def _add_images(parser: argparse.ArgumentParser, ways: tuple[str, ...]) -> None:
    parser.add_argument(
        "--images", choices=ways, default="link", help="how the photos come: as hard links, as copies, ..."
    )


def _run_voc(options: argparse.Namespace) -> None:
    from data.formats.voc import convert_voc

    conversion = convert_voc(
        options.source,
        None if options.dry_run else options.target,
        names=[name.strip() for name in options.names.split(",")] if options.names is not None else None,
        splits=options.splits,
        keep_difficult=options.keep_difficult,
        images=options.images,
        pixel_origin=options.pixel_origin,
        exist_ok=options.exist_ok,
    )
    _report(options, conversion, "train.py")


def _run_coco(options: argparse.Namespace) -> None:
    from data.formats.coco import convert_coco

    conversion = convert_coco(
        options.source,
        None if options.dry_run else options.target,
        photos=options.photos,
        splits=options.splits,
        images=options.images,
        exist_ok=options.exist_ok,
        subset=options.subset,
    )
    _report(options, conversion, "train.py")


def _run_yolo(options: argparse.Namespace) -> None:
    from data.data_yaml import data_root, read_data_yaml
    from data.formats.yolo_to_coco import convert_yolo

    spec = read_data_yaml(options.source, data_root(options.data_root))
    conversion = convert_yolo(spec, None if options.dry_run else options.target, options.exist_ok)
    _report(options, conversion, "val.py")


def _report(options: argparse.Namespace, conversion: "Conversion", command: str) -> None:  # noqa: F821 - see above
    from data.formats.yolo_set import summary

    target = printable(options.target)
    print(f"{printable(options.source)} -> {target}{' (dry run: nothing is written)' if options.dry_run else ''}")
    print("\n".join(summary(conversion)))
    if not options.dry_run:
        print(f"all of it, file by file: {target}/report.csv; pictures with the boxes: {target}/overlays")
        print(f"next: python {command} --data {target}/data.yaml")


if __name__ == "__main__":
    run_command(main)
