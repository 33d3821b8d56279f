"""SCALoss and GGIoU's matching in torchvision's stock RetinaNet: python -m examples.torchvision_sca"""

import torch
from torchvision.models.detection import RetinaNet, retinanet_resnet50_fpn
from torchvision.models.detection.retinanet import RetinaNetRegressionHead

from alignyolo.assign.dense import match_boxes
from alignyolo.similarities.sca import sca


class SCAHead(RetinaNetRegressionHead):
    """RetinaNet's box head with SCALoss on the decoded boxes, for `model.head.regression_head`."""

    def compute_loss(self, targets, head_outputs, anchors, matched_idxs):
        losses = []
        images = zip(targets, head_outputs["bbox_regression"], anchors, matched_idxs, strict=True)
        for target, codes, boxes, match in images:
            positive = match >= 0
            predicted = self.box_coder.decode_single(codes[positive], boxes[positive])
            similarity = sca(predicted, target["boxes"][match[positive]])
            losses.append((1 - similarity).sum() / positive.sum().clamp(min=1))
        return torch.stack(losses).mean()


class GGIoURetinaNet(RetinaNet):
    """RetinaNet that matches its anchors by GGIoU at .5 and .4."""

    def compute_loss(self, targets, head_outputs, anchors):
        matches = [match_boxes(boxes, target["boxes"]) for boxes, target in zip(anchors, targets, strict=True)]
        return self.head.compute_loss(targets, head_outputs, anchors, matches)


def main() -> dict[str, torch.Tensor]:
    stock = retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=3)
    model = GGIoURetinaNet(stock.backbone, num_classes=3, min_size=256, max_size=256)
    model.head.regression_head = SCAHead(256, num_anchors=9)
    targets = [{"boxes": torch.tensor([[20.0, 30.0, 120.0, 90.0]]), "labels": torch.tensor([2])}]
    losses = model([torch.rand(3, 256, 256)], targets)
    sum(losses.values()).backward()
    return losses


if __name__ == "__main__":
    print({name: round(value.item(), 4) for name, value in main().items()})
