"""The pages about the studies show pictures that exist, small enough for a repository, and name commands that parse."""

import re
import shlex
import shutil
import statistics

import pytest

from studies.combine import parse_flags as combine_flags
from studies.compare import compare, parse_flags
from studies.comparison.paired import holm, paired_difference
from studies.in_ultralytics import parse_flags as plugin_flags
from studies.scores import parse_flags as scores_flags
from tests.paths import ROOT
from tests.studies.results_page import (
    COLUMNS,
    RESULTS,
    ROUNDED,
    SCRATCHES,
    check_difference,
    check_mean,
    of,
    read_rows,
    table_of_results,
)
from train import parse_flags as train_flags
from tune import parse_flags as tune_flags
from utils.config.knobs import CompareConfig
from val import parse_flags as val_flags

FIGURES = ROOT / "docs" / "studies.md"
PAGES = [ROOT / "docs" / name for name in ("guides/comparisons.md", "coco.md", "results.md", "slender-protocol.md")]


def commands(page):
    """The commands on a page, their continuation lines joined and variables of the shell filled in."""
    text = "\n".join(re.findall(r"```\n(.*?)```", page.read_text("utf-8"), re.DOTALL)).replace("\\\n", " ")
    text = text.replace("$model", "yolov3").replace("$loss", "sca")
    return [line.split("#")[0].strip() for line in text.splitlines()]


def test_pictures_exist_and_are_small():
    shown = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", FIGURES.read_text("utf-8"))
    assert len(shown) >= 8
    for name in shown:
        size = (ROOT / "docs" / name).stat().st_size
        assert size < (1.2 * 2**20 if name.endswith(".gif") else 300_000), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_parse(page):
    studies = {"-m studies.compare": parse_flags, "-m studies.scores": scores_flags}
    studies["-m studies.combine"] = combine_flags
    studies["-m studies.in_ultralytics"] = plugin_flags
    parsers = {"train.py": train_flags, "val.py": val_flags, "tune.py": tune_flags, **studies}
    found = 0
    for line in commands(page):
        for start, parser in parsers.items():
            if line.startswith(f"python {start} "):
                # A recipe that another command on the page writes is not there: one that is stands for it.
                words = re.sub(
                    r"--recipe (\S+\.yaml)",
                    lambda named: named[0] if (ROOT / named[1]).is_file() else "--recipe both-papers",
                    line.removeprefix(f"python {start} "),
                )
                parser(shlex.split(words))
                found += 1
    assert found >= 2


def test_numbers_of_the_coco_page_follow_from_what_it_states():
    images = 118_287 * 300
    assert round(images / 3600) == 9857
    assert round(images / 74 / 3600) == 133
    for peak, hours in ((165, 93), (312, 49), (989, 16)):
        assert round(images * 467.7e9 / (0.3 * peak * 1e12) / 3600) == hours
        assert images * 39.5e9 / (0.3 * peak * 1e12) / 3600 < 8.3


# The tables of results.md by how their headers start: their folder in results/, the split that they show, the baseline
# of their differences, and the variants of their rows by the names in their first cells.
ASSIGNERS = {"anchor_ratio": "ciou", "iou": "assign-iou", "ggiou": "assign-ggiou"}
TABLES = {
    "| `--assign` | seeds": ("bccd", "test", "ciou", ASSIGNERS),
    "| `--loss` | seeds | AP | AP50 | AP75 | AP90": ("bccd", "test", "ciou", {}),
    "| `--assign`, 21 epochs": ("shapes-epochs21", "val", "anchor_ratio", {}),
    "| `--loss` | seeds | AP | AP50 | AP75 | AP below": ("shapes-parts", "val", "iou", {}),
}
MATCHED = ("shapes-gain", "val", "iou", {})  # its last row


def variant_of(label, names):
    """The variant that a row's first cell means."""
    signs = (("ggiou-yolo", "ggiou-yolo"), ("similarity", "sca-similarity"), ("box_gain_match", "sca-matched"))
    for sign, variant in signs:
        if sign in label:
            return variant
    name = re.match(r"`(\w+)`", label).group(1)
    return names.get(name, name)


