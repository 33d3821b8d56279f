"""SCALoss in the box loss of an ultralytics YOLO model.

    from ultralytics import YOLO
    from examples.ultralytics_sca import use_similarity
    from alignyolo.similarities.sca import sca

    model = YOLO("yolo11n.yaml")
    model.add_callback("on_train_start", lambda trainer: use_similarity(trainer.model, sca))
    model.train(data="my.yaml", epochs=100)

It imports no ultralytics: the model is the caller's, and so is the way it was imported. On several GPUs ultralytics
starts processes that know no callbacks; make the call in a trainer of your own there (`train(trainer=...)`).
"""

from collections.abc import Callable

from torch import Tensor, nn


class SimilarityBoxLoss(nn.Module):
    """ultralytics' box loss with 1 - similarity in the place of CIoU; its distribution loss stays as it is."""

    def __init__(self, stock: nn.Module, similarity: Callable[[Tensor, Tensor], Tensor]):
        super().__init__()
        self.stock, self.similarity = stock, similarity

    def forward(
        self, pred_dist, pred_bboxes, anchor_points, target_bboxes, target_scores, scores_sum, fg_mask, *rest
    ) -> tuple[Tensor, Tensor]:
        """Return (box loss, distribution loss), weighted and normalised as ultralytics does."""
        stock = (pred_dist, pred_bboxes, anchor_points, target_bboxes, target_scores, scores_sum, fg_mask, *rest)
        _, distribution = self.stock(*stock)
        weight = target_scores.sum(-1)[fg_mask]
        similarity = self.similarity(pred_bboxes[fg_mask], target_bboxes[fg_mask])
        return ((1 - similarity) * weight).sum() / scores_sum, distribution


def use_similarity(model: nn.Module, similarity: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Give a DetectionModel a criterion whose box loss is 1 - similarity (also both of an end-to-end model's)."""
    model = getattr(model, "module", model)  # DistributedDataParallel
    criterion = model.init_criterion()
    parts = [criterion] if hasattr(criterion, "bbox_loss") else [criterion.one2many, criterion.one2one]
    for part in parts:
        part.bbox_loss = SimilarityBoxLoss(part.bbox_loss, similarity)
    model.criterion = criterion
