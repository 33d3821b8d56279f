"""The commands that a page shows in its blocks, as a shell would read them."""

import re
import shlex
from collections.abc import Iterator

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
# What the pages put in variables of the shell and in loops.
VARIABLES = {"$model": "yolov3", "$loss": "sca", "$backbone": "", "$common": ""}


def commands(text: str) -> Iterator[list[str]]:
    """Yield the words of every command in a block without a language, continuation lines joined, comments left out."""
    for language, block in BLOCK.findall(text):
        if language:
            continue
        joined = block.replace("\\\n", " ")
        for name, value in VARIABLES.items():
            joined = joined.replace(name, value)
        for line in joined.splitlines():
            # A line that says which words there are is none to type.
            if "|" in line:
                continue
            # Three blanks after a command begin an explanation, as in a docstring.
            try:
                yield shlex.split(re.split(r"\s{3,}(?=[a-z])", line)[0], comments=True)
            except ValueError as error:
                raise AssertionError(f"{line}: {error}") from None


def split(words: list[str]) -> tuple[str, list[str]]:
    """Return what one types for a command of ours and its flags; an empty string for another program."""
    if words[:1] != ["python"] or len(words) < 2:
        return "", []
    size = 3 if words[1] == "-m" else 2
    return " ".join(words[:size]), words[size:]
