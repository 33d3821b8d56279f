"""Reports a comparison again from its own files: what it compared stands in report.md and runs.csv."""

import re
import shlex
from pathlib import Path

from studies.comparison.recipe import Recipe, Variant, checked_baseline
from studies.comparison.report import DIFFERENCES, write_report
from studies.comparison.runs import Run, read_object
from studies.comparison.tables import Row, read_tables, split_of_report
from utils.config.knobs import CompareConfig
from utils.errors import UserError, printable


def report_again(config: CompareConfig) -> Path:
    """Write the report of all runs that the tables in `into` name, with another baseline where one is given.

    UserError where there is no report, or a page that does not say what it reported.
    """
    into = Path(config.into)
    page, table = into / "report.md", into / "runs.csv"
    if not page.is_file() or not table.is_file():
        raise UserError(
            f"{printable(into)}: expected report.md and runs.csv of an earlier comparison (or say what it compared: "
            "--recipe, or --losses and --assigners)"
        )
    text, split = page.read_text("utf-8"), split_of_report(into)
    before = re.search(rf"^{DIFFERENCES}(.+), points", text, re.MULTILINE)
    if not split or not before:
        # Another split, or another baseline, would be other numbers in the place of those that were there.
        lacks = f"heading `{DIFFERENCES}...`" if split else "line `split ... (`"
        raise UserError(
            f"{printable(page)} lacks the {lacks} of a comparison's report: say what it compared (--recipe, or "
            "--losses and --assigners, with the other flags)"
        )
    named = {(row["variant"], int(row["seed"])): row for row in read_tables(into).runs}
    runs = [run_of(row, into, split) for row in named.values()]
    variants = tuple({run.variant.name: run.variant for run in runs}.values())
    command = re.search(r"^```\n(.*?)\n```$", text, re.MULTILINE | re.DOTALL)
    baseline = config.baseline or before.group(1)
    description = text[: command.start() if command else 0].partition("\n")[2].strip()
    recipe = Recipe(description, checked_baseline(baseline, variants), variants)
    return write_report(runs, recipe, into, command.group(1) if command else "")


def run_of(row: Row, into: Path, split: str) -> Run:
    """Return the run that a row of runs.csv is about."""
    name, seed = row["variant"], int(row["seed"])
    run = Run(Variant(name, {}), seed, into / name / f"seed{seed}", tuple(shlex.split(row["flags"])), split)
    if not row["flags"] and run.request.is_file():
        return Run(run.variant, seed, run.folder, tuple(read_object(run.request).get("arguments", ())), split)
    return run
