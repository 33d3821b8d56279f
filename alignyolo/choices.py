"""Words that a setting may have, and names that a table may hold: what is not among them is refused with what is."""

from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from typing import TypeVar

Value = TypeVar("Value")

SWITCH = ("on", "off")
"""What a setting that is on or off takes, here as in a configuration file."""


def require_choice(setting: str, value: object, choices: Collection[str]) -> None:
    """Refuse a value that is none of the choices: ValueError that names them all."""
    if value not in choices:
        raise ValueError(f"{setting} must be {' or '.join(map(repr, choices))}, not {value!r}")


def look_up(kind: str, name: str, table: Mapping[str, Value], shown: Iterable[str] = ()) -> Value:
    """Return what a table holds under a name; ValueError with the nearest name and those `shown`, by default all."""
    if name not in table:
        raise ValueError(f"no {kind} {name!r}{nearest(name, table)} Names: {', '.join(shown or table)}")
    return table[name]


def nearest(name: str, names: Iterable[str]) -> str:
    """Return a full stop, or a question after the name that a misspelt one is nearest to."""
    folded = {each.casefold(): each for each in names}  # CIOU has no letter in common with ciou
    found = get_close_matches(name.casefold(), folded, 1)
    return f": did you mean {folded[found[0]]!r}?" if found else "."
