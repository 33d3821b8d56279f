"""The report of a comparison: tables as CSV and Markdown, paired differences with their intervals, and plots."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from studies.charts import finish, new_figure, save_figure, save_rows
from studies.comparison.paired import CONFIDENCE, Estimate, estimate, paired_difference, winner
from studies.comparison.recipe import Recipe
from studies.comparison.runs import Run
from utils.metrics.coco_metrics import IOU_COLUMNS
from utils.run_folder import write_atomically

MAIN = "ap"
NOT_MEASURES = ("confidence", "counts", "per_class", "protocol")
SHOWN = ("ap", "ap50", "ap60", "ap65", "ap70", "ap75", "ap80", "ap90", "ap_small", "ap_medium", "ap_large")
# Columns that other parts of the project may add to metrics.json, shown as they are named there.
GROUP_PREFIXES = ("ap_ratio", "ap_small", "ap_medium", "ap_large")
ENVIRONMENT = ("git", "torch", "cpu", "gpus", "platform")
WEIGHTS = (
    "weights: best.pt, the epoch with the best AP on the validation split; scored on that same split (the default) the "
    "numbers are a little too good, alike for all; `--split test` scores another one"
)


@dataclass(frozen=True)
class Results:
    """Measures by column, variant and seed; variants in the order of the recipe, the baseline's name."""

    values: dict[str, dict[str, dict[int, float]]]
    variants: tuple[str, ...]
    baseline: str

    @property
    def others(self) -> list[str]:
        """The variants without the baseline."""
        return [name for name in self.variants if name != self.baseline]

    def color(self, variant: str) -> tuple:
        """The variant's colour, the same in every picture."""
        return colormaps["tab10" if len(self.variants) <= 10 else "tab20"](self.variants.index(variant) % 20)

    @property
    def groups(self) -> list[str]:
        """The columns of groups of objects: by size first, then what else there is."""
        found = [column for column in self.values if column.startswith(GROUP_PREFIXES)]
        sizes = [column for column in SHOWN if column in found]
        return sizes + [column for column in found if column not in sizes]

    def of(self, column: str, variant: str) -> dict[int, float]:
        """A column of a variant by seed; without the seeds where it is undefined."""
        return self.values.get(column, {}).get(variant, {})

    def difference(self, column: str, variant: str) -> Estimate:
        """Variant minus baseline, seed by seed."""
        return paired_difference(self.of(column, variant), self.of(column, self.baseline))


def collect(runs: Sequence[Run], recipe: Recipe) -> Results:
    """The numbers of all finished runs."""
    values: dict[str, dict[str, dict[int, float]]] = {}
    for run in runs:
        if run.done:
            for column, value in measures(run.metrics()).items():
                values.setdefault(column, {}).setdefault(run.variant.name, {})[run.seed] = value
    finished = {name for by_variant in values.values() for name in by_variant}
    variants = tuple(variant.name for variant in recipe.variants if variant.name in finished)
    return Results(values, variants, recipe.baseline)


def measures(metrics: Mapping) -> dict[str, float]:
    """The numbers at the top of metrics.json, whatever their names."""
    return {
        key: float(value)
        for key, value in metrics.items()
        if key not in NOT_MEASURES and isinstance(value, (int, float)) and not isinstance(value, bool)
    }


def run_rows(runs: Iterable[Run], columns: Sequence[str]) -> list[dict]:
    """One row per run: its state, its time and its measures."""
    rows = []
    for run in runs:
        state = "done" if run.done else "diverged" if run.diverged else "missing"
        row: dict = {"variant": run.variant.name, "seed": run.seed, "state": state, "epochs": None, "seconds": None}
        if run.done:
            epochs = run.epochs()
            row |= {"epochs": len(epochs), "seconds": float(epochs[-1]["seconds"])}
        found = measures(run.metrics()) if run.done else {}
        rows.append(row | {column: found.get(column) for column in columns})
    return rows


