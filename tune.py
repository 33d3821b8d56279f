"""Searches for settings that train better on your data: Optuna's TPE chooses, Hyperband stops what falls behind.

python tune.py --data my.yaml --trials 60                               the learning rate and the gains
python tune.py --data my.yaml --search lr0=1e-4..0.1:log box_loss=ciou,sca sca_alpha=0.2..1 --max-seconds 600
python tune.py --data my.yaml --trials 60 --storage postgresql://...    the same command on any number of machines

Every other flag goes to train.py. The same command goes on with a search; its result is a file for --hyp and a report.
"""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from studies.comparison.recipe import OWN_FLAGS
from studies.trials.installed import check_optuna
from studies.trials.jobs import one_at_a_time
from studies.trials.space import Dimension, check_space, is_read, read_space
from train import parse_flags as train_flags
from utils.config.flags import Parser, add_knobs, parsed, split_at_flags
from utils.config.knobs import TuneConfig
from utils.errors import UserError, run_command


def parse_flags(arguments: Sequence[str] | None = None) -> tuple[TuneConfig, tuple[str, ...], tuple[Dimension, ...]]:
    """Read the search's own flags, the arguments for train.py, and what to try; UserError for a mistake in any."""
    parser = Parser(prog="tune.py", description=(__doc__ or "").splitlines()[0])
    add_knobs(parser, TuneConfig, {})
    own, others = parser.parse_known_args(arguments)
    config = parsed(TuneConfig, vars(own))
    space = read_space(config.search)
    searched = {each.key for each in space}
    for name, value in train_flags(others).items():
        if name in {*OWN_FLAGS, "resume"} - {"seed"} and value is not None:
            raise UserError(f"--{name.replace('_', '-')} is set for every run by the search (see --into)")
        if {"loss": "box_loss", "assign": "assigner"}.get(name, name) in searched and value is not None:
            raise UserError(f"--{name.replace('_', '-')}: --search tries it already")
    return config, tuple(others), space


def tune(config: TuneConfig, shared: Sequence[str], space: Sequence[Dimension], command: str) -> Path:
    """Make the trials that are left and write the report; return the hyperparameter file that was found."""
    check_optuna()
    if config.search == TuneConfig().search:
        # What a search tries by itself is not everything that every family of detectors reads.
        space = tuple(each for each in space if is_read(each.key, {}, shared))
    check_space(space, shared)
    # Only now Optuna: whatever is wrong with the flags and the YAML files has been said already.
    from studies.trials.search import open_search, run_search
    from studies.trials.search_report import write_search_report

    study = open_search(config, shared, space)
    if not config.report_only:
        run_search(study, config, shared, space)
    with one_at_a_time(Path(config.into) / "report.lock"):
        return write_search_report(study, config, shared, command)


def without_storage(arguments: Sequence[str]) -> list[str]:
    """Leave out the storage, whose URL may hold a password."""
    groups = split_at_flags(arguments)
    return [part for group in groups if group[0].partition("=")[0] != "--storage" for part in group]


def main() -> int:
    """Run the command: exit code 0 when done, 1 when no trial succeeded, 2 for wrong input."""
    config, shared, space = parse_flags()
    tune(config, shared, space, shlex.join(["python", "tune.py", *without_storage(sys.argv[1:])]))
    return 0


if __name__ == "__main__":
    run_command(main)
