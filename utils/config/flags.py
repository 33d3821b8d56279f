"""Command line flags made from the knobs of a config dataclass, without importing torch."""

import argparse
import dataclasses
import typing
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NoReturn

from utils.config.knobs import build, checked
from utils.errors import UserError, nearest, printable


class Parser(argparse.ArgumentParser):
    """An argument parser that answers a mistake with one line and the nearest flag (UserError, exit code 2)."""

    def __init__(self, **settings):
        super().__init__(
            allow_abbrev=False,
            formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=30, width=110),
            **settings,
        )

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print below its usage."""
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown != message:
            flag = unknown.split()[0]
            known = [option for action in self._actions for option in action.option_strings if option.startswith("--")]
            if not flag.startswith("-"):
                is_setting = "=" in flag and "--set" in known
                hint = f": expected --set {printable(flag)}, each key with its own" if is_setting else ""
                raise UserError(f"{printable(flag)} belongs to no flag{hint} (--help lists all)")
            raise UserError(f"unknown flag {printable(flag)}{nearest(flag, known)} (--help lists all)")
        raise UserError(f"{printable(message)} (--help lists all flags)")


def add_knobs(parser: argparse.ArgumentParser, kind: type, aliases: Mapping[str, Sequence[str]]) -> None:
    """Add a flag per field of a config dataclass; what is not given stays out of the parsed values."""
    hints = typing.get_type_hints(kind)
    for knob in dataclasses.fields(kind):
        names = ["--" + knob.name.replace("_", "-"), *aliases.get(knob.name, ())]
        meaning = knob.metadata["meaning"].replace("%", "%%")
        shared: dict[str, Any] = {"dest": knob.name, "default": argparse.SUPPRESS}
        if hints[knob.name] is bool:
            shown = meaning if not knob.default else f"{meaning} (on by default)"
            parser.add_argument(*names, action=argparse.BooleanOptionalAction, help=shown, **shared)
        elif hints[knob.name] == bool | str:
            metavar = "|".join(knob.metadata["shown"])
            parser.add_argument(*names, nargs="?", const=True, metavar=metavar, help=meaning, **shared)
            parser.add_argument("--no-" + names[0][2:], action="store_false", help=argparse.SUPPRESS, **shared)
        elif isinstance(knob.default, tuple):
            default = f" (default {' '.join(map(str, knob.default))})" if knob.default else ""
            metavar = "|".join(knob.metadata["shown"]) or "N"
            parser.add_argument(*names, nargs="+", metavar=metavar, help=meaning + default, **shared)
        else:
            default = "" if knob.default in ("", None) else f" (default {knob.default})"
            choices = knob.metadata["shown"]
            kind_of_value = (*typing.get_args(hints[knob.name]), hints[knob.name])[0]
            metavar = "|".join(choices) if choices else kind_of_value.__name__.upper()
            parser.add_argument(*names, metavar=metavar, help=meaning + default, **shared)


def parsed(kind: type, values: Mapping[str, Any], also: Collection[str] = ()) -> Any:
    """Make a config dataclass from parsed flags, or from a function's keywords.

    `also` names what the caller reads by itself. UserError names a flag that is unknown or has a wrong value.
    """
    names = [knob.name for knob in dataclasses.fields(kind)]
    for key in values:
        if key not in names and key not in also:
            raise UserError(f"unknown flag {printable(key)!r}{nearest(key, [*names, *also])}")
    given = {key: value for key, value in values.items() if key in names}
    for key in given:
        checked(kind, {key: given[key]}, f"--{key.replace('_', '-')}")
    try:
        return build(kind, given, "flag")
    except UserError as error:
        said = str(error).removeprefix("flag: ")
        key = said.partition(" ")[0]
        raise UserError(f"--{key.replace('_', '-')}{said[len(key) :]}" if key in names else said) from None


def split_at_flags(flags: Sequence[str]) -> list[list[str]]:
    """Group arguments that begin with a flag: each flag with its values."""
    groups: list[list[str]] = []
    for part in flags:
        if part.startswith("--"):
            groups.append([])
        groups[-1].append(part)
    return groups