def summary_rows(results: Results) -> list[dict]:
    """One row per column and variant: mean, standard deviation, and the paired difference to the baseline."""
    rows = []
    for column in results.values:
        for variant in results.variants:
            own = estimate(list(results.of(column, variant).values()))
            row = {"column": column, "variant": variant, "seeds": own.n, "mean": own.mean, "sd": own.sd}
            if variant != results.baseline:
                difference = results.difference(column, variant)
                row |= {f"difference_{name}": value for name, value in difference._asdict().items()}
            else:
                row |= {f"difference_{name}": None for name in Estimate._fields}
            rows.append(row)
    return rows


def per_class_rows(runs: Iterable[Run]) -> list[dict]:
    """Mean and standard deviation of every class's AP and AP50 per variant."""
    values: dict[tuple[str, str, str], list[float]] = {}
    for run in runs:
        if run.done:
            for name, found in run.metrics().get("per_class", {}).items():
                for column in ("ap", "ap50"):
                    if found.get(column) is not None:
                        values.setdefault((run.variant.name, name, column), []).append(found[column])
    return [
        {"variant": variant, "class": name, "column": column, "seeds": own.n, "mean": own.mean, "sd": own.sd}
        for (variant, name, column), seen in values.items()
        for own in [estimate(seen)]
    ]


def curve_rows(runs: Iterable[Run]) -> list[dict]:
    """AP on the validation split by epoch: mean and standard deviation over the finished runs of a variant."""
    values: dict[tuple[str, int], list[float]] = {}
    for run in runs:
        if run.done:
            for row in run.epochs():
                if row.get(MAIN):
                    values.setdefault((run.variant.name, int(row["epoch"])), []).append(float(row[MAIN]))
    return [
        {"variant": variant, "epoch": epoch, "seeds": own.n, "mean": own.mean, "sd": own.sd}
        for (variant, epoch), seen in sorted(values.items())
        for own in [estimate(seen)]
    ]


def points(value: float, sign: bool = False) -> str:
    """A fraction in percent, `-` where undefined."""
    return "-" if value != value else f"{100 * value:{'+' if sign else ''}.2f}"


def mean_and_sd(own: Estimate) -> str:
    """Mean and standard deviation in percent."""
    return points(own.mean) if own.n < 2 else f"{points(own.mean)} ± {points(own.sd)}"


def interval(difference: Estimate) -> str:
    """A difference with its interval in points; bold where the interval excludes zero."""
    if difference.n < 2:
        return f"{points(difference.mean, sign=True)} (no interval)"
    low, high = points(difference.low, sign=True), points(difference.high, sign=True)
    text = f"{points(difference.mean, sign=True)} ({low} to {high})"
    return f"**{text}**" if difference.excludes_zero else text


def verdict(results: Results) -> list[str]:
    """What the intervals carry, and nothing else, about AP."""
    lines = []
    for variant in results.others:
        difference = results.difference(MAIN, variant)
        versus = f"{variant} against {results.baseline}"
        if difference.n < 2:
            pairs = "one pair" if difference.n else "no pair"
            lines.append(
                f"{versus}: {pairs} of runs with the same seed, which carries no interval, hence no statement."
            )
        elif difference.excludes_zero:
            side = "above" if difference.mean > 0 else "below"
            lines.append(f"{versus}: {side}, by {interval(difference).strip('*')} points of AP.")
        else:
            lines.append(
                f"{versus}: no difference shown, {interval(difference)} points of AP; the interval includes zero."
            )
    best = winner({variant: results.of(MAIN, variant) for variant in results.variants})
    if best:
        lines.append(
            f"{best} has the highest AP of all: its intervals against every other one are above zero together."
        )
    else:
        lines.append("No variant is above all others by intervals that hold together (Bonferroni): no winner.")
    return lines


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def shown_columns(results: Results) -> list[str]:
    """The papers' columns and the groups that are there."""
    found = [column for column in SHOWN if column in results.values]
    return found + [column for column in results.groups if column not in SHOWN]


