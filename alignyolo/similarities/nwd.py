"""NWD: boxes as Gaussians, for tiny objects (Wang et al. 2021, arXiv 2110.13389)."""

from torch import Tensor

from alignyolo.similarities.geometry import EPSILON, full_precision
from alignyolo.similarities.pair import Pair


@full_precision
def nwd(pred: Tensor, target: Tensor, constant: float = 12.8) -> Tensor:
    """Return exp(-d / constant), in (0, 1], d the Wasserstein distance of the boxes as Gaussians, in pixels.

    d^2 = dx^2 + dy^2 + ((w - W)^2 + (h - H)^2) / 4. The constant is about a data set's mean size of an object (12.8 px
    in AI-TOD); far from it the gradient vanishes. The authors' code adds 1e-6 under the root, which leaves identical
    boxes at .9999: here they have 1.
    """
    pair = Pair(pred, target)
    difference = (pair.sides - pair.wanted) / 2
    squared = (pair.offset.square() + difference.square()).sum(-1)
    distance = (squared + EPSILON**2).sqrt() - EPSILON
    return (-distance / constant).exp()
