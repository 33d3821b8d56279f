"""Darknet's .cfg files: sections of key=value lines."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from utils.errors import UserError, printable

LARGEST_CFG = 2**20
UNSAID_SIDE = 416  # of an input whose .cfg does not say it
SIDE = re.compile(r"(\s*(width|height)\s*=\s*)(\d+)")
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Section:
    """A section such as [convolutional] with its keys, and the line of its head."""

    kind: str
    keys: dict[str, str] = field(default_factory=dict)
    line: int = 0

    def number(self, key: str, default: int) -> int:
        """Return a key's whole number; UserError where it is none."""
        try:
            return int(self.keys.get(key, default))
        except ValueError:
            raise UserError(f"line {self.line}: [{self.kind}] {key}: expected a whole number") from None

    def numbers(self, key: str) -> list[float]:
        """Return a key's numbers, separated by commas; UserError where they are none."""
        try:
            return [float(part) for part in self.keys.get(key, "").split(",") if part.strip()]
        except ValueError:
            raise UserError(f"line {self.line}: [{self.kind}] {key}: expected numbers") from None


def read_cfg_text(path: Path) -> str:
    """Read the text of a .cfg, whatever the encoding of its comments; UserError if it cannot be one."""
    try:
        if path.stat().st_size > LARGEST_CFG:
            raise UserError(f"{printable(path)}: larger than {LARGEST_CFG >> 20} MiB: expected a Darknet .cfg")
        data = path.read_bytes()
        if b"\0" in data:
            raise UserError(f"{printable(path)}: cannot be read as a Darknet .cfg (it holds NUL bytes)")
        # Comments are in the writer's own encoding; keys and values are ASCII in all of them.
        return data.removeprefix(BOM).decode("utf-8", "surrogateescape")
    except OSError as error:
        raise UserError(f"{printable(path)}: cannot be read as a Darknet .cfg ({printable(error, 100)})") from None


def parse_cfg(text: str, where: str) -> list[Section]:
    """Return the sections of a .cfg; UserError with its line for what is none."""
    sections: list[Section] = []
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.partition("#")[0].partition(";")[0].strip()
        if not line:
            continue
        if line.startswith("[") and line.endswith("]"):
            sections.append(Section(line[1:-1].strip(), {}, number))
            continue
        key, equals, value = line.partition("=")
        if not equals or not sections:
            raise UserError(f"{where}:{number}: {printable(line, 60)!r}: expected [section] or key=value")
        sections[-1].keys[key.strip()] = value.strip()
    if not sections or sections[0].kind not in ("net", "network"):
        raise UserError(f"{where}: expected a Darknet .cfg, which begins with [net]")
    return sections


def format_cfg(sections: Iterable[Section]) -> str:
    """Return the text of a .cfg."""
    return "\n".join(
        f"[{section.kind}]\n" + "".join(f"{key}={value}\n" for key, value in section.keys.items())
        for section in sections
    )


def cfg_with_size(text: str, size: tuple[int, int]) -> str:
    """Return the text of a .cfg for another input size (height, width); no other byte of it changes."""
    lines = text.splitlines(keepends=True)
    heads = [number for number, line in enumerate(lines) if line.lstrip().startswith("[")]
    if not heads:
        return text
    end = heads[1] if len(heads) > 1 else len(lines)
    unsaid = {"width": size[1], "height": size[0]}
    sides = dict(unsaid)
    for number in range(heads[0], end):
        if found := SIDE.match(lines[number]):
            lines[number] = f"{found[1]}{sides[found[2]]}{lines[number][found.end() :]}"
            unsaid.pop(found[2], None)
    added = [f"{key}={side}\n" for key, side in unsaid.items() if side != UNSAID_SIDE]
    return "".join([*lines[: heads[0] + 1], *added, *lines[heads[0] + 1 :]])
