"""Converts other annotation formats to YOLO labels, a data YAML and a report; convert.py voc --help says more."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from utils.errors import printable, run_command
from utils.flags import Parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the flags and runs the chosen conversion; UserError for whatever the user can mend."""
    options, unknown = _parser().parse_known_args(arguments)
    if unknown:
        options.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    options.run(options)


def _parser() -> Parser:
    parser = Parser(prog="convert.py", description=__doc__)
    formats = parser.add_subparsers(metavar="format", required=True)
    voc = formats.add_parser("voc", help="Pascal VOC folders", description="Pascal VOC folders to a YOLO data set.")
    voc.add_argument("source", metavar="SRC", type=Path, help="folder with Annotations and JPEGImages, or a VOCdevkit")
    voc.add_argument("target", metavar="DST", type=Path, help="new folder for images/, labels/, data.yaml and report.*")
    voc.add_argument("--names", metavar="A,B,C", help="class names in the order of their ids (default: all, sorted)")
    voc.add_argument("--splits", nargs="+", metavar="SPLIT", help="of train val test trainval (default: what is there)")
    voc.add_argument("--keep-difficult", action="store_true", help="keep objects that are marked difficult")
    voc.add_argument(
        "--images", choices=("link", "copy", "list"), default="link", help="hard links, copies, or lists of the photos"
    )
    voc.add_argument(
        "--pixel-origin", choices=("auto", "0", "1"), default="auto", help="the number of the first pixel (VOC: 1)"
    )
    voc.add_argument("--dry-run", action="store_true", help="say what would come out and write nothing")
    voc.add_argument("--exist-ok", action="store_true", help="replace an earlier conversion at DST")
    voc.set_defaults(run=_run_voc, parser=voc)
    return parser


def _run_voc(options: argparse.Namespace) -> None:
    from data.convert.voc import convert_voc
    from data.convert.yolo_set import summary

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
    target = printable(options.target)
    print(f"{printable(options.source)} -> {target}{' (dry run: nothing is written)' if options.dry_run else ''}")
    print("\n".join(summary(conversion)))
    if not options.dry_run:
        print(f"all of it, file by file: {target}/report.csv")
        print(f"next: python train.py --data {target}/data.yaml")


if __name__ == "__main__":
    run_command(main)
