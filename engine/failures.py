"""What ends a run from below, such as a full memory or a killed loading process, as one clear line."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from utils.errors import CommandError, printable

NO_MEMORY = re.compile(r"can't allocate memory|not enough memory|out of memory|insufficient memory", re.IGNORECASE)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether a device or the machine had no memory left."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or bool(NO_MEMORY.search(str(error)))


@contextmanager
def explained(doing: Callable[[], str]) -> Iterator[None]:
    """Raise CommandError with one line for what torch tells in many; `doing` says what was going on.

    An error of a loading process arrives wrapped in its traceback: a CommandError is unwrapped to its own line.
    """
    try:
        yield
    except CommandError as error:
        if "\nOriginal Traceback" not in str(error):
            raise
        raise type(error)(str(error).strip().splitlines()[-1].partition(": ")[2]) from None
    except (RuntimeError, MemoryError) as error:
        told = str(error)
        if is_out_of_memory(error):
            raise CommandError(
                f"out of memory {doing()}; what is saved is untouched. Try half the --batch-size (-1 finds one "
                f"that fits), fewer --workers, or no --cache ({printable(_first_line(told), 120)})"
            ) from None
        worker = re.search(r"DataLoader worker \(pid\(?s?\)? ?([\d, ]+)\)(.*)", told)
        if worker is None:
            raise
        why = printable(worker[2].strip(" .") or "is gone", 120)
        raise CommandError(
            f"a data loading process ({worker[1].strip()}) {why}; what is saved is untouched. If nobody "
            "killed it, memory ran out: try fewer --workers or no --cache"
        ) from None


def _first_line(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if NO_MEMORY.search(line)]
    return lines[-1].strip() if lines else "no more is known"
