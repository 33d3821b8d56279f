"""Truths of a batch joined into one ragged triple, and sent to a device by its name."""

import pytest
import torch

from alignyolo.assign.assignment import Assignment
from alignyolo.targets import Targets


def test_images_are_joined_in_order():
    boxes = [torch.arange(8.0).view(2, 4), torch.zeros(0, 4), torch.ones(1, 4)]
    targets = Targets.stack(boxes, [torch.tensor([5, 6]), torch.zeros(0), torch.tensor([7.0])])
    assert torch.equal(targets.boxes, torch.cat(boxes))
    assert targets.labels.tolist() == [5, 6, 7] and targets.labels.dtype == torch.long
    assert targets.image.tolist() == [0, 0, 2]


def test_no_images_give_no_truths():
    targets = Targets.stack([], [])
    assert [part.shape for part in targets] == [(0, 4), (0,), (0,)]
    assert [part.dtype for part in targets] == [torch.float32, torch.long, torch.long]


@pytest.mark.parametrize(
    ("boxes", "labels", "message"),
    [
        ([1, 0], [0, 1], "image 0 has 1 boxes and 0 labels"),
        ([1, 2], [1, 1], "image 1 has 2 boxes and 1 labels"),
        ([1, 1], [1], "2 and 1 tensors"),
        ([], [1], "0 and 1 tensors"),
    ],
)
def test_boxes_and_labels_of_other_numbers_are_refused(boxes, labels, message):
    """Also where the sums agree: the box would go to another image."""
    with pytest.raises(ValueError, match=message):
        Targets.stack([torch.ones(count, 4) for count in boxes], [torch.zeros(count) for count in labels])


def test_truths_stay_on_their_device():
    """The meta device stands for one that is not the CPU."""
    targets = Targets.stack([torch.ones(2, 4, device="meta")], [torch.zeros(2, device="meta")])
    assert {part.device.type for part in targets} == {"meta"}
    assert targets.image.shape == (2,)


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu"), "meta"])
def test_a_device_can_be_named(device):
    targets = Targets.stack([torch.ones(2, 4)], [torch.zeros(2)]).to(device)
    assert {part.device for part in targets} == {torch.device(device)}
    number, mask = torch.zeros(2).long(), torch.zeros(2, dtype=torch.bool)
    sent = Assignment(number, number, number, torch.ones(2), mask[None], mask).to(device)
    assert {part.device for part in sent if part is not None} == {torch.device(device)}
    assert sent.served is None
