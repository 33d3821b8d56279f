"""Detects objects in images, videos and streams.

python detect.py --weights best.pt --source photos/                  drawn into runs/detect/exp
python detect.py --weights best.onnx --source video.mp4 --save-csv --save-json
python detect.py --source 0                                          a webcam, with the newest run
python detect.py --weights best.pt --source photos/ --precision float32   exact; the default is bf16 where it is fast

In Python: from detect import load; model = load("best.pt"); results = model("bus.jpg")
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from utils.config.flags import Parser, add_knobs, parsed
from utils.config.knobs import DetectConfig
from utils.errors import UserError, nearest, printable, run_command

ALIASES = {"imgsz": ["--img", "--img-size"], "nms_iou": ["--iou"]}
MODEL_SETTINGS = ("imgsz", "conf", "nms_iou", "max_det", "device", "precision")  # those of `load`


def parse_flags(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Parse the flags that were given; UserError for a wrong one."""
    parser = Parser(prog="detect.py", description=(__doc__ or "").splitlines()[0])
    add_knobs(parser, DetectConfig, ALIASES)
    return vars(parser.parse_args(arguments))


def load(weights: str | Path, **settings: Any) -> "Model":  # noqa: F821 - imported with torch below
    """Return a model to call with images, from weights or an exported file.

    Args:
        weights: best.pt, an exported file or folder, or weights of Darknet or ultralytics.
        settings: imgsz, conf, nms_iou, max_det, device and precision, as the flags of detect.py.

    Returns:
        A model; `model("photo.jpg")` gives a list of ultralytics' Results.

    Raises:
        UserError: The weights are missing or none of these, or a setting is wrong.
    """
    for name in settings:
        if name not in MODEL_SETTINGS:
            raise UserError(f"load: unknown setting {printable(name)!r}{nearest(name, MODEL_SETTINGS)}")
    values = parsed(DetectConfig, settings)
    # Only now torch: a wrong setting has been answered already.
    from engine.predict.model import load as load_model

    return load_model(weights, **{name: getattr(values, name) for name in MODEL_SETTINGS})


def detect(**flags: Any) -> Path:
    """Detect with the flags of the command and return the run folder.

    Args:
        flags: The flags with underscores for dashes, such as `source="photos", conf=0.4`.

    Returns:
        The run folder, with the drawn photos in it.

    Raises:
        UserError: A flag, the weights or the source is wrong; the message is one line.
        CommandError: All is done, but a drawn video could not be written in full.
    """
    settings = parsed(DetectConfig, flags)
    # Only now torch: a wrong flag has been answered already.
    from engine.predict.run import run

    return run(settings)


def main() -> int:
    """Run the command: exit code 0 when done, 2 for wrong input."""
    detect(**parse_flags())
    return 0


if __name__ == "__main__":
    run_command(main)
