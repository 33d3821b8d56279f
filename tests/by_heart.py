"""Training that learns a few photos by heart, for tests that need a network which knows something."""

from pathlib import Path

from data.data_yaml import read_data_yaml
from tests.paths import SHARED_DATA
from train import train

PHOTOS = SHARED_DATA / "coco128" / "images" / "train2017"
STILL = ["mosaic=0", "scale=0", "translate=0", "fliplr=0", "hsv_h=0", "hsv_s=0", "hsv_v=0"]
FAST = ["nominal_batch=8", "lr0=0.002", "momentum=0.9", "warmup_bias_lr=0.002", "warmup_epochs=1", "ema_decay=0.95"]


def learn_by_heart(folder: Path, photos: int, size: int, epochs: int) -> Path:
    """Train YOLOv3-tiny on the first photos of coco128, which are its validation split too; return its run folder."""
    names = read_data_yaml("coco128", SHARED_DATA).names
    (folder / "photos.txt").write_text("\n".join(map(str, sorted(PHOTOS.iterdir())[:photos])))
    listed = "\n".join(f"  {number}: {name}" for number, name in enumerate(names))
    (folder / "data.yaml").write_text(f"train: photos.txt\nval: photos.txt\nnames:\n{listed}\n")
    return train(
        data=str(folder / "data.yaml"),
        project=str(folder / "runs"),
        imgsz=[size],
        batch_size=8,
        epochs=epochs,
        optimizer="adamw",
        cache=True,
        plots=False,
        workers=0,
        set=[*STILL, *FAST, "box=0.2", "cls=1.0"],
    )
