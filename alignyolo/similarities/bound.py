"""A box similarity with its settings bound, called the same way whatever it asks for besides two boxes."""

import inspect
from typing import Any

import torch
from torch import Tensor

from alignyolo.choices import look_up, nearest
from alignyolo.registry import BASE_SIMILARITIES, SIMILARITIES, WRAPPERS, Entry

AROUND = ("image_size", "over_ranks", "training")


class Similarity:
    """Call a registered similarity as `similarity(pred, target, **around)`.

    `around` is what a loss knows beside the boxes. The entry's `needs` says which of it the similarity is handed:

    - `image_size`: (height, width) in pixels of the network input;
    - `over_ranks`: a function that sums a tensor over the processes of a run;
    - `training`: whether this is a training step, in which running statistics move.

    A similarity that keeps a running statistic is a class; its `state_dict()` goes into the checkpoint.

    Raises TypeError for a setting that the similarity does not have.
    """

    def __init__(self, entry: Entry, **settings: Any):
        require_settings(entry, settings)
        found = entry.load()
        self.needs = entry.needs
        self.settings = {**entry.fixed, **settings}
        self.stateful = isinstance(found, type)
        self.function = found(**self.settings) if self.stateful else found

    def __call__(self, pred: Tensor, target: Tensor, **around: Any) -> Tensor:
        """Return the similarity (...) of boxes (..., 4).

        Raises TypeError where something it needs is not given, or something is given that none asks for.
        """
        unknown = [name for name in around if name not in AROUND]
        if unknown:
            raise TypeError(f"{unknown[0]} is not one of {', '.join(AROUND)}: bind settings beforehand")
        missing = [name for name in self.needs if name not in around]
        if missing:
            raise TypeError(f"this similarity also needs {', '.join(missing)}: give {missing[0]}=... beside the boxes")
        given = {name: around[name] for name in self.needs}
        return self.function(pred, target, **({} if self.stateful else self.settings), **given)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the running statistics that a checkpoint must hold; empty for most similarities."""
        return self.function.state_dict() if self.stateful else {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take up the running statistics of a checkpoint."""
        if self.stateful:
            self.function.load_state_dict({name: torch.as_tensor(value) for name, value in state.items()})


def settings_of(entry: Entry) -> list[str] | None:
    """Return the names of the settings of an entry's function or class; None for one that takes any."""
    found = entry.load()
    parameters = list(inspect.signature(found).parameters.values())
    # A function is handed two boxes first.
    own = parameters if isinstance(found, type) else parameters[2:]
    names = [each.name for each in own if each.kind in (each.KEYWORD_ONLY, each.POSITIONAL_OR_KEYWORD)]
    if any(each.kind == each.VAR_KEYWORD for each in own):
        # `inner_` and `focaler_` pass on what is not theirs.
        below = settings_of(SIMILARITIES[entry.fixed["over"]]) if "over" in entry.fixed else None
        if below is None:
            return None
        names += below
    return [name for name in names if name not in entry.needs and name != "over"]


def require_settings(entry: Entry, settings: dict[str, Any]) -> None:
    """Refuse a setting that an entry does not have: TypeError with those it has."""
    known = settings_of(entry)
    unknown = [] if known is None else [name for name in settings if name not in known]
    if known is not None and unknown:
        listed = f"Settings: {', '.join(known)}" if known else "It has none"
        raise TypeError(f"this similarity has no setting {unknown[0]!r}{nearest(unknown[0], known)} {listed}")


def similarity(name: str, **settings: Any) -> Similarity:
    """Bind settings to a registered similarity, as in `similarity("sca", alpha=1.0)`.

    Args:
        name: A name of `--loss`, such as `sca` or `inner_ciou`.
        settings: Keywords of the similarity's function; what is not given keeps its default.

    Returns:
        A function of boxes `(pred, target)`, xyxy (..., 4), that gives similarities (...).

    Raises:
        ValueError: There is no similarity of this name.
        TypeError: The similarity has no such setting.
    """
    shown = [*BASE_SIMILARITIES, *(f"any of these after {prefix}_" for prefix in WRAPPERS)]
    return Similarity(look_up("similarity", name, SIMILARITIES, shown), **settings)
