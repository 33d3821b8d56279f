"""The command line of a study: which ones to draw, and the settings that all share."""

from collections.abc import Collection, Sequence
from typing import Any

from utils.config.flags import Parser, add_knobs, parsed
from utils.config.knobs import DrawConfig, StudyConfig
from utils.errors import UserError, nearest


def chosen(
    parser: Parser,
    arguments: Sequence[str] | None,
    kind: str,
    known: Collection[str],
    shown: Sequence[str],
    meaning: str,
    settings: type[DrawConfig] = StudyConfig,
) -> tuple[Sequence[str], Any]:
    """Read the names on the command line (all that are `shown` where there are none) and the settings.

    `kind` is what a name stands for, `settings` the flags; raises UserError for a name that is not `known`.
    """
    parser.add_argument("names", nargs="*", metavar=kind.split()[-1].upper(), help=meaning)
    add_knobs(parser, settings, {})
    flags = vars(parser.parse_args(arguments))
    names = flags.pop("names") or shown
    for name in names:
        if name not in known:
            raise UserError(f"no {kind} {name!r}{nearest(name, known, shown)}")
    return names, parsed(settings, flags)