@pytest.mark.parametrize("start", TABLES)
def test_tables_of_the_results_are_those_of_their_csv(start):
    header, rows = table_of_results(start)
    checked = intervals = 0
    for row in rows:
        name, scored, baseline, names = MATCHED if "box_gain_match" in row[0] else TABLES[start]
        variant = variant_of(row[0], names)
        difference = anchors = False
        for title, cell in zip(header, row, strict=True):
            difference, anchors = difference or title.startswith("minus"), anchors or title == "anchors an object"
            where = (row[0], title)
            if title in COLUMNS:
                values = of(name, scored, variant, COLUMNS[title])
                assert len(values) == int(row[1]), where
                check_mean(cell, values.values(), where)
            elif title.endswith(" (NMS .6)"):
                check_mean(cell, of(name, "test06", variant, COLUMNS[title.split()[0]]).values(), where)
            elif anchors:
                column = "positives_per_truth" + ("" if title == "anchors an object" else "_ratio_from_4")
                epochs = [each for each in read_rows(name, "curves.csv") if each["variant"] == variant]
                last = [float(each[column]) for each in epochs if each["epoch"] == epochs[-1]["epoch"]]
                assert float(cell) == pytest.approx(statistics.mean(last), abs=0.05 + 1e-9), where
            elif difference and cell and (title.startswith("minus") or title == "from 4 : 1"):
                column = "ap" if title.startswith("minus") else "ap_ratio_from_4"
                check_difference(cell, *(of(name, scored, each, column) for each in (variant, baseline)), where)
                intervals += 1
            checked += 1
    assert checked >= 16 and intervals >= 3


STEEL = ("ciou", "ggiou-yolo", "sca", "sca-ggiou-yolo")
FEW_ANCHORS = ("best_anchor", "iou", "ggiou")
ASSIGNED = ("anchor_ratio", *FEW_ANCHORS, "ggiou-yolo", "atss", "atss_ggiou", "simota", "tal", "tal_ggiou")


def anchors_an_object(name, variant):
    """How many anchors learnt from an object in the last epoch, mean over the seeds."""
    rows = [row for row in read_rows(name, "curves.csv") if row["variant"] == variant]
    last = max(int(row["epoch"]) for row in rows)
    return statistics.mean(float(row["positives_per_truth"]) for row in rows if int(row["epoch"]) == last)


@pytest.mark.parametrize(
    ("head", "name", "variants"),
    [
        ("| on steel", "neu-det-papers", STEEL),
        ("| found on steel", "neu-det-ggiou-found", ("start", "found")),
        ("| assigned on steel", "neu-det-assigners", ASSIGNED),
        ("| assigned on cells", "bccd-slender-assigners", ASSIGNED),
        ("| chosen on steel", "neu-det-chosen", ("ciou-anchor_ratio", "diou-matched-anchor_ratio")),
        ("| chosen on cells", "bccd-sca", ("ciou", "sca")),
        ("| size on cells", "bccd-sca-size", ("ciou", "ciou-larger", "sca", "sca-matched")),
        ("| larger on steel", "neu-det-larger-gain", ("ciou", "ciou-larger")),
        ("| in YOLO26n on steel", "neu-det-yolo26", ("ultralytics", "ggiou", "sca", "sca-ggiou")),
        ("| in RetinaNet on steel", "neu-det-retinanet", ("ciou", "ggiou", "sca", "sca-ggiou")),
    ],
)
def test_the_tables_of_the_protocol_are_those_of_their_csv(head, name, variants):
    titles, rows = table_of_results(f"{head} | seeds")
    columns = {**COLUMNS, "AP 2 to 4": "ap_ratio_2_to_4", "lost by localisation": "tide_localisation"}
    columns |= {"AP of `scratches`": SCRATCHES, "AP from 4 : 1, weighted": "ap_ratio_from_4_weighted"}
    for variant, row in zip(variants, rows, strict=True):
        for title, cell in zip(titles[1:], row[1:], strict=True):
            if title == "seeds":
                assert int(cell) == len(of(name, "test", variant, "ap"))
            elif title in columns:
                check_mean(cell, of(name, "test", variant, columns[title]).values(), (variant, title))
            elif title == "anchors an object":
                assert float(cell) == pytest.approx(anchors_an_object(name, variant), abs=0.06), variant
            elif cell:
                others = {"from 4 : 1": "ap_ratio_from_4", "at AP75": "ap75", "on `scratches`": SCRATCHES}
                column = others.get(title, "ap")
                pair = (of(name, "test", each, column) for each in (variant, variants[0]))
                check_difference(cell, *pair, (variant, title))


