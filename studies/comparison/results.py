"""The measures of a comparison's runs by column, variant and seed, and what is computed from them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib import colormaps

from studies.comparison.paired import Estimate, estimate, holm, paired_difference
from studies.comparison.recipe import Recipe
from studies.comparison.tables import ERROR_PREFIX, Row, is_measure

MAIN = "ap"
SHOWN = ("ap", "ap50", "ap60", "ap65", "ap70", "ap75", "ap80", "ap90", "ap_small", "ap_medium", "ap_large")
# Columns that other parts of the project may add to metrics.json, shown as they are named there.
GROUP_PREFIXES = ("ap_ratio", "ap_small", "ap_medium", "ap_large")


@dataclass(frozen=True)
class Results:
    """Measures by column, variant and seed; variants in the order of the recipe, the baseline's name."""

    values: dict[str, dict[str, dict[int, float]]]
    variants: tuple[str, ...]
    baseline: str

    @property
    def others(self) -> list[str]:
        """Return the variants without the baseline."""
        return [name for name in self.variants if name != self.baseline]

    def color(self, variant: str) -> Any:
        """Return the variant's colour, the same in every picture."""
        return colormaps["tab10" if len(self.variants) <= 10 else "tab20"](self.variants.index(variant) % 20)

    @property
    def groups(self) -> list[str]:
        """Return the columns of groups of objects: by size first, then what else there is."""
        found = [column for column in self.values if column.startswith(GROUP_PREFIXES)]
        sizes = [column for column in SHOWN if column in found]
        return sizes + [column for column in found if column not in sizes]

    @property
    def shown(self) -> list[str]:
        """Return the papers' columns, the groups and the costs of errors that are there."""
        found = [column for column in SHOWN if column in self.values]
        return [*found, *(column for column in self.groups if column not in SHOWN), *self.errors]

    @property
    def errors(self) -> list[str]:
        """The columns of what each kind of error costs."""
        return [column for column in self.values if column.startswith(ERROR_PREFIX)]

    def of(self, column: str, variant: str) -> dict[int, float]:
        """Return a column of a variant by seed; without the seeds where it is undefined."""
        return self.values.get(column, {}).get(variant, {})

    def estimate(self, column: str, variant: str) -> Estimate:
        """Return mean, standard deviation and interval of a column of a variant over its seeds."""
        return estimate(list(self.of(column, variant).values()))

    def difference(self, column: str, variant: str) -> Estimate:
        """Return variant minus baseline, seed by seed."""
        return paired_difference(self.of(column, variant), self.of(column, self.baseline))

    def corrected(self, column: str) -> dict[str, float]:
        """Return the p value of every variant's difference to the baseline, corrected for their number."""
        return holm({variant: self.difference(column, variant).p for variant in self.others})


def collect(rows: Sequence[Row], recipe: Recipe) -> Results:
    """Return the numbers in rows of runs.csv."""
    values: dict[str, dict[str, dict[int, float]]] = {}
    for row in rows:
        for column, cell in row.items():
            if is_measure(column) and cell:
                values.setdefault(column, {}).setdefault(row["variant"], {})[int(row["seed"])] = float(cell)
    finished = {row["variant"] for row in rows}
    variants = tuple(variant.name for variant in recipe.variants if variant.name in finished)
    return Results(values, variants, recipe.baseline)


def by_class(rows: Sequence[Row], column: str) -> dict[str, dict[str, Estimate]]:
    """Return a column of metrics.json's `per_class` by variant and class."""
    values: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        for name, cell in row.items():
            if name.startswith("per_class.") and name.endswith(f".{column}") and cell:
                label = name.removeprefix("per_class.").removesuffix(f".{column}")
                values.setdefault(row["variant"], {}).setdefault(label, []).append(float(cell))
    return {variant: {label: estimate(seen) for label, seen in labels.items()} for variant, labels in values.items()}


def curve(rows: Sequence[Mapping[str, str]], variant: str, column: str = MAIN) -> dict[int, Estimate]:
    """Return a variant's column of curves.csv over its seeds, by epoch."""
    values: dict[int, list[float]] = {}
    for row in rows:
        if row["variant"] == variant and row.get(column):
            values.setdefault(int(row["epoch"]), []).append(float(row[column]))
    return {epoch: estimate(seen) for epoch, seen in sorted(values.items())}
