"""Turns weights that exist into a checkpoint of this project: ultralytics/yolov3 .pt, Darknet .weights.

python import_weights.py yolov3-tiny.pt
python import_weights.py yolov3.weights --cfg yolov3.cfg --names coco --output yolov3.pt
python import_weights.py darknet53.conv.74              a backbone to start from: train.py --weights
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from utils.config.flags import Parser, add_knobs, parsed
from utils.config.knobs import ImportConfig
from utils.errors import UserError, printable, run_command


def parse_flags(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Parse the flags that were given; UserError for a wrong one."""
    parser = Parser(prog="import_weights.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("weights", help="file to import; nothing in it is executed")
    add_knobs(parser, ImportConfig, {})
    return vars(parser.parse_args(arguments))


def import_weights(weights: str, **flags: Any) -> Path:
    """Write the checkpoint and return its path; UserError for weights that are none."""
    settings = parsed(ImportConfig, flags)
    output = Path(settings.output or f"{Path(weights).name.removesuffix('.pt')}.imported.pt")
    if output.is_dir():
        raise UserError(f"--output {printable(output)}: a folder: expected a file to write")
    if output.exists() and not settings.exist_ok:
        raise UserError(f"{printable(output)} exists: --exist-ok replaces it, --output writes elsewhere")
    if output.exists() and Path(weights).exists() and output.samefile(weights):
        raise UserError(f"{printable(output)}: would replace the weights themselves: name another --output")
    if not output.absolute().parent.is_dir():
        raise UserError(f"--output {printable(output)}: its folder does not exist")
    # Only now torch: a wrong flag has been answered already.
    from models.weights.read import read_weights
    from utils.checkpoint import describe, save_checkpoint

    contents = read_weights(weights, settings.cfg or None, settings.cutoff if settings.cutoff >= 0 else None)
    if settings.names:
        names = class_names(settings.names)
        if len(names) != len(contents["names"]):
            raise UserError(f"--names: {len(names)} names for a model of {len(contents['names'])} classes")
        contents["names"] = contents["config"]["names"] = names
    described = describe(contents, str(output))
    save_checkpoint(output, contents)
    print(f"{described}\nwritten to {printable(output)}")
    return output


def class_names(names: str) -> list[str]:
    """Return names separated by commas, or those of a data YAML or a built-in set; UserError where they are wrong."""
    from data.data_yaml import BUILT_IN, read_class_names

    if names.endswith((".yaml", ".yml")) or names in {path.stem for path in BUILT_IN.glob("*.yaml")}:
        return list(read_class_names(names))
    found = [printable(name.strip()) for name in names.split(",")]
    for number, name in enumerate(found):
        if not name:
            raise UserError(f"--names {printable(names)}: class {number} has no name")
        if found.index(name) < number:
            raise UserError(f"--names: classes {found.index(name)} and {number} are both called {name!r}")
    return found


def main() -> int:
    """Run the command: exit code 0 when done, 2 for wrong input."""
    import_weights(**parse_flags())
    return 0


if __name__ == "__main__":
    run_command(main)