def test_several_anchors_an_object_are_ahead_on_steel_with_every_seed():
    found = {variant: of("neu-det-assigners", "test", variant, "ap") for variant in ASSIGNED}
    ahead = {
        seed: min(found[each][seed] for each in ASSIGNED if each not in FEW_ANCHORS)
        - max(found[each][seed] for each in FEW_ANCHORS)
        for seed in found["iou"]
    }
    text = " ".join((ROOT / "docs" / "results.md").read_text("utf-8").split())
    assert f"by at least {100 * min(ahead.values()):.1f} points of AP" in text
    assert len(ahead) == 5 and "with each of five seeds, by at least" in text
    counts = {variant: anchors_an_object("neu-det-assigners", variant) for variant in ASSIGNED}
    assert max(counts[each] for each in FEW_ANCHORS) < min(counts[each] for each in ASSIGNED if each not in FEW_ANCHORS)


def test_what_is_said_of_the_assignments_on_steel_is_so():
    text = " ".join((ROOT / "docs" / "results.md").read_text("utf-8").split())
    columns = ("ap", "ap_ratio_from_4")
    found = {column: {each: of("neu-det-assigners", "test", each, column) for each in ASSIGNED} for column in columns}
    to_default = {
        column: {each: paired_difference(by[each], by["anchor_ratio"]) for each in ASSIGNED[1:]}
        for column, by in found.items()
    }
    corrected = {column: holm({each: pair.p for each, pair in by.items()}) for column, by in to_default.items()}
    below = [each for each, p in corrected["ap"].items() if p < 0.05]
    assert below == ["best_anchor", "iou", "ggiou", "atss_ggiou"]
    assert [each for each, p in corrected["ap_ratio_from_4"].items() if p < 0.05] == ["iou"]
    ap, slender = to_default["ap"], to_default["ap_ratio_from_4"]
    p, p_slender = ({each: f"{value:.3f}"[1:] for each, value in corrected[column].items()} for column in columns)
    assert f"`best_anchor` ({-100 * ap['best_anchor'].mean:.1f} points; p {p['best_anchor']})" in text
    for each in below[1:]:
        assert f"`{each}` ({-100 * ap[each].mean:.1f}; p {p[each]})" in text
    assert f"by {-100 * slender['iou'].mean:.1f} points (p {p_slender['iou']})" in text
    low, high = (f"{-100 * end:.1f}" for end in (slender["ggiou"].high, slender["ggiou"].low))
    said = f"`ggiou` is {-100 * slender['ggiou'].mean:.1f} below ({low} to {high}), corrected p {p_slender['ggiou']}"
    assert said in text
    low, high = (f"{-100 * end:.1f}" for end in (ap["ggiou"].high, ap["ggiou"].low))
    said = f"[{-100 * ap['ggiou'].mean:.1f} points below](#steel-surfaces-assignments) ({low} to {high}; five seeds, "
    assert f"{said}p {p['ggiou']})" in text
    pairs = [("ggiou", "iou"), ("atss_ggiou", "atss"), ("tal_ggiou", "tal")]
    gains = [paired_difference(found["ap"][one], found["ap"][other]) for one, other in pairs]
    shown = [f"{100 * each.mean:+.1f} ({100 * each.low:+.1f} to {100 * each.high:+.1f})" for each in gains]
    assert f"changes AP by {shown[0]}, {shown[1]} and {shown[2]} points" in text
    assert all(each.low < 0 < each.high for each in gains)


