"""Trains YOLOv3, RetinaNet, SSD or Faster R-CNN with a chosen box loss and target assignment.

python train.py --loss sca                              the demo: drawn shapes, minutes on two CPU cores
python train.py --data my.yaml --loss giou --assign ggiou --imgsz 640 --epochs 100
python train.py --data my.yaml --hyp sca --set box=0.07 --set sca_alpha=1.0
python train.py --resume                                the newest run, from where it stopped
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from utils.config.flags import Parser, add_knobs
from utils.config.knobs import ASSIGNER_NAMES, ENCODED_LOSSES, SHOWN_LOSSES, Hyperparameters, RunConfig
from utils.errors import run_command

ALIASES = {"batch_size": ["--batch"], "compiled": ["--compile"], "imgsz": ["--img", "--img-size"]}


def parse_flags(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Parse the flags that were given; UserError for a wrong one."""
    parser = Parser(prog="train.py", usage="python train.py [flags]", description=(__doc__ or "").splitlines()[0])
    choice = parser.add_argument_group("loss and assignment")
    others = "torchvision's detectors have their own"
    choice.add_argument(
        "--loss",
        metavar="|".join(SHOWN_LOSSES + ENCODED_LOSSES),
        help=f"box loss, hyperparameter box_loss (default {Hyperparameters.box_loss}; {others})",
    )
    choice.add_argument(
        "--assign",
        metavar="|".join(ASSIGNER_NAMES),
        help=f"target assignment, hyperparameter assigner (default {Hyperparameters.assigner}; {others})",
    )
    choice.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="any hyperparameter or model key; repeatable"
    )
    parser.add_argument(
        "--resume",
        nargs="?",
        const="newest",
        metavar="PATH",
        help="go on with an interrupted run: its folder or last.pt (default: the newest run); --epochs N extends it",
    )
    add_knobs(parser.add_argument_group("run"), RunConfig, ALIASES)
    return vars(parser.parse_args(arguments))


def train(**flags: Any) -> Path:
    """Train with the flags of the command and return the run folder.

    Args:
        flags: The flags with underscores for dashes, such as `data="mydata", epochs=100`.

    Returns:
        The run folder, with weights/best.pt and results.csv in it.

    Raises:
        UserError: A flag, a file or the data set is wrong; the message is one line.
        DivergedError: The loss is no longer finite.
    """
    from engine.settings.configure import plan_run
    from engine.settings.kernels_ahead import compile_before_torch

    if flags.get("resume"):
        from engine.train.resume import resume

        return resume(flags)
    plan = plan_run(flags, compile_before_torch)
    # Only now torch: whatever is wrong with the flags and the YAML files has been said already.
    from engine.train.resume import resume_after_restart
    from engine.train.run import run

    return resume_after_restart(plan) or run(plan)


def main() -> int:
    """Run the command: exit code 0 when done, 2 for wrong input, 3 when training diverged."""
    train(**parse_flags())
    return 0


if __name__ == "__main__":
    run_command(main)
