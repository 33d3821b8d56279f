"""Errors that end a command with one clear line on stderr and an exit code, never a traceback."""

import contextlib
import difflib
import errno
import os
import sys
from collections.abc import Callable, Iterable

REFUSALS = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.EIO, errno.ESTALE),
    *(errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EMFILE, errno.ENFILE, errno.ENOMEM),
}


class CommandError(Exception):
    """Ends a command with its message and its exit code."""

    exit_code = 1


class UserError(CommandError):
    """The user's input is wrong; the message says what, where and what was expected."""

    exit_code = 2


class DivergedError(CommandError):
    """Training produced losses that are not finite."""

    exit_code = 3


class InterruptedRun(CommandError):
    """A run was asked to stop, and did so in good order."""

    exit_code = 130


class ExportMismatch(CommandError):
    """An exported file computes something else than the model it came from."""

    exit_code = 4


def nearest(name: str, choices: Iterable[str], shown: Iterable[str] = ()) -> str:
    """Return a hint such as `; did you mean 'ciou'?` for a misspelt name, or the list of choices when nothing is near.

    Of many choices that follow a rule, `shown` is what the list says.
    """
    choices = sorted(choices)
    folded = {choice.casefold(): choice for choice in choices}  # CIOU has no letter in common with ciou
    close = difflib.get_close_matches(name.casefold(), folded, n=1)
    if close:
        return f"; did you mean {folded[close[0]]!r}?"
    return f"; expected one of: {', '.join(sorted(shown) or choices)}"


def printable(text: object, limit: int = 300) -> str:
    """Return text of files or flags on one line, without control characters, shortened to `limit` characters."""
    line = str(text)
    if not line.isprintable():
        line = "".join(character if character.isprintable() else "?" for character in line)
    return line if len(line) <= limit else line[: limit - 3] + "..."


def leave_output() -> None:
    """Send what is still to be printed nowhere: flushed at the end, it would be refused once more."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


def run_command(main: Callable[[], int | None]) -> None:
    """Run a command's main and exit with its code; a CommandError becomes one line on stderr and its exit code.

    So does what the system refuses: a full disk, a folder that cannot be written to, a pipe that nobody reads.
    """
    try:
        code = main() or 0
        sys.stdout.flush()  # here, where a closed pipe is told like other refusals
        sys.exit(code)
    except CommandError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        leave_output()
        with contextlib.suppress(OSError):
            print(
                "error: nobody reads the output any more (a closed pipe): stopped; what is saved is whole",
                file=sys.stderr,
            )
        sys.exit(CommandError.exit_code)
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        where = f": {printable(error.filename)}" if error.filename else ""
        print(f"error: {error.strerror}{where}", file=sys.stderr)
        sys.exit(CommandError.exit_code)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