def test_what_is_said_of_the_assignments_on_cells_is_so():
    text = " ".join((ROOT / "docs" / "results.md").read_text("utf-8").split())
    page = " ".join((ROOT / "docs" / "concepts" / "assigners.md").read_text("utf-8").split())
    name, columns = "bccd-slender-assigners", ("ap", "ap75")
    found = {column: {each: of(name, "test", each, column) for each in ASSIGNED} for column in columns}
    to_default = {
        column: {each: paired_difference(by[each], by["anchor_ratio"]) for each in ASSIGNED[1:]}
        for column, by in found.items()
    }
    corrected = {column: holm({each: pair.p for each, pair in by.items()}) for column, by in to_default.items()}
    ap, strict = to_default["ap"], to_default["ap75"]
    assert [each for each, p in corrected["ap"].items() if p < 0.05] == ["atss", "atss_ggiou"]
    p = {each: f"{value:.3f}"[1:] for each, value in corrected["ap"].items()}
    assert f"`atss` ({100 * ap['atss'].mean:.1f} points; p {p['atss']})" in text
    assert f"`atss_ggiou` ({100 * ap['atss_ggiou'].mean:.1f}; p {p['atss_ggiou']}), with each of five seeds" in text
    at_75 = f"At AP75 `atss` is {100 * strict['atss'].mean:.1f} points above it (p {corrected['ap75']['atss']:.3f})"
    assert at_75.replace("p 0.", "p .") in text
    others = ("simota", "ggiou", "ggiou-yolo")
    assert all(ap[each].low > 0 for each in others)
    assert "(p {}, {} and {})".format(*(f"{corrected['ap'][each]:.2f}"[1:] for each in others)) in text
    for each in ("atss", "atss_ggiou", *others):
        assert min(found["ap"][each][seed] - found["ap"]["anchor_ratio"][seed] for seed in found["ap"][each]) > 0
    low, high = (f"{100 * end:.1f}" for end in (ap["atss"].low, ap["atss"].high))
    link = f"[{100 * ap['atss'].mean:.1f} points above the default](#blood-cells-ten-assignments)"
    assert f"{link} ({low} to {high}; five seeds), beyond chance" in text
    assert f"by [{100 * ap['atss'].mean:.1f} and {100 * ap['atss_ggiou'].mean:.1f} points](../results.md#blood" in page
    pairs = [("ggiou", "iou"), ("atss_ggiou", "atss"), ("tal_ggiou", "tal")]
    gains = [paired_difference(found["ap"][one], found["ap"][other]) for one, other in pairs]
    shown = [f"{100 * each.mean:.1f} ({100 * each.low:+.1f} to {100 * each.high:+.1f})" for each in gains[:2]]
    last = f"{100 * gains[2].mean:.1f} points ({100 * gains[2].low:+.1f} to {100 * gains[2].high:+.1f})"
    assert f"adds {shown[0]}, {shown[1]} and {last}" in text
    first = f"{holm(dict(zip(pairs, (each.p for each in gains), strict=True)))[pairs[0]]:.3f}"[1:]
    assert f"Corrected for the three, the first has p {first}: not beyond chance" in text
    chosen = max(ASSIGNED, key=lambda each: statistics.mean(of(name, "val", each, "ap").values()))
    assert f"By the validation split alone `{chosen}` would be chosen" in text


def test_what_is_said_of_atss_on_steel_is_so():
    text = " ".join((ROOT / "docs" / "results.md").read_text("utf-8").split())
    found = {each: of("neu-det-assigners", "test", each, "ap") for each in ASSIGNED}
    pairs = {each: paired_difference(found[each], found["anchor_ratio"]) for each in ASSIGNED[1:]}
    corrected, atss = holm({each: pair.p for each, pair in pairs.items()}), pairs["atss"]
    said = f"it is {-100 * atss.mean:.1f} points below ({-100 * atss.high:.1f} to {-100 * atss.low:.1f}), corrected p "
    assert said + f"{corrected['atss']:.2f}"[1:] in text
    both = f"`atss_ggiou` is {-100 * pairs['atss_ggiou'].mean:.1f} points below the default and `ggiou` "
    assert both + f"{-100 * pairs['ggiou'].mean:.1f}, both beyond chance" in text
    assert max(corrected["atss_ggiou"], corrected["ggiou"]) < 0.05


