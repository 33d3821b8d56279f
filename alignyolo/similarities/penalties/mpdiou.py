"""MPDIoU: IoU less the distances of two corners, measured against the image (Ma and Xu 2023, arXiv 2307.07662)."""

from torch import Tensor

from alignyolo.similarities.geometry import full_precision
from alignyolo.similarities.pair import Pair


@full_precision
def mpdiou(pred: Tensor, target: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Subtract from IoU the squared distances of both corners over the image's squared diagonal (pixels).

    In (-2, 1] for boxes inside the image; without a limit below it for boxes outside. Forks divide by height x width,
    or by the enclosing box's diagonal: not the paper's.
    """
    height, width = image_size
    return Pair(pred, target).iou - (pred - target).square().sum(-1) / (height**2 + width**2)
