"""Names of the files that a run writes for each photo and video, none of which takes another's."""

import re
from collections.abc import Callable, Iterable

FRAME = "{stem}_{frame:06d}"
_OF_A_FRAME = re.compile(r"(?P<stem>.+)_\d{6,}", re.DOTALL)


def of_frame(name: str) -> str | None:
    """Return the name of the video of whose frame a file has this name; None where it is none's."""
    found = _OF_A_FRAME.fullmatch(name)
    return found["stem"] if found else None


class Names:
    """The names, without a suffix, of what is written for photos and videos.

    A photo or video has the one that `stem_of` its path gives, or where an earlier one has that, the next free number
    behind it. The names of the listed photos and videos that come later are not free. With `by_frame`, files are
    written for the frames of videos too, and no photo may have a name of theirs.
    """

    def __init__(
        self, stem_of: Callable[[str], str], photos: Iterable[str], videos: Iterable[str], by_frame: bool
    ) -> None:
        self.stem_of, self.videos = stem_of, frozenset(videos)
        own = [stem_of(path) for path in photos]
        self.reserved = {*own, *map(stem_of, self.videos)}
        self.numbered = {found for stem in own if by_frame and (found := of_frame(stem))}
        self.given: dict[str, str] = {}
        self.used: set[str] = set()

    def of(self, path: str) -> str:
        """Return the name for a path, the same one every time."""
        if path not in self.given:
            stem = name = self.stem_of(path)
            number = 1
            while name in self.used or (number > 1 and name in self.reserved) or self._frames_taken(path, name):
                number += 1
                name = f"{stem}_{number}"
            self.given[path] = name
            self.used.add(name)
        return self.given[path]

    def _frames_taken(self, path: str, name: str) -> bool:
        """Tell whether a photo has a name as frames of this video would have them."""
        return path in self.videos and name in self.numbered