def test_the_page_on_assigners_says_where_its_form_for_yolo_is_behind():
    """The columns of its table, and both differences on steel with their intervals."""
    page = (ROOT / "docs" / "concepts" / "assigners.md").read_text("utf-8")
    variants = {"--hyp ggiou`": ("assign-ggiou", "ggiou"), "--hyp ggiou-yolo": ("ggiou-yolo", "ggiou-yolo")}
    variants["`anchor_ratio`, the default"] = ("ciou", "anchor_ratio")
    for sign, (of_cells, of_others) in variants.items():
        (row,) = [
            line for line in page.splitlines() if line.startswith("|") and sign in line and "side ratio" not in line
        ]
        columns = [("bccd", "test", of_cells, "ap"), ("shapes-epochs21", "val", of_others, "ap")]
        columns += [
            ("shapes-epochs21", "val", of_others, "ap_ratio_from_4"),
            ("neu-det-assigners", "test", of_others, "ap"),
        ]
        means = [float(cell) for cell in row.strip("|").split("|")[1:]]
        assert means == pytest.approx([statistics.mean(of(*each).values()) for each in columns], abs=5e-3 + 1e-9), row
    text = " ".join(page.split())
    for name, baseline, unit, section in (
        ("neu-det-assigners", "anchor_ratio", "", "assignments"),
        ("neu-det-papers", "ciou", " points", "both-papers"),
    ):
        found = paired_difference(*(of(name, "test", each, "ap") for each in ("ggiou-yolo", baseline)))
        link = f"[{-100 * found.mean:.1f}{unit}](../results.md#steel-surfaces-{section})"
        assert f"{link} ({100 * found.low:+.1f} to {100 * found.high:+.1f})" in text
        assert found.low < 0 < found.high
    for name, scored, baseline in (("bccd", "test", "ciou"), ("shapes-epochs21", "val", "anchor_ratio")):
        ahead, default = (statistics.mean(of(name, scored, each, "ap").values()) for each in ("ggiou-yolo", baseline))
        assert ahead > default


def test_what_the_search_on_steel_found_holds_on_the_test_split():
    text = " ".join((ROOT / "docs" / "results.md").read_text("utf-8").split())
    gains = {
        column: paired_difference(*(of("neu-det-ggiou-found", "test", each, column) for each in ("found", "start")))
        for column in ("ap", "ap_ratio_from_4")
    }
    gain, slender = gains["ap"], gains["ap_ratio_from_4"]
    assert gain.p < 0.001 and slender.p < 0.05
    assert f"on the test split, {100 * gain.mean:.1f} points, and beyond chance" in text
    assert f"With slender objects it is {100 * slender.mean:.1f} points" in text
    said = f"{100 * gain.mean:.1f} points below settings that [a search](#steel-surfaces-settings-of-ggiou) found"
    assert f"{said} ({100 * gain.low:.1f} to {100 * gain.high:.1f}; five seeds, p below .001)" in text
    means, from_4 = (
        f"{statistics.mean(default):.3f} ± {statistics.stdev(default):.3f}"
        for default in (of("neu-det-papers", "test", "ciou", column).values() for column in gains)
    )
    assert f"reaches there ({means}, from 4 : 1 {from_4};".replace("0.", ".") in text


def test_what_the_validation_split_chooses_on_steel_is_said_with_its_interval_on_test():
    _, rows = table_of_results("| chosen from | seeds")
    slender = {variant: of("neu-det-papers", "val", variant, "ap_ratio_from_4") for variant in STEEL}
    for variant, (_, seeds, ap, from_4, difference) in zip(STEEL, rows, strict=True):
        assert int(seeds) == len(slender[variant])
        check_mean(ap, of("neu-det-papers", "val", variant, "ap").values(), variant)
        check_mean(from_4, slender[variant].values(), variant)
        assert bool(difference) == (variant != "ciou")
        if difference:
            check_difference(difference, slender[variant], slender["ciou"], variant)
    chosen = max(STEEL, key=lambda variant: statistics.mean(slender[variant].values()))
    label = table_of_results("| on steel | seeds")[1][STEEL.index(chosen)][0]
    found = paired_difference(*(of("neu-det-papers", "test", each, "ap_ratio_from_4") for each in (chosen, "ciou")))
    text = " ".join((ROOT / "docs" / "results.md").read_text("utf-8").split())
    assert f"{label} is chosen. Its interval on the test split" in text
    said = f"{100 * found.low:+.1f} to {100 * found.high:+.1f}"
    assert f"the one in the first table, {said}, and does not lie above zero" in text
    assert f"with an interval that includes zero ({said})" in text
    assert found.low < 0


