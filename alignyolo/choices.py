"""Words that a setting may have, and names that a table may hold: what is not among them is refused with what is."""

from collections.abc import Collection, Iterable
from difflib import get_close_matches


def require_choice(setting: str, value: object, choices: Collection[str]) -> None:
    """Refuse a value that is none of the choices: ValueError that names them all."""
    if value not in choices:
        raise ValueError(f"{setting} must be {' or '.join(map(repr, choices))}, not {value!r}")


def nearest(name: str, names: Iterable[str]) -> str:
    """Say which of the names a misspelt one is nearest to, as ", did you mean ...?", or nothing where none is near."""
    found = get_close_matches(name, list(names), 1)
    return f", did you mean {found[0]!r}?" if found else ""
