"""Validates a trained detector with COCO's metrics on any data set.

python val.py                                           the newest run, on its own validation split
python val.py --weights runs/train/exp/weights/best.pt --split test
python val.py --weights best.pt --data other.yaml --imgsz 640
python val.py --weights best.onnx --data my.yaml        any file of export.py
python val.py --weights best.pt --precision bf16        what detect.py computes in where the device has it
"""

from collections.abc import Sequence
from typing import Any

from utils.config.flags import Parser, add_knobs, parsed
from utils.config.knobs import ValConfig
from utils.errors import run_command

ALIASES = {"batch_size": ["--batch"], "imgsz": ["--img", "--img-size"]}


def parse_flags(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Parse the flags that were given; UserError for a wrong one."""
    parser = Parser(prog="val.py", usage="python val.py [flags]", description=(__doc__ or "").splitlines()[0])
    add_knobs(parser, ValConfig, ALIASES)
    return vars(parser.parse_args(arguments))


def validate(**flags: Any) -> "Metrics":  # noqa: F821 - imported with torch below
    """Validate with the flags of the command and return the metrics.

    Args:
        flags: The flags with underscores for dashes, such as `weights="best.pt", split="test"`.

    Returns:
        The metrics, overall and by class.

    Raises:
        UserError: A flag, a file or the data set is wrong; the message is one line.
    """
    settings = parsed(ValConfig, flags)
    # Only now torch: a wrong flag has been answered already.
    from engine.validate.run import run

    return run(settings)


def main() -> int:
    """Run the command: exit code 0 when done, 2 for wrong input."""
    validate(**parse_flags())
    return 0


if __name__ == "__main__":
    run_command(main)
