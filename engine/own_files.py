"""The files that a command has written into a folder: with --exist-ok they may be replaced, and nobody else's."""

import json
import os
import zlib
from pathlib import Path

from utils.errors import UserError, printable

FOLDER = ".alignyolo"  # hidden: neither photos nor results are looked for there
BEGUN, GONE = "begun", "gone"


class OwnFiles:
    """The files of one command in a folder, by a list with their check sums, which every run there goes on with.

    What is not in it, or has been changed since, is somebody's work. The list is a line for each file that is begun and
    another when it is whole, so that a run that was killed knows its own.
    """

    def __init__(self, folder: Path, command: str) -> None:
        self.folder, self.command = folder, command
        self.list = folder / FOLDER / f"{command.removesuffix('.py')}.jsonl"
        self.sums: dict[str, int | str] = {}
        if self.list.is_file():
            for line in self.list.read_text("utf-8").splitlines():
                try:
                    name, checksum = json.loads(line)
                except (ValueError, TypeError):  # the last line of a run that was killed, without its end
                    continue
                self.sums[name] = checksum

    def is_own(self, path: Path) -> bool:
        """Tell whether a file is as a run of this command has left it."""
        known = self.sums.get(self._name(path), GONE)
        return known == BEGUN or (known != GONE and known == _checksum(path))

    def require(self, *paths: Path) -> None:
        """Raise UserError where a file that this command has not written, or not like this, would be replaced."""
        for path in paths:
            if os.path.lexists(path) and not self.is_own(path):
                changed = self.sums.get(self._name(path), GONE) != GONE
                reason = f"was changed since {self.command} wrote it" if changed else f"is not from {self.command}"
                raise UserError(
                    f"--exist-ok: {printable(path)} {reason}, and would be replaced: name another folder with "
                    "--project or --name"
                )

    def begin(self, path: Path) -> Path:
        """Note that a file is going to be written, and return it; UserError where somebody else's is there."""
        self.require(path)
        self._note(path, BEGUN)
        return path

    def end(self, path: Path) -> None:
        """Note that a file is whole, or that it could not be written."""
        self._note(path, _checksum(path) if path.is_file() else GONE)

    def present(self) -> list[Path]:
        """List the files of this command that are there as it has left them."""
        return [path for name in self.sums if (path := self.folder / name).is_file() and self.is_own(path)]

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()

    def _note(self, path: Path, checksum: int | str) -> None:
        self.sums[self._name(path)] = checksum
        self.list.parent.mkdir(exist_ok=True)
        with self.list.open("a", encoding="utf-8") as file:
            file.write(json.dumps([self._name(path), checksum]) + "\n")


def _checksum(path: Path) -> int:
    """Return the CRC-32 of a file; -1, which is none, where it cannot be read."""
    total = 0
    try:
        with path.open("rb") as file:
            while part := file.read(2**20):
                total = zlib.crc32(part, total)
    except OSError:
        return -1
    return total
