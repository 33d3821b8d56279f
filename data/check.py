"""Looks for what would spoil a training on a data set, and writes nothing into it.

python -m data.check mydata/data.yaml
python -m data.check mydata/data.yaml --imgsz 416 --csv findings.csv --json findings.json
python -m data.check mydata/data.yaml --bad-labels error        exit code 2 if a label or photo cannot be used as it is
"""

import argparse
import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from utils.config.flags import Parser
from utils.config.knobs import BAD_LABELS, LARGEST_PHOTO, MAX_PIXELS_MEANING, Hyperparameters, RunConfig, checked
from utils.errors import UserError, printable, run_command

if TYPE_CHECKING:
    from data.labels.doctor import Checkup, Settings

SHOWN = 3
BEYOND_BY_LITTLE = "slightly out of range"
SAMPLE = 500  # photos of each split that are decoded unless all are asked for
POLICIES = {
    "mend": "boxes up to 1 % beyond their photo are clipped, others left out",
    "clip": "every box is clipped to its photo",
    "skip": "every box that leaves its photo is left out",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; UserError where the data set cannot be read, or has errors with `--bad-labels error`."""
    options = _parser().parse_args(arguments)
    from data.formats.coco_truths import noted_truths
    from data.labels.doctor import ALL, examine
    from data.open.any_layout import open_data_set, root_for
    from data.pixel_limit import pixels_allowed

    settings = doctor_settings(options.imgsz, options.cfg, options.anchor_t)
    if options.bad_labels != "error":
        settings = settings._replace(bad_labels=options.bad_labels)
    decode = {True: ALL, False: 0}.get(options.decode, SAMPLE)
    with pixels_allowed(checked(RunConfig, {"max_pixels": options.max_pixels}, "--max-pixels")["max_pixels"]):
        spec = open_data_set(options.data, root_for(options.data, options.data_root))
        checkup = examine(spec, settings, cached=options.cache, decode=decode, truths_of=noted_truths)
    print("\n".join(text(checkup)))
    try:
        if options.csv:
            with options.csv.open("w", encoding="utf-8", errors="replace", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(("severity", "kind", "split", "where", "details"))
                writer.writerows((_severity(finding.kind), *finding) for finding in checkup.findings)
        if options.json:
            document = json.dumps({**asdict(checkup), "counts": checkup.counts()}, indent=1)
            options.json.write_text(document + "\n", "utf-8")
    except OSError as error:
        raise UserError(f"{printable(error.filename)}: cannot be written: {printable(error.strerror)}") from None
    judge(checkup, options.bad_labels)


def judge(checkup: "Checkup", bad_labels: str) -> None:
    """Say what training makes of the errors; UserError, with `error`, where something cannot be used as it is."""
    from data.labels.doctor import LEFT_OUT

    counts = checkup.counts()
    if bad_labels == "error":
        kinds = {*(each.kind for each in checkup.errors), BEYOND_BY_LITTLE}
        refused = [each for each in checkup.findings if each.kind in kinds]
        if refused:
            first = f"{printable(refused[0].where)} ({refused[0].kind})"
            raise UserError(f"{len(refused)} labels, photos or annotation files cannot be used; the first: {first}")
    elif counts["out of range"] or counts[BEYOND_BY_LITTLE]:
        print(f"train.py: {POLICIES[bad_labels]} (--bad-labels)")
    stops = dict.fromkeys(each.kind for each in checkup.errors if each.kind not in LEFT_OUT)
    if stops:
        print(f"train.py and val.py stop at: {', '.join(stops)}")


def doctor_settings(imgsz: Sequence[object], cfg: str, anchor_t: object = None) -> "Settings":
    """Return image size, the anchors of a model YAML and the ratio to them, all in the ranges that train.py takes."""
    from data.labels.doctor import Settings
    from utils.config.sources import model_config

    sides = checked(RunConfig, {"imgsz": imgsz}, "--imgsz")["imgsz"]
    if len(sides) > 2:
        raise UserError(f"--imgsz {' '.join(map(str, sides))}: expected one side, or height and width")
    anchors = tuple(tuple(anchor) for level in model_config(cfg, {}).anchors for anchor in level)
    if anchor_t is not None and not anchors:
        raise UserError(f"--anchor-t: the model YAML {printable(cfg)} has no anchors to compare objects with")
    given = {} if anchor_t is None else checked(Hyperparameters, {"anchor_t": anchor_t}, "--anchor-t")
    return Settings((sides[0], sides[-1]), anchors, given.get("anchor_t", Hyperparameters.anchor_t))


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m data.check", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", metavar="DATA", help="data YAML, built-in name, or a data set in another layout")
    parser.add_argument("--data-root", default="", metavar="DIR", help="folder of the built-in data sets")
    parser.add_argument("--imgsz", nargs="+", default=(640,), metavar="N", help="training size in pixels (default 640)")
    parser.add_argument("--cfg", default="yolov3-tiny", metavar="NAME", help="model whose anchors are tried")
    ratio = "largest ratio of an object's side to an anchor's, or the other way round (default 4)"
    parser.add_argument("--anchor-t", metavar="X", help=ratio)
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write every finding as CSV")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything as JSON")
    parser.add_argument(
        "--decode",
        action=argparse.BooleanOptionalAction,
        help=f"decode all photos, as training does (default: {SAMPLE} of each split)",
    )
    parser.add_argument(
        "--max-pixels", default=LARGEST_PHOTO, metavar="N", help=f"{MAX_PIXELS_MEANING} (default %(default)s)"
    )
    parser.add_argument("--no-cache", dest="cache", action="store_false", help="look again even if nothing changed")
    parser.add_argument(
        "--bad-labels",
        choices=BAD_LABELS,
        default="mend",
        help="what is done about boxes beyond the photo",
    )
    return parser


def _severity(kind: str) -> str:
    from data.labels.doctor import KINDS

    return KINDS[kind]


def text(checkup: "Checkup") -> Iterable[str]:
    """Return the findings for a terminal: each kind once, with its first few places, then the numbers of each split."""
    counts = checkup.counts()
    for kind, count in counts.items():
        yield f"{_severity(kind):<8}{count:>7,}  {kind}"
        for finding in [each for each in checkup.findings if each.kind == kind][:SHOWN]:
            details = f"  {printable(finding.details, 160)}" if finding.details else ""
            yield f"{'':>17}{finding.split}: {printable(finding.where, 160)}{details}"
        if count > SHOWN:
            yield f"{'':>17}... and {count - SHOWN:,} more (--csv lists all)"
    if not counts:
        yield "nothing to complain about"
    for split, numbers in checkup.splits.items():
        recall = numbers["best_possible_recall"]
        shown = "" if recall is None else f"  anchors' best possible recall {recall:.4f}"
        decoded = numbers.get("decoded", numbers["images"])
        part = "" if decoded == numbers["images"] else f" ({decoded:,} of them decoded; --decode does all)"
        yield f"{split}: {numbers['images']:,} images{part}, {numbers['labels']:,} usable labels{shown}"
        total = max(numbers["labels"], 1)
        shares = ", ".join(f"{name} {count / total:.1%}" for name, count in numbers["side_ratio"].items())
        yield f"  side ratio: {shares}"
        classes = sorted(numbers["per_class"].items(), key=lambda item: -item[1])
        listed = ", ".join(f"{name} {count:,}" for name, count in classes[:20])
        yield f"  classes: {listed}" + (f" and {len(classes) - 20} more" if len(classes) > 20 else "")


if __name__ == "__main__":
    run_command(main)
