"""An export format: its facts, a writer and an opener, found by name."""

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from engine.export.backend import Backend
from engine.export.job import Job
from utils.config.export_formats import EXPORT_FORMATS, ExportFormat, listed
from utils.errors import UserError, printable


@dataclass(frozen=True)
class Format:
    """What a file in engine/export/formats gives.

    `writer(path, job)` writes the file or folder `path`, and beside it what `facts.beside` lists.
    `opener(path, precision)` gives the Backend of what was written, `precision` being one of `facts.precisions`.
    Packages that `facts` lists are there when either is called.
    """

    facts: ExportFormat
    writer: Callable[[Path, Job], None]
    opener: Callable[[Path, str], Backend]

    def require(self, int8: bool = False) -> None:
        """Raise UserError with the pip command where a package for writing or opening is missing."""
        _require(f"--format {self.facts.name}", {**self.facts.writes, **self.facts.opens})
        if int8:
            _require(f"--format {self.facts.name} --int8", self.facts.int8 or {})

    def open(self, path: Path, precision: str = "float32") -> Backend:
        """Open a file as a Backend; UserError where it or a package for it is missing or damaged."""
        if precision not in self.facts.precisions:
            able = [each.name for each in EXPORT_FORMATS.values() if precision in each.precisions]
            raise UserError(
                f"--precision {precision}: for weights and {listed(able)}; {printable(path)} runs as it was exported"
            )
        _require(printable(path), self.facts.opens)
        return self.opener(path, precision)


def format_named(name: str) -> Format:
    """Return the format of a name in EXPORT_FORMATS."""
    module = importlib.import_module(f"engine.export.formats.{name}")
    return Format(EXPORT_FORMATS[name], module.write, module.open_file)


def _require(what: str, packages: Mapping[str, str]) -> None:
    for module, command in packages.items():
        # The package first: where it is missing, asking for a module in it raises.
        if importlib.util.find_spec(module.partition(".")[0]) is None or importlib.util.find_spec(module) is None:
            raise UserError(f"{what}: needs {module.partition('.')[0]}: pip install {command}")
