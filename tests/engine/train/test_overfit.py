"""The whole chain on real photos: YOLOv3-tiny learns 16 of them by heart."""

import json

import pytest

from data.data_yaml import read_data_yaml
from tests.paths import SHARED_DATA, needs_shared_data
from train import train

STILL = ["mosaic=0", "scale=0", "translate=0", "fliplr=0", "hsv_h=0", "hsv_s=0", "hsv_v=0"]
FAST = ["nominal_batch=8", "lr0=0.002", "momentum=0.9", "warmup_bias_lr=0.002", "warmup_epochs=1", "ema_decay=0.95"]


@pytest.mark.slow
@needs_shared_data
def test_sixteen_photos_of_coco128_by_heart(tmp_path):
    names = read_data_yaml("coco128", SHARED_DATA).names
    photos = sorted((SHARED_DATA / "coco128" / "images" / "train2017").iterdir())[:16]
    (tmp_path / "photos.txt").write_text("\n".join(map(str, photos)))
    listed = "\n".join(f"  {number}: {name}" for number, name in enumerate(names))
    (tmp_path / "data.yaml").write_text(f"train: photos.txt\nval: photos.txt\nnames:\n{listed}\n")
    folder = train(
        data=str(tmp_path / "data.yaml"),
        project=str(tmp_path / "runs"),
        imgsz=[320],
        batch_size=8,
        epochs=120,
        optimizer="adamw",
        cache=True,
        plots=False,
        set=[*STILL, *FAST, "box=0.2", "cls=1.0"],
    )
    assert json.loads((folder / "metrics.json").read_text())["ap50"] > 0.9
