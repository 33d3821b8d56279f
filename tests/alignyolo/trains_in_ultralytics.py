"""Trains and resumes YOLOs in whatever ultralytics is on the path, with our parts and without, and says what came out.

python tests/alignyolo/trains_in_ultralytics.py DATA.yaml FOLDER MODEL.yaml [--with-us [--loss NAME] [--assign NAME]]

Run by the tests in processes of their own, and by hand with a data set: prints one line of JSON. `--with-us` uses the
plug-in, even where nothing is asked of it; `--stop` ends the run after its first epoch and resumes it; `--spawned`
starts it from the file that ultralytics writes for its processes on other GPUs. It imports nothing else of the project.
"""

import argparse
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def digest(path: Path) -> str:
    """The check sum of all tensors of a checkpoint's model."""
    import torch

    # Our own run's file: ultralytics pickles its modules, which weights_only refuses.
    loaded = torch.load(path, map_location="cpu", weights_only=False)
    model = loaded.get("ema") or loaded["model"]
    total = hashlib.sha256()
    for name, value in sorted(model.float().state_dict().items()):
        total.update(name.encode() + value.numpy().tobytes())
    return total.hexdigest()


def after_one_epoch(trainer: Any) -> None:
    """A callback that stops a run as if it had been interrupted."""
    if trainer.epoch == 1:
        raise KeyboardInterrupt


def spawn(settings: dict[str, Any]) -> None:
    """Train in a process that knows nothing but the file which ultralytics writes for one on another GPU."""
    from ultralytics.utils.dist import generate_ddp_file

    from alignyolo.ultralytics import AlignTrainer

    subprocess.run([sys.executable, generate_ddp_file(AlignTrainer(overrides=settings))], check=True, stdout=sys.stderr)


def train(settings: argparse.Namespace) -> dict[str, Any]:
    """Train two epochs, validate, and load the checkpoint again."""
    import ultralytics
    from ultralytics import YOLO

    def ready(model: Any, **choices: Any) -> Any:
        if not settings.with_us:
            return model
        from alignyolo.ultralytics import use

        return use(model, **choices)

    model = ready(YOLO(settings.model), loss=settings.loss, assign=settings.assign)
    small = {"epochs": 2, "imgsz": settings.imgsz, "batch": 4, "workers": 0, "device": "cpu", "amp": False, "seed": 1}
    place = {"data": settings.data, "project": settings.folder, "name": "run", "exist_ok": True, "plots": False}
    last = Path(settings.folder) / "run" / "weights" / "last.pt"
    if settings.spawned:
        spawn({"model": settings.model, "align_loss": settings.loss, "align_assign": settings.assign, **small, **place})
    elif settings.stop:
        model.add_callback("on_train_epoch_start", after_one_epoch)
        try:
            model.train(**small, **place)
        except KeyboardInterrupt:
            model = ready(YOLO(last))
            model.train(resume=True)
    else:
        model.train(**small, **place)
    parts = getattr(getattr(model.trainer, "model", None), "criterion", None)
    parts = [parts] if hasattr(parts, "bbox_loss") else [parts.one2many, parts.one2one] if parts else []
    again = YOLO(last)
    kept = again.ckpt["train_args"]
    return {
        "version": ultralytics.__version__,
        "bits": digest(last),
        "losses": [type(part.bbox_loss).__name__ for part in parts],
        "assigners": [type(part.assigner).__name__ for part in parts],
        "asked": {key: kept[key] for key in ("align_loss", "align_assign") if key in kept},
        "map50": float(again.val(data=settings.data, imgsz=settings.imgsz, device="cpu", plots=False).box.map50),
    }


def main() -> None:
    """Read the arguments and print what came out."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("folder")
    parser.add_argument("model")
    parser.add_argument("--loss")
    parser.add_argument("--assign")
    parser.add_argument("--stop", action="store_true")
    parser.add_argument("--spawned", action="store_true")
    parser.add_argument("--with-us", action="store_true", help="import the plug-in, even where nothing is asked for")
    parser.add_argument("--imgsz", type=int, default=96)
    print(json.dumps(train(parser.parse_args())))


if __name__ == "__main__":
    main()
