"""YAML files: found by path or built-in name, read safely, errors with file and line."""

from pathlib import Path
from typing import Any

import yaml

from utils.errors import UserError, nearest, printable

MAX_BYTES = 4 * 2**20


def find_yaml(name: str, folder: Path, what: str) -> Path:
    """Return the file a flag means: a path (anything with a suffix or a slash), or the name of a YAML in `folder`."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        if not path.is_file():
            raise UserError(f"{what} not found: {printable(path.absolute())}")
        return path
    built_in = folder / f"{name}.yaml"
    if not built_in.is_file():
        names = [each.stem for each in folder.glob("*.yaml")]
        raise UserError(f"no {what} named {printable(name)!r} in {folder.name}/{nearest(name, names)}")
    return built_in


class PlainLoader(yaml.SafeLoader):
    """Safe YAML without repeated keys (PyYAML would keep the last) and without merges (they can grow without bound)."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Leave merge keys (`<<`) as they are: the constructor refuses them. PyYAML calls this for each mapping."""
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    problem = f"the key {printable(key.value)!r} stands here twice"
                    raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
                seen.add(key.value)


def read_mapping(path: Path) -> dict[Any, Any]:
    """Return the mapping in a YAML file; UserError with file:line where there is none."""
    shown = printable(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"{shown}: larger than {MAX_BYTES >> 20} MiB; a short YAML mapping was expected")
        # A SafeLoader that also refuses merges and repeated keys.
        values = yaml.load(path.read_text("utf-8-sig"), Loader=PlainLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise UserError(f"{shown}{line}: not valid YAML: {printable(error.problem or error.context)}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{shown}: not valid YAML: {printable(error)}") from None
    except RecursionError:
        raise UserError(f"{shown}: not valid YAML: nested too deeply") from None
    except OSError as error:
        raise UserError(f"{shown}: cannot be read: {printable(error.strerror)}") from None
    if not isinstance(values, dict):
        raise UserError(f"{shown}: expected `key: value` lines, found {kind_of(values)}")
    return values


def kind_of(value: Any) -> str:
    """Return what a value is, without walking into it: nested aliases can be astronomically long."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if value == "":
        return "an empty text"
    kinds = {dict: "a mapping", list: "a list", str: "text", int: "a number", float: "a number"}
    return kinds.get(type(value), "a date")
