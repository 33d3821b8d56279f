"""The contract of every family's detector: images and targets to losses, images to detections (torchvision's)."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from alignyolo.similarities.bound import Similarity
from alignyolo.targets import Targets
from models.postprocess import Postprocess


class AnyDetector(nn.Module, ABC):
    """A network with its loss and its postprocessing; a family says how they are put together."""

    network: Any
    loss: Any
    postprocess: Postprocess

    def __init__(self, network: nn.Module, loss: Callable[..., dict[str, Tensor]], postprocess: Postprocess):
        super().__init__()
        self.network, self.loss, self.postprocess = network, loss, postprocess

    def with_network(self, network: nn.Module) -> "AnyDetector":
        """Put the same detector around other weights, such as the averaged ones."""
        return type(self)(network, self.loss, self.postprocess)

    def running_statistics(self) -> dict[str, Tensor]:
        """Return what the box similarity keeps from step to step, for the checkpoint; empty for most."""
        found = self.similarity
        return found.state_dict() if isinstance(found, Similarity) else {}

    def load_running_statistics(self, state: dict[str, Tensor]) -> None:
        """Take up what `running_statistics` gave; nothing where that is empty."""
        if state and isinstance(self.similarity, Similarity):
            self.similarity.load_state_dict(state)

    @property
    def similarity(self) -> Any:
        """Return the box similarity of the loss, or None where codes are compared instead of boxes."""
        owner = getattr(self.loss, "box", self.loss)
        return getattr(owner, "similarity", None)

    @abstractmethod
    def losses(self, images: Tensor, targets: Targets) -> dict[str, Tensor]:
        """Compute the scalar losses of images (B, 3, H, W) in [0, 1] with their truths."""

    @abstractmethod
    def candidates(self, images: Tensor) -> tuple[Iterable[Tensor], Iterable[Tensor]]:
        """Return per image boxes (A, 4) xyxy pixels and scores (A, C), before NMS, of images (B, 3, H, W)."""

    def forward(self, images: Tensor, targets: Targets | None = None) -> Any:
        """Turn images (B, 3, H, W) in [0, 1] into losses {box, class, ...} with targets, else into detections.

        Detections are per image {boxes (N, 4) xyxy pixels of the input, scores (N,), labels (N,)}, best first.
        """
        if targets is not None:
            return self.losses(images, targets)
        with torch.no_grad():
            return self.postprocess(*self.candidates(images))