def test_the_search_on_steel_is_that_of_its_csv():
    trials = read_rows("neu-det-ggiou-search", "trials.csv")
    finished = sorted(
        (row for row in trials if row["state"] == "complete"), key=lambda row: float(row["ap"]), reverse=True
    )
    _, rows = table_of_results("| searched | `ggiou_alpha`")
    for trial, (label, *cells) in zip(finished, rows, strict=True):
        assert label.startswith(f"trial {trial['trial']}")
        assert int(cells[2]) == int(trial["min_positives"])
        shown = [float(trial[key]) for key in ("ggiou_alpha", "ggiou_beta", "ap")]
        assert [float(cells[column]) for column in (0, 1, 3)] == pytest.approx(shown, abs=ROUNDED)
    start = next(row for row in finished if row["folder"] == "trial000")
    assert rows[finished.index(start)][0].endswith("the defaults")
    text = " ".join((ROOT / "docs" / "results.md").read_text("utf-8").split())
    assert f"is {100 * (float(finished[0]['ap']) - float(start['ap'])):.1f} points better than they are" in text
    stopped = [row for row in trials if row["state"] == "pruned"]
    assert (len(trials), len(stopped)) == (16, 11)
    assert {row["epochs"] for row in stopped} == {"3", "9"}
    several = [float(row["ap"]) for row in finished if int(row["min_positives"]) > 1]
    assert min(several) > max(float(row["ap"]) for row in finished if int(row["min_positives"]) == 1)


def test_the_verdicts_on_steel_are_those_of_its_csv():
    """Every difference in the table of verdicts, in its order, and that none is beyond chance."""
    _, rows = table_of_results("| what the paper says | here")

    def means_of_epochs(variant):
        found = {}
        for row in read_rows("neu-det-papers", "curves.csv"):
            if row["variant"] == variant:
                found.setdefault(row["seed"], []).append(float(row["ap"]))
        return {seed: statistics.mean(values) for seed, values in found.items()}

    measures = [[("sca", "ap")], [("sca", "ap75"), ("sca", "ap90")], [("sca", None)]]
    measures += [[("ggiou-yolo", "ap_ratio_from_4")], [("ggiou-yolo", "ap75"), ("ggiou-yolo", "ap90")]]
    for row, expected in zip(rows, measures, strict=True):
        printed = re.findall(r"[+-][\d.]+ \([+-][\d.]+ to [+-][\d.]+\)", row[1])
        for cell, (variant, column) in zip(printed, expected, strict=True):
            pairs = {
                each: means_of_epochs(each) if column is None else of("neu-det-papers", "test", each, column)
                for each in STEEL
            }
            check_difference(cell, pairs[variant], pairs["ciou"], row[0])
            corrected = holm({each: paired_difference(pairs[each], pairs["ciou"]).p for each in STEEL[1:]})
            assert corrected[variant] > 0.05, row[0]
            if "corrected p" in row[1] and column == "ap90":
                assert f"corrected p {corrected[variant]:.2f}".replace("0.", ".") in row[1]
    by_seed = [of("neu-det-papers", "test", each, "ap_ratio_from_4") for each in ("ggiou-yolo", "ciou")]
    shown = ", ".join(f"{100 * (by_seed[0][seed] - by_seed[1][seed]):+.1f}" for seed in sorted(by_seed[0]))
    assert f"by seed {shown}" in rows[3][1]


def test_the_table_of_arithmetics_is_that_of_the_scores():
    titles, rows = table_of_results("| arithmetic | seeds")
    for row, (name, variant) in zip(rows, (("bccd-arithmetic", "ciou-bf16"), ("bccd", "ciou")), strict=True):
        for title, cell in zip(titles, row, strict=True):
            column = COLUMNS.get(title.removesuffix(" (NMS .6)"))
            if column is not None:
                scored = "test06" if title.endswith("(NMS .6)") else "test"
                values = of(name, scored, variant, column)
                assert len(values) == int(row[1]), row
                expected = [statistics.mean(values.values()), statistics.stdev(values.values())]
                assert [float(part) for part in cell.split("±")] == pytest.approx(expected, abs=ROUNDED), (row, title)
            elif title == "minus float32" and cell:
                check_difference(cell, of(name, "test", variant, "ap"), of("bccd", "test", "ciou", "ap"), row)


