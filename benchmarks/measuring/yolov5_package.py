"""The yolov5 package as one more peer: ultralytics/yolov3, which is no package, has its loss and its data set from it.

docs/performance.md says how to install it.
"""

import argparse
import importlib.util

from utils.errors import UserError

YOLOV5 = "yolov5"


def add_flag(parser: argparse.ArgumentParser) -> None:
    """Add --yolov5."""
    parser.add_argument("--yolov5", action="store_true", help="the yolov5 package as one more side")


def check_flag(settings: argparse.Namespace) -> None:
    """Raise UserError where --yolov5 is given and the package is not there."""
    if settings.yolov5 and not importlib.util.find_spec("yolov5"):
        raise UserError("--yolov5: no such package here; docs/performance.md says how to install it")
