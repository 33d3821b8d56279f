"""The thresholds of an assignment: positive at or above one, negative below another, ignored between (GGIoU 3.2)."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Thresholds:
    """Two limits of a metric, `negative` <= `positive`."""

    positive: float = 0.5
    negative: float = 0.4

    def is_positive(self, metric: Tensor) -> Tensor:
        """Return where the metric is at or above `positive`."""
        return metric >= self.positive

    def is_negative(self, metric: Tensor) -> Tensor:
        """Return where the metric is below `negative`."""
        return metric < self.negative
