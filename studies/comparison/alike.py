"""Says whether the runs of a comparison had the same data and were measured alike, and on what they were made."""

from collections.abc import Sequence

from studies.comparison.tables import REUSED_FOLDER, REUSED_VARIANT, Row
from utils.errors import printable

# What has to be the same in all runs for a difference to be one of their variants.
ALIKE = {
    "protocol": "protocol",
    "env.training_data.sha256": "training data (sha256)",
    "counts.images": "scored images",
    "counts.labels": "scored labels",
}
ENVIRONMENT = ("commit", "env.torch", "env.cpu", "env.gpus", "env.platform")
KERNELS = "env.cpu_kernels"


def forms(rows: Sequence[Row], column: str) -> dict[str, list[Row]]:
    """Return the values that a column of runs.csv has, each with its rows; without those that do not say."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row.get(column):
            found.setdefault(row[column], []).append(row)
    return found


def named(rows: Sequence[Row]) -> str:
    """Return how many runs these are and which: `3 runs: ciou seeds 0 and 1, sca seed 0`."""
    seeds: dict[str, list[str]] = {}
    for row in rows:
        seeds.setdefault(row["variant"], []).append(row["seed"])
    listed = [f"{name} {'seeds' if len(of) > 1 else 'seed'} {' '.join(of)}" for name, of in seeds.items()]
    return f"{len(rows)} {'run' if len(rows) == 1 else 'runs'}: {', '.join(listed)}"


def protocols(rows: Sequence[Row]) -> str:
    """Return how the runs were measured: one line, or one for each protocol with its runs."""
    found = forms(rows, "protocol")
    if len(found) < 2:
        return rows[0]["protocol"]
    return "\n\n".join(f"{protocol} ({named(own)})" for protocol, own in found.items())


def warning(rows: Sequence[Row]) -> str:
    """Say in a warning how runs differ in more than their variant and seed; empty where all are alike."""
    differing = {column: found for column in ALIKE if len(found := forms(rows, column)) > 1}
    if not differing:
        return ""
    what = ", ".join(ALIKE[column] for column in differing)
    lines = [
        f"- {ALIKE[column]} {value}: {named(own)}"
        for column, found in differing.items()
        if column != "protocol"  # which stands above
        for value, own in found.items()
    ]
    paired = any(len(forms(own, column)) > 1 for column in differing for own in forms(rows, "seed").values())
    text = f"**Warning: not all runs have the same {what}.**"
    if paired:
        text += " Runs with the same seed differ too: what looks like a difference of variants may come from that."
    return "\n\n".join([text, *(["\n".join(lines)] if lines else [])])


def environments(rows: Sequence[Row]) -> list[str]:
    """Say on what the runs were made, a line for each different machine or version, with dates.

    The kernels, a long list, are named where not all runs had the same.
    """
    columns = (*ENVIRONMENT, KERNELS) if len(forms(rows, KERNELS)) > 1 else ENVIRONMENT
    seen: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        seen.setdefault(tuple(row.get(key) or "-" for key in columns), []).append(row["date"][:10])
    return [
        f"{len(dates)} {'run' if len(dates) == 1 else 'runs'}, {min(dates)} to {max(dates)}: "
        + ", ".join(f"{key.removeprefix('env.')} {value}" for key, value in zip(columns, values, strict=True))
        for values, dates in seen.items()
    ]


def reused(rows: Sequence[Row]) -> str:
    """Say which runs were made by other comparisons, and what these call them; empty where none was."""
    lines = []
    for folder, theirs in forms(rows, REUSED_FOLDER).items():
        for variant, own in forms(theirs, REUSED_VARIANT).items():
            lines.append(f"- {printable(folder)}, {printable(variant)}: {named(own)}")
    return "\n".join(["Taken over from other comparisons, which had made the same runs:\n", *lines]) if lines else ""
