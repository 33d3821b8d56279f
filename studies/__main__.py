"""Redoes the papers' figures and tables that need no training.

python -m studies                                all of them, into runs/studies
python -m studies --quick                        the same with smaller samples
python -m studies regression bounds              only these
"""

import importlib
import time
from collections.abc import Sequence

from studies.command import chosen
from utils.config.flags import Parser
from utils.errors import run_command

STUDIES = (
    "tables",
    "gradient_magnitude",
    "bounds",
    "regression",
    "animation",
    "ggiou_plane",
    "assignment_census",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command: exit code 0 when done, 2 for wrong input."""
    parser = Parser(prog="python -m studies", description=(__doc__ or "").splitlines()[0])
    meaning = f"of {' '.join(STUDIES)} (default: all)"
    names, settings = chosen(parser, arguments, "study", STUDIES, STUDIES, meaning)
    start = time.perf_counter()
    for name in names:
        print(f"--- {name}")
        # Only now torch: a wrong flag has been answered already.
        importlib.import_module(f"studies.figures.{name}").run(settings)
    print(f"{len(names)} studies in {time.perf_counter() - start:.0f} s")
    return 0


if __name__ == "__main__":
    run_command(main)
