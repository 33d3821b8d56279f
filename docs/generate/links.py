"""Links of a page, as they are written for readers of the repository, turned into those of the site."""

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
# Pages of the repository that the site shows too, by where they go.
SHOWN = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md", "results/README.md": "experiments.md"}
# A fence, code within a line, or a link; whichever begins first, so that a link's text may hold code.
PIECE = re.compile(r"```.*?```|(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)|`[^`\n]*`", re.DOTALL)
NOT_PAGES = (".py", ".toml")


def links(text: str) -> Iterator[str]:
    """Yield the target of every link and picture of a page, but for what stands in code."""
    for found in PIECE.finditer(text):
        if found[3]:
            yield found[3]


def is_outside(target: str) -> bool:
    """Tell whether a link leads out of the repository, or stays on its own page."""
    return "://" in target or target.startswith(("#", "mailto:"))


def on_site(path: PurePosixPath) -> PurePosixPath | None:
    """Return where a file of the repository stands on the site; None where it does not."""
    if str(path) in SHOWN:
        return PurePosixPath(SHOWN[str(path)])
    if path.parts[:1] == ("docs",) and path.suffix not in NOT_PAGES and path.suffix:
        return path.relative_to("docs")
    if path.parts[:1] == ("results",) and len(path.parts) == 3:
        return PurePosixPath("experiments", *path.parts[1:])
    return None


def turned(text: str, page: PurePosixPath) -> str:
    """Return a page of the repository with links for the site; a link to source becomes its text, a picture a link.

    Links are resolved from where the page lies in the repository, and written from where it stands on the site.
    """
    place = on_site(page)
    if place is None:
        raise ValueError(f"{page} is no page of the site")

    def turn(found: re.Match[str]) -> str:
        if not found[3] or is_outside(found[3]):
            return found[0]
        target, _, part = found[3].partition("#")
        meant = on_site(PurePosixPath(os.path.normpath(page.parent / target)))
        if meant is None:
            return found[2] if "`" in found[2] else f"`{found[2]}`"
        relative = os.path.relpath(meant, place.parent)
        if found[1]:  # in a page's column the small text of a picture is hardly readable: it leads to itself
            return f"[![{found[2]}]({relative})]({relative})"
        return f"[{found[2]}]({relative}{'#' + part if part else ''})"

    return PIECE.sub(turn, text)
