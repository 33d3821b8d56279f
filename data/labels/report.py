"""What was found in the labels of a split, in numbers, places and one paragraph."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from utils.errors import printable


@dataclass(frozen=True)
class LabelReport:
    """What a split's labels hold and what was left out: `dropped` (file:line, why), `unreadable` (image, why).

    `findings` is all that a person may want to mend, each as kind, where, details; the doctor (data/labels/doctor.py)
    prints them too. `policy` is what was done about boxes beyond their photo.
    """

    images: int
    boxes: int
    missing: int
    empty: int
    clipped: int
    skipped: int
    no_area: int
    duplicates: int
    largest: float
    dropped: tuple[tuple[str, str], ...]
    unreadable: tuple[tuple[str, str], ...]
    findings: tuple[tuple[str, str, str], ...] = ()
    policy: str = "mend"
    turned: int = 0

    def summary(self, needed: bool = True) -> str:
        """Say in one paragraph all that a person should know about the labels; empty when there is nothing.

        Photos without a label file are not worth a word where a split has other truths and `needed` is false.
        """
        parts = []
        if self.unreadable:
            path, reason = self.unreadable[0]
            example = printable(f"{path}: {reason}")
            parts.append(f"{count(len(self.unreadable), 'image')} cannot be read and left out, the first: {example}")
        if self.missing and needed:
            parts.append(f"{self.missing} of {count(self.images, 'image')} without a label file (used as background)")
        if shared := [place for kind, place, _ in self.findings if kind == "shared label"]:
            verb = "shares its" if len(shared) == 1 else "share their"
            named = f"{count(len(shared), 'photo')} {verb} label file with another"
            parts.append(f"{named}, the first: {printable(shared[0])}")
        if self.turned:
            shown = count(self.turned, "rotated box", "rotated boxes")
            parts.append(f"{shown} (4 corners a row) taken as the upright box around them")
        if self.clipped:
            how_far = "up to 1 % beyond the image" if self.policy == "mend" else "beyond the image"
            parts.append(f"{count(self.clipped, 'box', 'boxes')} clipped, {how_far}")
        if self.skipped:
            parts.append(f"{count(self.skipped, 'box', 'boxes')} skipped, beyond the image{self.pixels_hint()}")
        if self.no_area:
            parts.append(f"{count(self.no_area, 'box', 'boxes')} without area dropped")
        if self.duplicates:
            parts.append(f"{count(self.duplicates, 'duplicate box', 'duplicate boxes')} dropped")
        if self.dropped:
            where, reason = self.dropped[0]
            parts.append(f"the first box left out: {printable(where)} ({reason})")
        return "labels: " + "; ".join(parts) if parts else ""

    def reworded(self, words: Callable[[str], str]) -> "LabelReport":
        """Return the report with its places and details changed by `words`."""
        return replace(
            self,
            dropped=tuple((words(place), why) for place, why in self.dropped),
            unreadable=tuple((words(place), why) for place, why in self.unreadable),
            findings=tuple((kind, words(place), words(details)) for kind, place, details in self.findings),
        )

    def pixels_hint(self) -> str:
        """Guess the cause when most boxes lie far beyond their images, else say nothing."""
        return f" (values up to {self.largest:g}: pixels?)" if self.skipped > self.boxes and self.largest > 2 else ""


def count(number: int, one: str, many: str = "") -> str:
    """Write a number with its noun in the singular or plural."""
    return f"{number} {one if number == 1 else many or one + 's'}"
