"""Which epochs of a run are special: the last, without mosaics, and those after which the learning rate falls."""

from collections.abc import Sequence

from utils.config.knobs import RunConfig

# Mosaics cut objects at their seams: the end of a run, where boxes get exact, does without (docs/results.md).
CLOSING_SHARE, CLOSING_EPOCHS = 4, 10


def closing_epochs(run_config: RunConfig) -> int:
    """Return the last epochs of a run, which see whole photos: neither mosaic nor mixup."""
    asked, epochs = run_config.close_mosaic, run_config.epochs
    return min(epochs // CLOSING_SHARE, CLOSING_EPOCHS) if asked < 0 else asked


def step_milestones(steps: Sequence[float], epochs: int) -> tuple[int, ...]:
    """Return whole epochs of a run: those below 1 are fractions of it, the others are epochs already."""
    return tuple(round(step * epochs) if step < 1 else round(step) for step in steps)
