"""The whole chain on real photos: YOLOv3-tiny learns 16 of them by heart."""

import json

import pytest

from tests.by_heart import learn_by_heart
from tests.paths import needs_shared_data


@pytest.mark.slow
@needs_shared_data
def test_sixteen_photos_of_coco128_by_heart(tmp_path):
    folder = learn_by_heart(tmp_path, photos=16, size=320, epochs=120)
    assert json.loads((folder / "metrics.json").read_text())["ap50"] > 0.9
