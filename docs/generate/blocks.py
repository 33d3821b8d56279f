"""Generated parts of pages that people write: what stands between a marker's two lines, or in place of one line.

`<!-- begin: NAME -->` and `<!-- end: NAME -->` hold text that is committed (the README, read without the site);
`<!-- generated: NAME -->` is one line that the build replaces, with the line in italics below it, which tells readers
of the repository what the site shows there.
"""

import re
from collections.abc import Callable, Mapping

from utils.errors import UserError

MARKER = re.compile(r"^<!-- generated: ([\w. -]+?) -->$(\n\*.*\*$)?", re.MULTILINE)
Makers = Mapping[str, Callable[[], str]]


def renew(text: str, makers: Makers) -> str:
    """Return the page with the text between every pair of markers made anew; UserError for an unknown name."""

    def made(found: re.Match[str]) -> str:
        return f"{found[1]}\n{_make(found[2], makers)}\n{found[3]}"

    return re.sub(r"(<!-- begin: ([\w ]+) -->)\n.*?(<!-- end: \2 -->)", made, text, flags=re.DOTALL)


def fill(text: str, makers: Makers) -> str:
    """Return the page with every line `<!-- generated: NAME -->` replaced; UserError for an unknown name."""
    return MARKER.sub(lambda found: _make(found[1], makers), text)


def _make(name: str, makers: Makers) -> str:
    if name not in makers:
        raise UserError(f"docs: nothing makes the block {name!r}; there are {', '.join(makers)}")
    return makers[name]()
