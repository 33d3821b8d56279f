"""Tables of every command's flags, from its own parser, and of every setting, from its `knob`."""

import argparse
import dataclasses
import re
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any, get_args
from unittest import mock

from alignyolo.registry import BASE_SIMILARITIES, WRAPPERS
from docs.generate.choices import markdown_table
from engine.settings.used_settings import readers_of
from utils.config.flags import Parser
from utils.config.knobs import Hyperparameters, ModelConfig, TorchvisionConfig

# Module and what one types, in the order of the page; a command that is not there yet is left out.
COMMANDS = {
    "train": "python train.py",
    "val": "python val.py",
    "detect": "python detect.py",
    "export": "python export.py",
    "tune": "python tune.py",
    "convert": "python convert.py",
    "import_weights": "python import_weights.py",
    "data.check": "python -m data.check",
    "data.download": "python -m data.download",
    "studies.__main__": "python -m studies",
    "studies.compare": "python -m studies.compare",
    "studies.combine": "python -m studies.combine",
    "studies.in_ultralytics": "python -m studies.in_ultralytics",
    "studies.scores": "python -m studies.scores",
    "studies.zoo": "python -m studies.zoo",
}


ASSIGNER_OF = " of "  # between an assigner and a family in a reader's title


class _Caught(Exception):
    """Carries a parser out of the function that made it."""

    def __init__(self, parser: argparse.ArgumentParser):
        super().__init__()
        self.parser = parser


def commands() -> dict[str, Callable[..., Any]]:
    """Return what parses the flags of each command that there is, by what one types."""
    found = {}
    for module, typed in COMMANDS.items():
        if find_spec(module) is not None:
            source = import_module(module)
            found[typed] = getattr(source, "parse_flags", None) or source.main
    return found


def parser_of(parse: Callable[..., Any]) -> argparse.ArgumentParser:
    """Return the parser that a command builds, without running the command."""

    def catch(self: argparse.ArgumentParser, *_: Any, **__: Any) -> None:
        raise _Caught(self)

    with mock.patch.multiple(Parser, parse_args=catch, parse_known_args=catch):
        try:
            parse([])
        except _Caught as caught:
            return caught.parser
    raise TypeError(f"{parse} builds no parser")


def parses(typed: str, arguments: list[str]) -> None:
    """Parse the flags of a command, and leave with its error where they are wrong; the command does not run."""
    parser = parser_of(commands()[typed])
    _, unknown = parser.parse_known_args(arguments)
    if unknown and typed not in ("python -m studies.compare", "python tune.py"):
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if unknown:
        # What they do not know goes to train.py.
        parses("python train.py", unknown)


def command_sections() -> dict[str, Callable[[], str]]:
    """Return what writes each command's section, by the name of its block: what it is for, examples, and its flags."""

    def maker(typed: str, parse: Callable[..., Any]) -> Callable[[], str]:
        return lambda: _section(typed, parse)

    return {heading(typed): maker(typed, parse) for typed, parse in commands().items()}


def heading(typed: str) -> str:
    """Return a command's heading on the page of commands: what one types without `python`."""
    return typed.removeprefix("python ")


def _section(typed: str, parse: Callable[..., Any]) -> str:
    source = import_module(parse.__module__)
    first, *rest = (source.__doc__ or "").strip().split("\n\n")
    parts = [first.replace("\n", " ")]
    parts += [f"```\n{commented(each)}\n```" for each in rest if each.startswith("python")]
    parser = parser_of(parse)
    parts += _flags(parser)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {each.dest: each.help for each in action._choices_actions}
            for name, inner in action.choices.items():
                parts += [f"### {heading(typed)} {name}", helps.get(name) or "", *_flags(inner)]
    return "\n\n".join(part for part in parts if part)


def commented(examples: str) -> str:
    """Turn what a docstring explains behind a command into a shell's comment."""
    return re.sub(r"(\S) {3,}(?=\S)(.*)$", r"\1   # \2", examples, flags=re.MULTILINE)


