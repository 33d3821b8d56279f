"""Samples and batches: their geometry, that they repeat exactly, and what a broken photo does."""

import logging
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from data.augment.augmentation import Augmentation
from data.dataset import DetectionDataset, cache_bytes, scaled_sizes
from data.labels.index import load_labels
from data.loader import EpochSampler, build_loader, collate
from data.sampling import epoch_order, repeated
from tests.paths import SHARED_DATA, needs_shared_data
from utils.errors import UserError
from utils.letterbox import PADDING, Letterbox

SIZE = (96, 128)
SHAPES = [(60, 80), (150, 90), (96, 128), (64, 200), (33, 47), (300, 300), (100, 50)]


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """Seven photos, black with one white square that has a label; the third one has none."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    images, labels = [], []
    for i, (height, width) in enumerate(SHAPES):
        photo = rng.integers(0, 40, (height, width, 3), np.uint8)
        if i != 2:
            photo[height // 4 : height // 2, width // 4 : width // 2] = 255
        images.append(folder / f"{i}.png")
        labels.append(folder / f"{i}.txt")
        Image.fromarray(photo).save(images[-1])
        y1, x1, y2, x2 = height // 4 / height, width // 4 / width, height // 2 / height, width // 2 / width
        text = f"{i % 3} {(x1 + x2) / 2} {(y1 + y2) / 2} {x2 - x1} {y2 - y1}\n"
        labels[-1].write_text("" if i == 2 else text)
    return load_labels(images, labels, 3, folder / "cache")


@pytest.fixture
def broken_index(index, tmp_path):
    """The same with a photo, the second, that has turned to rubbish since its labels were read."""
    path = tmp_path / "broken.png"
    path.write_bytes(b"rubbish")
    return replace(index, images=(index.images[0], str(path), *index.images[2:]))


def equal(first, second) -> bool:
    """Whether two samples or batches are the same to the last bit."""
    if isinstance(first, torch.Tensor):
        return first.shape == second.shape and first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, (tuple, list)):
        return len(first) == len(second) and all(map(equal, first, second))
    return first == second


def test_an_evaluation_sample_is_the_letterboxed_photo(index):
    dataset = DetectionDataset(index, SIZE)
    for i, shape in enumerate(SHAPES):
        image, boxes, labels, row, letterbox = dataset[i]
        assert (image.shape, image.dtype) == ((3, *SIZE), torch.uint8)
        assert (row, letterbox) == (i, Letterbox.fit(shape, SIZE))
        photo = np.asarray(Image.open(index.images[i]).convert("RGB"))
        np.testing.assert_array_equal(image.permute(1, 2, 0), letterbox.apply(photo))
        np.testing.assert_allclose(letterbox.undo(boxes), index.of(i)[0], atol=1e-4)
        assert (boxes.dtype, labels.dtype) == (torch.float32, torch.int64)
        assert labels.tolist() == index.of(i)[1].tolist()


@pytest.mark.parametrize("mosaic", [0, 1])
def test_boxes_sit_on_the_white_squares(index, mosaic):
    dataset = DetectionDataset(index, SIZE, Augmentation(mosaic=mosaic, hsv_h=0, hsv_s=0, hsv_v=0, scale=0.1))
    seen = 0
    for epoch in range(6):
        for i in range(len(index)):
            image, boxes, labels, row, letterbox = dataset[epoch, i]
            assert letterbox is None
            assert row == i
            assert (boxes[:, :2] >= 0).all()
            assert (boxes[:, 2:] <= torch.tensor([SIZE[1], SIZE[0]])).all()
            white = (image > 150).all(0).float()
            rest = white.clone()
            for x1, y1, x2, y2 in boxes.tolist():
                inside = white[int(y1 + 1.5) : int(y2 - 0.5), int(x1 + 1.5) : int(x2 - 0.5)]
                assert inside.numel() == 0 or inside.mean() > 0.95
                rest[max(int(y1) - 2, 0) : int(y2) + 3, max(int(x1) - 2, 0) : int(x2) + 3] = 0
                seen += 1
            # White that no box covers belongs to squares of which too little shows.
            assert rest.sum() < 60
    assert seen > 25


SSD = Augmentation(mosaic=0, zoom_out=0.5, iou_crop=1)


@pytest.mark.parametrize("augmentation", [None, Augmentation(mixup=0.5), Augmentation(mosaic=0.5, degrees=5), SSD])
@pytest.mark.parametrize("cache", [False, True])
def test_a_sample_depends_on_seed_epoch_and_index_alone(index, augmentation, cache):
    first = DetectionDataset(index, SIZE, augmentation, 7)
    second = DetectionDataset(index, SIZE, augmentation, 7, cache)
    samples = {(epoch, i): first[epoch, i] for epoch in range(3) for i in range(len(index))}
    for key in reversed(samples):
        assert equal(second[key], samples[key])
    assert equal(first[4], samples[0, 4])
    if augmentation is not None:
        assert not equal(samples[0, 4].image, samples[1, 4].image)
        assert not equal(DetectionDataset(index, SIZE, augmentation, 8)[0, 4].image, samples[0, 4].image)


@pytest.mark.parametrize("cache", [False, True])
def test_in_groups_a_sample_depends_on_seed_epoch_and_index_alone(index, cache):
    first = DetectionDataset(index, SIZE, Augmentation(mixup=0.5), 7, False, group=3)
    second = DetectionDataset(index, SIZE, Augmentation(mixup=0.5), 7, cache, group=3)
    samples = {(epoch, i): first[epoch, i] for epoch in range(3) for i in range(len(index))}
    for key in reversed(samples):
        assert equal(second[key], samples[key])
    assert len(first._decoded) == 3


def test_the_partners_of_a_batch_are_the_batch_and_each_photo_is_decoded_once(index, monkeypatch):
    dataset = DetectionDataset(index, SIZE, Augmentation(), 7, group=3)
    decoded, load = [], dataset._load
    monkeypatch.setattr(dataset, "_load", lambda row: decoded.append(row) or load(row))
    for epoch in range(4):
        order = epoch_order(len(index), 7, epoch).tolist()
        for batch in (order[:3], order[3:6]):
            decoded.clear()
            dataset._decoded.clear()
            for row in batch:
                assert set(dataset.partners.of(epoch, row)) == set(batch)
                dataset[epoch, row]
            assert sorted(decoded) == sorted(batch)
        # The last group is a full one too.
        assert set(dataset.partners.of(epoch, order[6])) == set(order[4:])
    sampler = EpochSampler(len(index), 7, shuffle=True)
    sampler.set_epoch(3)
    assert list(sampler) == [(3, row) for row in order]


@needs_shared_data
@pytest.mark.parametrize("size", [300, 200, 100])
def test_photos_decoded_at_reduced_scale_are_nearer_to_area_averages_than_bilinear_ones(size, tmp_path):
    images = sorted((SHARED_DATA / "coco128" / "images" / "train2017").glob("*.jpg"))[:8]
    labels = [SHARED_DATA / "coco128" / "labels" / "train2017" / f"{image.stem}.txt" for image in images]
    index = load_labels(images, labels, 80, tmp_path)
    training, exact = (DetectionDataset(index, (size, size), settings) for settings in (Augmentation(), None))
    differences = []
    for row in range(len(index)):
        oracle = exact._photo(row).astype(int)
        bilinear = exact._fit(row).resize(np.asarray(Image.open(images[row]).convert("RGB")), cv2.INTER_LINEAR)
        differences.append([np.abs(each - oracle).mean() for each in (training._photo(row), bilinear)])
    reduced, bilinear = np.mean(differences, axis=0)
    assert reduced < min(bilinear, 5)


def test_mosaic_and_mixup_end_at_the_given_epoch(index):
    closing = Augmentation(mixup=1, close_mosaic_from=2)
    dataset = DetectionDataset(index, SIZE, closing, 0)
    never = DetectionDataset(index, SIZE, replace(closing, close_mosaic_from=None), 0)
    single = DetectionDataset(index, SIZE, replace(closing, close_mosaic_from=0), 0)
    assert all(equal(dataset[1, i], never[1, i]) for i in range(7))
    assert all(equal(dataset[epoch, i], single[epoch, i]) for i in range(7) for epoch in (2, 3))
    assert not any(equal(dataset[1, i], single[1, i]) for i in range(7))
    assert all(len(dataset[2, i].labels) <= 1 for i in range(7))


def test_the_cache_is_as_large_as_foretold_and_is_not_written_to(index):
    dataset = DetectionDataset(index, SIZE, Augmentation(), cache=True)
    assert (
        cache_bytes(index, SIZE)
        == dataset._cache.numel()
        == sum(3 * np.prod(Letterbox.fit(shape, SIZE).inner) for shape in SHAPES)
    )
    before = dataset._cache.clone()
    for i in range(len(index)):
        dataset[3, i].image.fill_(0)
    assert torch.equal(dataset._cache, before)


@pytest.mark.parametrize("image_size", [(320, 320), (256, 640), (33, 7)])
def test_scaled_sizes_are_the_letterboxes(index, image_size):
    sizes = np.random.default_rng(0).integers(1, 4000, (3000, 2)).astype(np.int32)
    sizes[0], sizes[1], sizes[2] = (5000, 1), (1, 5000), (3, 6)
    found = scaled_sizes(replace(index, sizes=sizes), image_size)
    assert found.tolist() == [list(Letterbox.fit(size, image_size).inner) for size in sizes.tolist()]


def test_a_repeated_photo_is_kept_once(index, broken_index):
    longer = repeated(index, 1.0)
    assert len(longer) > len(index)
    assert cache_bytes(longer, SIZE) == cache_bytes(index, SIZE)
    for augmentation in (None, Augmentation()):
        kept, read = (DetectionDataset(longer, SIZE, augmentation, cache=cache) for cache in (True, False))
        assert kept._cache.numel() == cache_bytes(index, SIZE)
        assert all(equal(kept[1, i], read[1, i]) for i in range(len(longer)))
    broken = repeated(broken_index, 1.0)
    known = DetectionDataset(broken, SIZE, cache=True).undecodable
    assert known == [image for image in broken.images if image == broken_index.images[1]]


@pytest.mark.parametrize("cache", [False, True])
def test_a_broken_photo_is_replaced_in_training_and_named_once(broken_index, cache, caplog):
    with caplog.at_level(logging.WARNING):
        dataset = DetectionDataset(broken_index, SIZE, Augmentation(mosaic=0.5), 0, cache)
        rows = [dataset[epoch, 1].index for epoch in range(40)]
        others = [dataset[epoch, 0].index for epoch in range(40)]
    assert set(rows) == {0, 2, 3, 4, 5, 6}
    assert set(others) == {0}
    assert dataset.undecodable == [broken_index.images[1]]
    assert [broken_index.images[1] in record.getMessage() for record in caplog.records] == [True]


@pytest.mark.parametrize("cache", [False, True])
def test_a_broken_photo_stays_in_evaluation_with_its_truths(broken_index, cache, caplog):
    dataset = DetectionDataset(broken_index, SIZE, cache=cache)
    image, boxes, labels, row, letterbox = dataset[1]
    assert (image == PADDING).all()
    assert (len(boxes), labels.tolist(), row) == (1, [1], 1)
    assert letterbox == Letterbox.fit(SHAPES[1], SIZE)
    assert dataset.undecodable == [broken_index.images[1]]
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith("image measured as a grey picture, its objects count as missed: ")
    assert broken_index.images[1] in said


def test_a_photo_that_has_changed_its_size_counts_as_broken(index, caplog):
    swapped = replace(index, images=(index.images[1], *index.images[1:]))
    assert (DetectionDataset(swapped, SIZE)[0].image == PADDING).all()
    assert "another size" in caplog.text


def test_nothing_but_broken_photos_is_the_users_error(broken_index):
    only = replace(broken_index, images=broken_index.images[1:2] * 7)
    with pytest.raises(UserError, match="cannot be decoded"):
        DetectionDataset(only, SIZE, Augmentation())[0, 0]


def test_collate_keeps_each_truth_with_its_image(index):
    dataset = DetectionDataset(index, SIZE)
    samples = [dataset[i] for i in (2, 4, 0, 2)]
    batch = collate(dataset.__getitems__([2, 4, 0, 2]))
    assert (batch.images.shape, batch.images.dtype) == ((4, 3, *SIZE), torch.uint8)
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert batch.targets.image.tolist() == [1, 2]
    assert batch.targets.labels.tolist() == [1, 0]
    assert torch.equal(batch.targets.boxes, torch.cat([samples[1].boxes, samples[2].boxes]))
    assert batch.index.tolist() == [2, 4, 0, 2]
    assert batch.letterboxes == [sample.letterbox for sample in samples]
    for image, sample in zip(batch.images, samples, strict=True):
        assert torch.equal(image, sample.image)


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize(
    "settings", [{}, {"mixup": 1.0}, {"mosaic": 0.0}, {"degrees": 5.0}, {"hsv_h": 0, "hsv_s": 0, "hsv_v": 0}]
)
def test_samples_made_in_their_batch_are_the_samples(index, cache, settings):
    dataset = DetectionDataset(index, SIZE, Augmentation(**settings), 3, cache)
    keys = [(epoch, row) for epoch in (0, 1) for row in range(len(index))]
    group = dataset.__getitems__(keys)
    batch = collate(group)
    for key, image, inside in zip(keys, batch.images, group.samples, strict=True):
        alone = dataset[key]
        assert torch.equal(image, alone.image)
        assert torch.equal(inside.boxes, alone.boxes)
        # The same memory: nothing is copied.
        assert image.data_ptr() == inside.image.data_ptr()


def test_a_batch_without_any_truth(index):
    targets = collate(DetectionDataset(index, SIZE).__getitems__([2, 2])).targets
    assert (targets.boxes.shape, targets.labels.shape, targets.image.shape) == ((0, 4), (0,), (0,))
    assert (targets.boxes.dtype, targets.labels.dtype, targets.image.dtype) == (torch.float32, torch.int64, torch.int64)


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("shuffle", [False, True])
def test_batches_are_the_same_for_any_number_of_workers(index, cache, shuffle):
    dataset = DetectionDataset(index, SIZE, Augmentation(mixup=0.3, degrees=5), 1, cache)
    runs = []
    for workers in (0, 2):
        loader = build_loader(dataset, 3, workers, shuffle, seed=5)
        torch.manual_seed(workers)
        batches = []
        for epoch in (0, 1, 4):
            loader.sampler.set_epoch(epoch)
            batches += loader
        runs.append(batches)
    assert len(runs[0]) == 9
    assert equal(runs[0], runs[1])
    orders = [torch.cat([batch.index for batch in runs[0][k : k + 3]]).tolist() for k in (0, 3, 6)]
    assert all(sorted(order) == list(range(7)) for order in orders)
    assert (len(set(map(tuple, orders))) == 3) == shuffle


def test_a_loader_leaves_the_global_random_numbers_alone(index):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    list(build_loader(DetectionDataset(index, SIZE, Augmentation()), 2, 0, True, 0))
    assert torch.equal(torch.rand(4), expected)


def test_drop_last(index):
    dataset = DetectionDataset(index, SIZE)
    assert [len(batch.index) for batch in build_loader(dataset, 3, 0, False, 0, drop_last=True)] == [3, 3]
    assert len(build_loader(dataset, 3, 0, False, 0)) == 3


def test_what_workers_find_broken_the_parent_knows(broken_index):
    dataset = DetectionDataset(broken_index, SIZE)
    list(build_loader(dataset, 2, 2, False, 0))
    assert dataset.undecodable == [broken_index.images[1]]


@pytest.mark.parametrize("n", [1, 2, 7, 8, 100])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_share_the_images(n, world_size):
    for shuffle in (False, True):
        samplers = [EpochSampler(n, 3, shuffle, rank, world_size) for rank in range(world_size)]
        for sampler in samplers:
            sampler.set_epoch(2)
        shares = [list(sampler) for sampler in samplers]
        assert [len(share) for share in shares] == [len(sampler) for sampler in samplers]
        assert {epoch for share in shares for epoch, _ in share} == {2}
        rows = [row for share in shares for _, row in share]
        assert set(rows) == set(range(n))
        if shuffle:
            assert len({len(share) for share in shares}) == 1
        else:
            assert len(rows) == n


@needs_shared_data
@pytest.mark.parametrize("cache", [False, True])
def test_real_photos_survive_every_augmentation(tmp_path, cache):
    images = sorted((SHARED_DATA / "coco128" / "images" / "train2017").glob("*.jpg"))[:24]
    labels = [SHARED_DATA / "coco128" / "labels" / "train2017" / f"{image.stem}.txt" for image in images]
    index = load_labels(images, labels, 80, tmp_path)
    everything = Augmentation(degrees=10, shear=5, perspective=0.0005, flipud=0.5, mosaic=0.7, mixup=0.5)
    everything = replace(everything, zoom_out=0.5, iou_crop=0.5)
    dataset = DetectionDataset(index, (256, 320), everything, 0, cache)
    truths = 0
    for i in range(len(index)):
        image, boxes, labels_of, *_ = dataset[5, i]
        assert image.shape == (3, 256, 320)
        width, height = (boxes[:, 2:] - boxes[:, :2]).unbind(1)
        assert (width > 2).all()
        assert (height > 2).all()
        assert len(boxes) == len(labels_of)
        truths += len(boxes)
    assert truths > 100
