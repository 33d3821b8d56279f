"""The report of a comparison: its tables as CSV, a page with paired differences and their intervals, and pictures."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from studies.charts import cell_text
from studies.comparison.alike import environments, protocols, reused, warning
from studies.comparison.paired import CONFIDENCE, Estimate, winner
from studies.comparison.pictures import draw_figures
from studies.comparison.recipe import Recipe
from studies.comparison.results import MAIN, Results, by_class, collect
from studies.comparison.runs import Run
from studies.comparison.tables import Row, Tables, read_tables, update_tables
from utils.errors import CommandError, printable
from utils.metrics.coco_metrics import FEW_LABELS, GROUP_LABELS, WEIGHTED
from utils.run_folder import write_atomically

MAX_CLASSES = 20
DIFFERENCES = "## Paired differences to "
ERRORS = (
    "tide_...: what this kind of error costs in points of AP50 (TIDE, Bolya et al. 2020): less is better, and a box "
    "loss is there to lessen tide_localisation."
)
WEIGHTS = (
    "weights: best.pt, the epoch with the best AP on the validation split; scored on that same split (the default) the "
    "numbers are a little too good, alike for all; `--split test` scores another one"
)


def points(value: float, sign: bool = False) -> str:
    """Return a fraction in percent, `-` where undefined."""
    return "-" if value != value else f"{100 * value:{'+' if sign else ''}.2f}"


def mean_and_sd(own: Estimate) -> str:
    """Return mean and standard deviation in percent."""
    return points(own.mean) if own.n < 2 else f"{points(own.mean)} ± {points(own.sd)}"


def interval(difference: Estimate, seeds: int, p: float = math.nan) -> str:
    """Return a difference with its interval in points; bold where its corrected p value is below .05.

    With the number of its pairs where it has fewer than the variant has seeds.
    """
    few = f"; {difference.n} {'pair' if difference.n == 1 else 'pairs'}" if 0 < difference.n < seeds else ""
    if difference.n < 2:
        return f"{points(difference.mean, sign=True)} (no interval{few})"
    low, high = points(difference.low, sign=True), points(difference.high, sign=True)
    text = f"{points(difference.mean, sign=True)} ({low} to {high}{few})"
    return f"**{text}**" if p < 1 - CONFIDENCE else text


def p_value(p: float) -> str:
    """Return a corrected p value in words."""
    return f"Holm's p {p:.3f}" if p >= 0.001 else "Holm's p below .001"


def known(corrected: Mapping[str, float]) -> int:
    """Return how many comparisons were corrected for each other: those with a p value."""
    return sum(p == p for p in corrected.values())


def family(corrected: Mapping[str, Mapping[str, float]], others: int) -> str:
    """Say among how many comparisons a figure is bold, and in which columns they are fewer."""
    usual = known(corrected.get(MAIN, {})) or others
    fewer: dict[int, list[str]] = {}
    for column, of in corrected.items():
        if 0 < known(of) != usual:
            fewer.setdefault(known(of), []).append(column)
    text = f"among the {usual} of its column together"
    return text + "".join(f", the {number} of {', '.join(columns)}" for number, columns in fewer.items())


def verdict(results: Results, states: Mapping[str, set[str]]) -> list[str]:
    """Say about AP what the intervals carry, and nothing else."""
    lines = []
    corrected = results.corrected(MAIN)
    for variant in results.others:
        difference, seeds = results.difference(MAIN, variant), results.estimate(MAIN, variant).n
        versus = f"{variant} against {results.baseline}"
        if difference.n < 2:
            pairs = "one pair" if difference.n else "no pair"
            lines.append(
                f"{versus}: {pairs} of runs with the same seed, which carries no interval, hence no statement."
            )
        elif difference.excludes_zero:
            side = "above" if difference.mean > 0 else "below"
            line = f"{versus}: {side}, by {interval(difference, seeds)} points of AP"
            if corrected[variant] >= 1 - CONFIDENCE:
                line += f" by its own interval; not beyond chance among {known(corrected)} comparisons"
            lines.append(f"{line} ({p_value(corrected[variant])}).")
        else:
            lines.append(
                f"{versus}: no difference shown, {interval(difference, seeds)} points of AP; the interval includes "
                "zero."
            )
    return [*lines, highest(results, states)]


def highest(results: Results, states: Mapping[str, set[str]]) -> str:
    """Name the variant with the highest AP where it is above every variant of the recipe, and never diverged."""
    best = winner({variant: results.of(MAIN, variant) for variant in results.variants})
    if not best:
        return "No variant is above all others by intervals that hold together (Bonferroni): no winner."
    unseen = [variant for variant, found in states.items() if found == {"missing"}]
    if unseen:
        return f"No winner is named while no run is finished of {', '.join(unseen)}."
    if "diverged" in states[best]:
        return f"{best} has the highest AP of the runs that are finished, but others of its own diverged: no winner."
    return f"{best} has the highest AP of all: its intervals against every other one are above zero together."


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    head, *body = ("| " + " | ".join(map(cell_text, row)) + " |" for row in (heads, *rows))
    return "\n".join([head, "|" + "---|" * len(heads), *body])


def class_table(results: Results, rows: Sequence[Row]) -> str:
    """Return AP and AP50 of every class as a section; empty where there are none, or too many for a page."""
    found = {column: by_class(rows, column) for column in ("ap", "ap50")}
    classes = list(dict.fromkeys(name for variants in found.values() for each in variants.values() for name in each))
    if not 1 <= len(classes) <= MAX_CLASSES:
        return ""
    heads = [f"{name} {column}" for column in found for name in classes]
    nothing = Estimate(0, float("nan"), float("nan"), float("nan"), float("nan"))
    lines = [
        [
            variant,
            *(mean_and_sd(each.get(variant, {}).get(name, nothing)) for each in found.values() for name in classes),
        ]
        for variant in results.variants
    ]
    return f"## By class, mean ± standard deviation, percent\n\n{table(['variant', *heads], lines)}"


def thin_groups(results: Results, rows: Sequence[Row]) -> str:
    """Say which means by size or side ratio rest on classes with few such objects; empty where none does."""
    lines = []
    for column in results.groups:
        found = by_class(rows, GROUP_LABELS + column.removeprefix("ap_"))
        # The same in each run, as all are scored on the same split.
        counts = [each.mean for each in next(iter(found.values()), {}).values() if each.mean]
        few = [count for count in counts if count < FEW_LABELS]
        if few:
            lines.append(
                f"- {column}: {len(few)} of {len(counts)} classes have fewer than {FEW_LABELS} such objects, together "
                f"{sum(few):.0f} of {sum(counts):.0f}, and are {len(few) / len(counts):.0%} of this mean; "
                f"{column}{WEIGHTED} counts a class by its objects."
            )
    return "\n".join(lines)


def unfinished(tables: Tables, runs: Sequence[Run]) -> list[str]:
    """Return lines on the runs that are missing and on those that diverged."""
    lines = []
    for state, what in (("missing", "Missing"), ("diverged", "Diverged (loss not finite)")):
        names = [f"{run.variant.name} seed {run.seed}" for run in runs if tables.state(run) == state]
        lines += [f"{what}: {', '.join(names)}"] if names else []
    return lines


def markdown_report(results: Results, tables: Tables, runs: Sequence[Run], recipe: Recipe, command: str) -> str:
    """Return the whole report."""
    columns, rows = results.shown, tables.scored(runs)
    means = [
        [variant, str(results.estimate(MAIN, variant).n)]
        + [mean_and_sd(results.estimate(column, variant)) for column in columns]
        for variant in results.variants
    ]
    corrected = {column: results.corrected(column) for column in columns}
    differences = [
        [
            variant,
            *(
                interval(
                    results.difference(column, variant),
                    results.estimate(MAIN, variant).n,
                    corrected[column][variant],
                )
                for column in columns
            ),
        ]
        for variant in results.others
    ]
    states: dict[str, set[str]] = {}
    for run in runs:
        states.setdefault(run.variant.name, set()).add(tables.state(run))
    parts = [
        "# Comparison",
        recipe.description,
        f"```\n{command}\n```",
        f"{protocols(rows)}\n\n{WEIGHTS}",
        warning(rows),
        "\n".join(f"- {line}" for line in verdict(results, states)),
        *unfinished(tables, runs),
        f"## Mean ± standard deviation over seeds, percent\n\n{table(['variant', 'seeds', *columns], means)}",
        thin_groups(results, rows),
        f"{DIFFERENCES}{results.baseline}, points, {CONFIDENCE:.0%} interval\n\n"
        + table(["variant", *columns], differences)
        + "\n\nA pair is two runs with the same seed: the same initial weights, the same order of images and the same "
        "augmentation. Each interval stands alone: of 20 that hold no difference one excludes zero by chance. Bold: "
        f"beyond chance {family(corrected, len(results.others))} (p below .05 after Holm's correction). "
        "The intervals cover the seeds, not another choice of images or another data set."
        + (f" {ERRORS}" if results.errors else ""),
        class_table(results, rows),
        "![AP by epoch, differences of AP, differences by IoU threshold, AP by group](figures.png)",
        "## Made with\n\n" + "\n".join(f"- {line}" for line in environments(rows)),
        reused(rows),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def write_report(runs: Sequence[Run], recipe: Recipe, into: Path, command: str) -> Path:
    """Write runs.csv, curves.csv, report.md and figures.png; return the Markdown file.

    CommandError where no run is finished: the files stay as they are.
    """
    before = read_tables(into)
    if not any(run.done or before.state(run) == "done" for run in runs):
        diverged = sum(run.diverged for run in runs)
        lost = f" ({diverged} of {len(runs)} diverged)" if diverged else ""
        raise CommandError(f"{printable(into)}: no run is finished{lost}: no report is written, an earlier one stays")
    into.mkdir(parents=True, exist_ok=True)
    tables = update_tables(runs, into)
    scored = tables.scored(runs)
    results = collect(scored, recipe)
    path = into / "report.md"
    draw_figures(results, tables.curves_of(scored), into / "figures.png")
    report = markdown_report(results, tables, runs, recipe, command)
    write_atomically(path, report)
    print(f"{report}\nwrote {path}")
    return path