def _flags(parser: argparse.ArgumentParser) -> list[str]:
    shown = [action for group in reversed(parser._action_groups) for action in group._group_actions]
    rows = [_flag(parser, action) for action in shown if _is_shown(action)]
    return [markdown_table(("flag", "what it does"), rows)] if rows else []


def _is_shown(action: argparse.Action) -> bool:
    hidden = (argparse._HelpAction, argparse._SubParsersAction)
    return action.help is not argparse.SUPPRESS and not isinstance(action, hidden)


def _flag(parser: argparse.ArgumentParser, action: argparse.Action) -> tuple[str, str]:
    names = [f"`{name}`" for name in action.option_strings] or [f"`{action.metavar or action.dest}`"]
    known = SimpleNamespace(**{**vars(action), "prog": parser.prog})
    meaning = (action.help or "") % vars(known)
    value = ""
    if action.option_strings and action.nargs != 0 and not isinstance(action, argparse.BooleanOptionalAction):
        metavar = action.metavar or "|".join(map(str, action.choices or ())) or action.dest.upper()
        value = metavar if isinstance(metavar, str) else " ".join(metavar)
    if "|" in value:
        # A table's cell cannot hold a bar in code.
        return ", ".join(names), ", ".join(f"`{each}`" for each in value.split("|")) + f": {meaning}"
    return ", ".join(names) + (f" `{value}`" if value else ""), meaning


def hyperparameters() -> str:
    """Write the table of every hyperparameter: key, default, range, meaning, and the part that reads it."""
    return _knobs(Hyperparameters)


def yolov3_keys() -> str:
    """Write the table of the keys of YOLOv3's model YAML."""
    return _knobs(ModelConfig)


def torchvision_keys() -> str:
    """Write the table of the keys of torchvision's model YAML."""
    return _knobs(TorchvisionConfig)


def _knobs(kind: type) -> str:
    rows = [
        (
            f"`{knob.name}`",
            _shown(knob.default),
            _range(knob),
            knob.metadata["meaning"],
            _readers(knob.name),
        )
        for knob in dataclasses.fields(kind)
    ]
    return markdown_table(("key", "default", "range", "meaning", "read by"), rows)


def _readers(key: str) -> str:
    """Name the parts that read a key; a loss with something before its name goes without saying where it reads too."""
    found = readers_of(key).split(" or ")
    for prefix in WRAPPERS:
        composed = [each for each in found if each.startswith(f"--loss {prefix}_")]
        if len(composed) == len(BASE_SIMILARITIES):
            found.append(f"--loss {prefix}_...")
        found = [each for each in found if each not in composed]
    return " or ".join([*(each for each in found if ASSIGNER_OF not in each), *_by_family(found)])


def _by_family(readers: list[str]) -> list[str]:
    """Join `--assign iou of YOLOv3` and its like: families that read a key with the same assigners share a line."""
    assigners: dict[str, list[str]] = {}
    for each in readers:
        if ASSIGNER_OF in each:
            name, family = each.removeprefix("--assign ").split(ASSIGNER_OF, 1)
            assigners.setdefault(family, []).append(name)
    families: dict[str, list[str]] = {}
    for family, names in assigners.items():
        families.setdefault(", ".join(names), []).append(family)
    return [f"--assign {names}{ASSIGNER_OF}{', '.join(each)}" for names, each in families.items()]


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return str(value)


def _range(knob: dataclasses.Field) -> str:
    low, high, choices = (knob.metadata[name] for name in ("low", "high", "shown"))
    number = "" if low is None else f"{low:g} or more" if high is None else f"{low:g} to {high:g}"
    if low is None and float in get_args(knob.type):
        number = "a number"
    return ", ".join([*([number] if number else []), *(f"`{choice}`" for choice in choices)])
