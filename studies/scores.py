"""Gathers the numbers of many metrics.json in one CSV.

python -m studies.scores --runs runs/train --into scores.csv      a row each: its folder, its protocol, its measures

train.py and val.py write metrics.json; studies.compare has the reports of planned comparisons.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from studies.charts import save_rows
from studies.comparison.tables import is_measure
from utils.config.flags import Parser, add_knobs, parsed
from utils.config.knobs import ScoresConfig
from utils.errors import UserError, run_command


def parse_flags(arguments: Sequence[str] | None = None) -> ScoresConfig:
    """Read the command's flags; UserError for a wrong one."""
    parser = Parser(prog="python -m studies.scores", description=(__doc__ or "").splitlines()[0])
    add_knobs(parser, ScoresConfig, {})
    return parsed(ScoresConfig, vars(parser.parse_args(arguments)))


def score_rows(folder: Path, front: Path) -> Iterator[dict]:
    """Yield a row for every metrics.json in a folder and below; UserError where there is none, or another file.

    Each names its path in this folder, behind `front`.
    """
    paths = sorted(folder.rglob("metrics.json"))
    if not paths:
        raise UserError(f"{folder}: expected a folder with metrics.json of train.py or val.py in it or below")
    for path in paths:
        try:
            metrics = json.loads(path.read_text("utf-8"))
            found = {key: float(value) for key, value in metrics.items() if is_measure(key) and is_number(value)}
        except (ValueError, AttributeError) as error:
            raise UserError(f"{path}: expected the metrics of train.py or val.py ({error})") from error
        yield {
            "folder": (front / path.parent.relative_to(folder)).as_posix(),
            "protocol": metrics.get("protocol"),
            **found,
        }


def is_number(value: object) -> bool:
    """Say whether a JSON value is a number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def write_scores(config: ScoresConfig) -> Path:
    """Write the rows of all folders; a measure that one lacks is empty there."""
    folders = [Path(folder) for folder in config.runs]
    rows = [row for folder in folders for row in score_rows(folder, folder if len(folders) > 1 else Path())]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    save_rows([{name: row.get(name) for name in columns} for row in rows], Path(config.into))
    return Path(config.into)


def main() -> int:
    """Run the command."""
    write_scores(parse_flags())
    return 0


if __name__ == "__main__":
    run_command(main)
