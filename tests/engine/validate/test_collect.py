"""What a validation collects beside the detections."""

import numpy as np
import pytest
import torch

from data.dataset import DetectionDataset
from data.labels.index import load_labels
from data.loader import build_loader
from engine.validate.collect import collect
from utils.drawing.draw import write_image


class Nothing(torch.nn.Module):
    """A stand-in for a detector that finds nothing."""

    def forward(self, images):
        return [{"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0)} for _ in images]


@pytest.mark.parametrize("workers", [0, 2])
def test_photos_that_cannot_be_decoded_are_counted(workers, tmp_path):
    """Their objects count as missed: who reads metrics.json must be able to see that."""
    photos = [tmp_path / f"{number}.png" for number in range(5)]
    for number, photo in enumerate(photos):
        write_image(photo, np.random.default_rng(number).integers(0, 256, (60, 80, 3), np.uint8))
        photo.with_suffix(".txt").write_text("0 .5 .5 .4 .4\n")
        if number % 2:
            photo.write_bytes(photo.read_bytes()[:200])
    index = load_labels(photos, [photo.with_suffix(".txt") for photo in photos], 1, tmp_path / "cache")
    loader = build_loader(DetectionDataset(index, (64, 64)), 2, workers, shuffle=False, seed=0)
    counts = collect(Nothing(), loader, index, ("thing",), torch.device("cpu")).compute().counts
    assert (counts["images"], counts["undecodable_images"], counts["labels"]) == (5, 2, 5)
