"""The sides of the data pipeline's benchmark."""

from benchmarks import data_pipeline


def test_the_peers_get_our_augmentation():
    shared = data_pipeline.same_augmentation()
    assert (shared["translate"], shared["scale"], shared["hsv_s"]) == (0.1, 0.5, 0.7)
    assert (shared["fliplr"], shared["mosaic"], shared["mixup"]) == (0.5, 1.0, 0.0)