def test_the_table_of_retinanet_is_that_of_its_csv():
    titles, rows = table_of_results("| `--assign` | seed | AP")
    classes = {"AP red cells": "ap_rbc", "AP white cells": "ap_wbc", "AP platelets": "ap_platelets"}
    scores = {(row["assigner"], row["seed"]): row for row in read_rows("bccd-retinanet")}
    assert len(rows) == len(scores) == 4
    for row in rows:
        expected = scores[row[0].strip("`"), row[1]]
        for title, cell in zip(titles[2:], row[2:], strict=True):
            assert float(cell) == pytest.approx(float(expected[{**COLUMNS, **classes}[title]]), abs=ROUNDED), (
                row,
                title,
            )


def test_the_tables_of_earlier_runs_are_those_of_their_csv():
    lines = [
        line for line in (ROOT / "docs" / "results.md").read_text("utf-8").splitlines() if line.startswith("| `--")
    ]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    rows = [row for row in rows if len(row) == 11 and row[2] in ("bf16", "float32")]
    assert len(rows) == 15
    scores = read_rows("bccd-earlier")
    closed = {"10": 0, "0": 0}
    for flags, target, arithmetic, seed, *cells in rows:
        loss = "sca" if "sca" in flags else "ciou"
        box = "0.1" if "box=0.1" in flags else "0.05"
        asked = [loss, target, box, arithmetic, seed, "ggiou" in flags]
        found = [
            row
            for row in scores
            if [row[key] for key in ("loss", "obj_target", "box", "arithmetic", "seed")] + ["ggiou" in row["assigner"]]
            == asked
        ]
        matches = []
        for close in closed:
            pair = {row["nms_iou"]: row for row in found if row["close_mosaic"] == close}
            if pair:
                columns = [(limit, column) for limit in ("0.65", "0.6") for column in ("ap", "ap50", "ap75", "ap90")][
                    :7
                ]
                expected = [float(pair[limit][column]) for limit, column in columns]
                if [float(cell) for cell in cells] == pytest.approx(expected, abs=ROUNDED):
                    matches.append(close)
        assert len(matches) == 1, (flags, seed)
        closed[matches[0]] += 1
    assert closed == {"10": 5, "0": 10}


@pytest.mark.parametrize("path", sorted(RESULTS.iterdir()), ids=lambda path: path.name)
def test_what_is_kept_is_a_report_tables_and_a_picture(path):
    if path.name == "README.md":
        names = re.findall(r"\]\(([\w-]+)/(?:report\.md|[\w-]+\.json)\)", path.read_text("utf-8"))
        folders = {each.name for each in RESULTS.iterdir() if each.is_dir()}
        assert set(names) == folders
        return
    files = {each.name for each in path.iterdir() if each.is_file()}
    if path.name in ("runtimes", "time-to-accuracy"):  # what a benchmark has measured, a file a machine
        assert {name.rpartition(".")[2] for name in files} == {"json"}
    elif path.name.endswith("-search"):
        assert files == {"report.md", "trials.csv", "best.yaml", "comparison.yaml", "figures.png"}
    else:
        assert {"report.md", "runs.csv"} <= files
        assert files <= {"report.md", "runs.csv", "curves.csv", "figures.png", "recipe.yaml"}
    for name in files - {"figures.png"}:
        text = (path / name).read_text("utf-8")
        assert not re.search(r"(^|[\s,\"=])/(tmp|home|root|Users|work|mnt)/", text), f"{name}: a path of a machine"