def environments(runs: Sequence[Run]) -> list[str]:
    """On what the runs were made, a line for each different machine or version, with dates."""
    seen: dict[tuple, list[str]] = {}
    for run in runs:
        if run.done:
            found = run.environment()
            seen.setdefault(tuple(str(found.get(key)) for key in ENVIRONMENT), []).append(
                str(found.get("date", ""))[:10]
            )
    return [
        f"{len(dates)} {'run' if len(dates) == 1 else 'runs'}, {min(dates)} to {max(dates)}: "
        + ", ".join(f"{key} {value}" for key, value in zip(ENVIRONMENT, values, strict=True))
        for values, dates in seen.items()
    ]


def markdown_report(results: Results, runs: Sequence[Run], recipe: Recipe, command: str) -> str:
    """The whole report."""
    columns = shown_columns(results)
    means = [
        [variant, str(estimate(list(results.of(MAIN, variant).values())).n)]
        + [mean_and_sd(estimate(list(results.of(column, variant).values()))) for column in columns]
        for variant in results.variants
    ]
    differences = [
        [variant, *(interval(results.difference(column, variant)) for column in columns)] for variant in results.others
    ]
    unfinished = [f"{run.variant.name} seed {run.seed}" for run in runs if not run.done and not run.diverged]
    diverged = [f"{run.variant.name} seed {run.seed}" for run in runs if run.diverged]
    protocol = next((str(run.metrics().get("protocol", "")) for run in runs if run.done), "")
    parts = [
        "# Comparison",
        recipe.description,
        f"```\n{command}\n```",
        f"{protocol}\n\n{WEIGHTS}",
        "\n".join(f"- {line}" for line in verdict(results)),
        f"Missing: {', '.join(unfinished)}" if unfinished else "",
        f"Diverged (loss not finite): {', '.join(diverged)}" if diverged else "",
        f"## Mean ± standard deviation over seeds, percent\n\n{table(['variant', 'seeds', *columns], means)}",
        f"## Paired differences to {results.baseline}, points, {CONFIDENCE:.0%} interval\n\n"
        + table(["variant", *columns], differences)
        + "\n\nBold: the interval excludes zero. A pair is two runs with the same seed: the same initial weights, the "
        "same order of images and the same augmentation. Each interval stands alone: of 20 that hold no difference one "
        "excludes zero by chance. The intervals cover the seeds, not another choice of images or another data set.",
        "![AP by epoch](curves.png)\n\n![Differences of AP](differences.png)\n\n"
        "![Differences by IoU threshold](thresholds.png)\n\n![AP by group](groups.png)",
        "## Made with\n\n" + "\n".join(f"- {line}" for line in environments(runs)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def draw_curves(rows: Sequence[Mapping], results: Results, path: Path) -> None:
    """AP over the epochs: mean line, standard deviation as a band."""
    figure = new_figure(9, 4.4)
    axes = figure.add_subplot()
    for variant in results.variants:
        own = [row for row in rows if row["variant"] == variant]
        epochs = [row["epoch"] for row in own]
        means = [100 * row["mean"] for row in own]
        spread = [100 * row["sd"] if row["sd"] == row["sd"] else 0.0 for row in own]
        axes.plot(epochs, means, color=results.color(variant), linewidth=1.8, label=variant)
        low, high = ([mean + side * each for mean, each in zip(means, spread, strict=True)] for side in (-1, 1))
        axes.fill_between(epochs, low, high, color=results.color(variant), alpha=0.15, linewidth=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    finish(axes, "AP on the validation split, mean and standard deviation over seeds", "epoch", "AP, percent")
    _legend(axes)
    save_figure(figure, path)


def draw_differences(results: Results, path: Path) -> None:
    """AP, AP50, AP75 and AP90 of every variant minus the baseline, with intervals."""
    columns = [column for column in ("ap", "ap50", "ap75", "ap90") if column in results.values]
    names = results.others
    figure = new_figure(11, 1.6 + 0.34 * max(len(names), 2))
    for axes, column in zip(figure.subplots(1, len(columns), sharey=True, squeeze=False)[0], columns, strict=True):
        for place, variant in enumerate(names):
            difference = results.difference(column, variant)
            if difference.n >= 2:
                color = "#d62728" if difference.excludes_zero else "#7f7f7f"
                axes.plot([100 * difference.low, 100 * difference.high], [place, place], color=color, linewidth=2)
            axes.plot(100 * difference.mean, place, "o", color="black", markersize=5)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        finish(axes, column.upper(), "points", "")
    figure.suptitle(
        f"minus {results.baseline}; line: {CONFIDENCE:.0%} interval, red where it excludes zero", fontsize=11
    )
    save_figure(figure, path)


def draw_thresholds(results: Results, path: Path) -> None:
    """Difference to the baseline at every IoU threshold, with intervals."""
    figure = new_figure(9, 4.4)
    axes = figure.add_subplot()
    names = results.others
    for number, variant in enumerate(names):
        found = [results.difference(column, variant) for column in IOU_COLUMNS]
        places = [float(column[2:]) / 100 + 0.004 * (number - (len(names) - 1) / 2) for column in IOU_COLUMNS]
        reach = [100 * (each.high - each.mean) if each.n >= 2 else 0.0 for each in found]
        means = [100 * each.mean for each in found]
        axes.errorbar(
            places, means, reach, fmt="o-", color=results.color(variant), capsize=2, markersize=4, label=variant
        )
    axes.axhline(0, color="black", linewidth=0.8)
    finish(axes, f"AP minus that of {results.baseline} by IoU threshold", "IoU threshold", "points, 95 % interval")
    _legend(axes)
    save_figure(figure, path)


def draw_groups(results: Results, path: Path) -> None:
    """AP by size, and by side ratio where it was measured: means with standard deviations."""
    columns = results.groups
    figure = new_figure(10, 4.4)
    axes = figure.add_subplot()
    width = 0.8 / max(len(results.variants), 1)
    for number, variant in enumerate(results.variants):
        found = [estimate(list(results.of(column, variant).values())) for column in columns]
        places = [group + width * (number - (len(results.variants) - 1) / 2) for group in range(len(columns))]
        # NaN, which draws nothing, where one seed has no deviation.
        spread = [100 * each.sd for each in found]
        heights = [100 * each.mean for each in found]
        axes.bar(places, heights, width * 0.92, yerr=spread, capsize=2, color=results.color(variant), label=variant)
    axes.set_xticks(range(len(columns)), [column.removeprefix("ap_").replace("_", " ") for column in columns])
    finish(axes, "AP by object size and side ratio, mean and standard deviation", "", "AP, percent")
    _legend(axes)
    save_figure(figure, path)


def _legend(axes: Axes) -> None:
    axes.legend(fontsize=9, loc="center left", bbox_to_anchor=(1.01, 0.5))


def write_report(runs: Sequence[Run], recipe: Recipe, into: Path, command: str) -> Path:
    """Writes report.md, runs.csv, summary.csv, per_class.csv, curves.csv and the plots; returns the Markdown file."""
    results = collect(runs, recipe)
    into.mkdir(parents=True, exist_ok=True)
    save_rows(run_rows(runs, list(results.values)), into / "runs.csv")
    path = into / "report.md"
    if not results.variants:
        write_atomically(path, "# Comparison\n\nNo run is finished.\n")
        return path
    curves = curve_rows(runs)
    save_rows(summary_rows(results), into / "summary.csv")
    save_rows(per_class_rows(runs), into / "per_class.csv")
    save_rows(curves, into / "curves.csv")
    draw_curves(curves, results, into / "curves.png")
    if results.others:
        draw_differences(results, into / "differences.png")
        draw_thresholds(results, into / "thresholds.png")
    draw_groups(results, into / "groups.png")
    report = markdown_report(results, runs, recipe, command)
    write_atomically(path, report)
    print(f"{report}\nwrote {path}")
    return path
