"""Exports a trained detector to other formats; every file is run and compared with PyTorch.

python export.py --weights best.pt                                   best.onnx, as ultralytics' exporter lays it out
python export.py --weights best.pt --format onnx openvino --dynamic
python export.py --weights best.pt --layout nms --imgsz 416
trtexec --onnx=best.onnx --saveEngine=best.engine --fp16             TensorRT, from the ONNX file
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from utils.config.export_flags import check_combination, check_formats
from utils.config.flags import Parser, add_knobs, parsed
from utils.config.knobs import ExportConfig
from utils.errors import run_command

ALIASES = {"imgsz": ["--img", "--img-size"], "batch_size": ["--batch"]}


def parse_flags(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Parse the flags that were given; UserError for a wrong one."""
    parser = Parser(prog="export.py", description=(__doc__ or "").splitlines()[0])
    add_knobs(parser, ExportConfig, ALIASES)
    return vars(parser.parse_args(arguments))


def export(**flags: Any) -> list[Path]:
    """Export with the flags of the command and return the files.

    Args:
        flags: The flags with underscores for dashes, such as `weights="best.pt", format=["onnx"]`.

    Returns:
        The files and folders that were written.

    Raises:
        UserError: A flag or the weights are wrong, or a package is missing; the message is one line.
        ExportMismatch: A file computes something else than PyTorch; it is removed.
    """
    check_formats(flags.get("format", ()))
    settings = parsed(ExportConfig, flags)
    check_combination(settings)
    # Only now torch: a wrong flag has been answered already.
    from engine.export.run import run

    return run(settings)


def main() -> int:
    """Run the command: exit code 0 when done, 2 for wrong input, 4 when an export does not match."""
    export(**parse_flags())
    return 0


if __name__ == "__main__":
    run_command(main)