@pytest.mark.parametrize(
    "name",
    [
        "bccd",
        "bccd-slender-assigners",
        "neu-det-papers",
        "neu-det-ggiou-found",
        "neu-det-assigners",
        "shapes-epochs7",
        "shapes-epochs21",
        "shapes-parts",
        "shapes-gain",
    ],
)
def test_the_reports_are_what_their_tables_say(name, tmp_path):
    folder = tmp_path / name
    folder.mkdir()
    for file in ("report.md", "runs.csv", "curves.csv"):
        shutil.copy(RESULTS / name / file, folder / file)
    assert compare(CompareConfig(into=str(folder), report_only=True), (), "").read_text() == (
        (RESULTS / name / "report.md").read_text()
    )
    for file in ("runs.csv", "curves.csv"):
        assert (folder / file).read_bytes() == (RESULTS / name / file).read_bytes()


def test_what_the_tutorial_says_of_small_p_values_is_what_the_report_has():
    """No difference of AP beyond chance, and which figures of the table are bold."""
    text = " ".join((ROOT / "docs" / "tutorials" / "compare-losses.md").read_text("utf-8").split())
    report = (RESULTS / "bccd" / "report.md").read_text("utf-8")
    of_ap = [float(found) for found in re.findall(r"Holm's p (?:below )?(\.?[\d.]+\d)\)", report)]
    assert min(of_ap) >= 0.1 and "no difference of AP has a p below .10" in text
    head, _, *rows = report.partition("## Paired differences")[2].split("\n\n")[1].splitlines()
    columns = [cell.strip() for cell in head.split("|")]
    bold = [columns[place] for row in rows for place, cell in enumerate(row.split("|")) if "**" in cell]
    assert bold == ["ap70", "ap70"] and "two figures are bold, both of AP70" in text


def test_what_the_results_recommend_is_what_their_tables_say():
    """Every difference with its interval and Holm's p, rounded as the page rounds them."""
    text = " ".join((ROOT / "docs" / "results.md").read_text("utf-8").split("\n## ")[1].split())

    def differences(name, scored, baseline, column):
        variants = {row["variant"] for row in read_rows(name)} - {baseline}
        base = of(name, scored, baseline, column)
        found = {each: paired_difference(of(name, scored, each, column), base) for each in variants}
        return found, holm({each: estimate.p for each, estimate in found.items()})

    slender, corrected = differences("shapes-epochs21", "val", "anchor_ratio", "ap_ratio_from_4")
    found = slender["ggiou-yolo"]
    assert f"it is {100 * found.mean:.1f} points of AP above" in text
    assert f"{100 * found.low:.1f} to {100 * found.high:.1f}, three seeds" in text
    assert f"(p {corrected['ggiou-yolo']:.2f})".replace("0.", ".") in text
    cells, corrected = differences("bccd", "test", "ciou", "ap")
    found = cells["assign-ggiou"]
    assert f"they are {100 * found.mean:.1f} points above the default" in text
    assert f"({100 * found.low:.1f} to {100 * found.high:.1f})" in text
    assert f"(p {corrected['assign-ggiou']:.2f})".replace("0.", ".") in text
    found = cells["sca"]
    interval = f"({100 * found.low:+.1f} to {100 * found.high:+.1f}; three seeds)"
    assert f"At 320 px it is {100 * found.mean:.1f} points above {interval}" in text
    found = differences("neu-det-papers", "test", "ciou", "ap")[0]["sca"]
    interval = f"({100 * found.mean:+.1f}, {100 * found.low:+.1f} to {100 * found.high:+.1f})"
    larger = differences("neu-det-larger-gain", "test", "ciou", "ap")[0]["ciou-larger"]
    too = f"({100 * larger.mean:+.1f}, {100 * larger.low:+.1f} to {100 * larger.high:+.1f})"
    said = f"On steel `--hyp sca` shows no difference {interval}, [nor does the larger gain]"
    assert f"{said}(#steel-surfaces-a-larger-gain) {too}" in text
    assert found.low < 0 < found.high and larger.low < 0 < larger.high
    shapes, corrected = differences("shapes-epochs21", "val", "anchor_ratio", "ap")
    found = shapes["ggiou"]
    assert f"they are {-100 * found.mean:.1f} points below ({-100 * found.high:.1f} to {-100 * found.low:.1f};" in text
    assert f"p {corrected['ggiou']:.3f})".replace("0.", ".") in text
