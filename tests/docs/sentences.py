"""Sentences of a page's prose, for counting how long they are."""

import re
from collections.abc import Iterator

NOT_PROSE = ("|", "#", "!", "<", "    ")


def paragraphs(text: str) -> Iterator[str]:
    """Yield the paragraphs and list items of a page: no code block, table, heading or picture; links as their text."""
    text = re.sub(r"^```.*?^```", "\n", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"!?\[((?:[^\[\]]|\[[^\]]*\])*)\]\([^)\s]+\)", r"\1", text)
    for part in re.split(r"\n\s*\n|\n(?=\s*[-*] |\s*\d+\. |\|)", text):
        if part.strip() and not part.lstrip().startswith(NOT_PROSE[:4]):
            yield re.sub(r"^\s*([-*]|\d+\.) ", "", part)


def sentences(paragraph: str) -> list[str]:
    """Split a paragraph at full stops, question marks, and at colons and semicolons, which end a statement too."""
    flat = " ".join(re.sub(r"`[^`]*`", "code", paragraph).split())
    return [each for each in re.split(r"(?<=[.!?:;])\*{0,2}\)? +(?=[^a-z]|[a-z])", flat) if each.strip(" .*")]


def longest_average(text: str) -> tuple[float, str]:
    """Return the largest mean of words a sentence over the page's paragraphs, and that paragraph."""
    found = [(len(each.split()) / max(len(sentences(each)), 1), each) for each in paragraphs(text)]
    return max(found, default=(0.0, ""))
