"""One worker of a search whose runs take no training: AP is highest at lr0 = .01.

python -m tests.studies.trials.stub_search DATA_YAML TRIALS SECONDS FLAGS...
"""

import json
import sys
from pathlib import Path

from studies.comparison.runs import Run, note_request
from studies.trials.jobs import Commands
from studies.trials.search import open_search, run_search
from studies.trials.shared_study import SharedStudy
from tests.studies.trials.stub_worker import FAST
from tune import parse_flags

STUB = str(Path(__file__).with_name("stub_search_training.py"))


def stub_steps(seconds: float):
    """The commands of a run, as `commands` gives them of a real one."""

    def steps(run: Run) -> Commands:
        note_request(run)
        return (yield [STUB, str(run.folder), json.dumps(run.variant.settings), str(seconds)])

    return steps


def search(arguments: list[str], seconds: float = 0.0) -> SharedStudy:
    """Runs a search with the stub; returns its study."""
    config, shared, space = parse_flags(arguments)
    study = open_search(config, shared, space, FAST)
    run_search(study, config, shared, space, stub_steps(seconds))
    return study


if __name__ == "__main__":
    search(sys.argv[2:], float(sys.argv[1]))
