"""The runs of a comparison: ordinary train.py runs, the commands that make them, and what they left behind."""

import json
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

from studies.comparison.recipe import ULTRALYTICS, Variant
from utils.config.flags import split_at_flags
from utils.errors import DivergedError, UserError, printable
from utils.run_folder import read_csv, write_json

ROOT = Path(__file__).resolve().parents[2]
TRAIN, VAL = [str(ROOT / "train.py")], [str(ROOT / "val.py")]
IN_ULTRALYTICS = ["-m", "studies.in_ultralytics"]


@dataclass(frozen=True)
class Run:
    """One variant with one seed in its folder; `arguments` are those of train.py but for the folder, which may move.

    The metrics that count are those of its validation (`split` val) or of val.py on another split.
    """

    variant: Variant
    seed: int
    folder: Path
    arguments: tuple[str, ...]
    split: str = "val"

    @property
    def place(self) -> tuple[str, ...]:
        """Return the arguments of train.py that name the folder."""
        return ("--project", str(self.folder.parent), "--name", self.folder.name, "--exist-ok")

    @property
    def request(self) -> Path:
        """Return the file that says what this folder was made for."""
        return self.folder.with_name(f"{self.folder.name}.json")

    @property
    def log(self) -> Path:
        """Return the output of the run."""
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def metrics_file(self) -> Path:
        """Return the metrics that count: of the run's own validation, or of val.py on another split."""
        return self.folder / ("metrics.json" if self.split == "val" else f"{self.split}/metrics.json")

    @property
    def results_file(self) -> Path:
        """Return the table of its epochs."""
        return self.folder / "results.csv"

    @property
    def done(self) -> bool:
        """Say whether its metrics are there."""
        return self.metrics_file.is_file()

    @property
    def begun(self) -> bool:
        """Say whether its folder holds a training, finished or not: an empty one says nothing of a run."""
        return (self.folder / "weights").is_dir() or self.results_file.is_file()

    @property
    def diverged(self) -> bool:
        """Say whether its loss became NaN or infinite; the same again would do the same."""
        return self.request.is_file() and read_object(self.request).get("exit_code") == DivergedError.exit_code

    def metrics(self) -> dict:
        """Return the metrics, as metrics.json holds them."""
        return read_object(self.metrics_file)

    def environment(self) -> dict:
        """Return versions, hardware, date and command of the run."""
        path = self.folder / "env.json"
        return read_object(path) if path.is_file() else {}

    def epochs(self) -> list[dict[str, str]]:
        """Return the rows of results.csv; none where the file is not there."""
        return read_csv(self.results_file) if self.results_file.is_file() else []


def plan(variants: Sequence[Variant], seeds: Sequence[int], shared: Sequence[str], into: Path, split: str) -> list[Run]:
    """Plan all runs, seed by seed, so that an unfinished comparison has whole pairs."""
    runs = []
    for seed in seeds:
        for variant in variants:
            folder = into / variant.name / f"seed{seed}"
            runs.append(Run(variant, seed, folder, (*shared, *variant.arguments(), "--seed", str(seed)), split))
    return runs


def check_requests(runs: Sequence[Run]) -> None:
    """Raise UserError where a folder holds a run that was asked for differently."""
    for run in runs:
        if run.request.is_file() and read_object(run.request).get("arguments") != list(run.arguments):
            raise UserError(
                f"{printable(run.folder)} holds another run (its flags are in {run.request.name}): "
                "choose another --into, or delete it"
            )


def note_request(run: Run, code: int | None = None) -> None:
    """Write what a run's folder is made for, and the exit code once there is one."""
    run.folder.parent.mkdir(parents=True, exist_ok=True)
    write_json(run.request, {"arguments": list(run.arguments), **({} if code is None else {"exit_code": code})})


def commands(run: Run) -> Generator[list[str], int, int]:
    """Train a run, or go on with it, and score it: yield commands, be sent their exit codes, return the last."""
    note_request(run)
    code = 0
    train = IN_ULTRALYTICS if run.variant.trainer == ULTRALYTICS else TRAIN
    if not (run.folder / "metrics.json").is_file():
        started = any((run.folder / "weights" / name).is_file() for name in ("last.pt", "last_prev.pt"))
        code = (yield [*train, "--resume", str(run.folder)]) if started else UserError.exit_code
        # Nothing to resume.
        code = (yield [*train, *run.arguments, *run.place]) if code == UserError.exit_code else code
    if not code and not run.done:
        code = yield scoring(run)
    return code


def scoring(run: Run) -> list[str]:
    """Return the command that scores a trained run on its split."""
    if run.variant.trainer == ULTRALYTICS:
        return [*IN_ULTRALYTICS, "--score", str(run.folder), "--split", run.split]
    best = str(run.folder / "weights" / "best.pt")
    place = ["--project", str(run.folder), "--name", run.split, "--exist-ok", "--no-plots"]
    return [*VAL, "--weights", best, "--split", run.split, *device(run.arguments), *place]


def device(arguments: Sequence[str]) -> list[str]:
    """Return the --device among a run's arguments, for val.py."""
    named = [group for group in split_at_flags(arguments) if group[0].partition("=")[0] == "--device"]
    return named[-1] if named else []


def read_object(path: Path) -> dict:
    """Read a JSON object; UserError for a file that holds none."""
    try:
        document = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{printable(path)}: cannot be read as JSON ({printable(error)})") from None
    if not isinstance(document, dict):
        raise UserError(f"{printable(path)}: expected a JSON object")
    return document
