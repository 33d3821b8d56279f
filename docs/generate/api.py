"""Pages of the API: one for each module of alignyolo, and one for the functions behind the commands."""

from pathlib import Path

from docs.generate.choices import markdown_table

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = (
    "train.train",
    "val.validate",
    "detect.load",
    "detect.detect",
    "export.export",
    "engine.predict.model.Model",
)
LIBRARY = """# Python API

`pip install .` in a checkout installs `alignyolo`, which needs torch alone. Its main names belong to the package:
`from alignyolo import sca, ggiou, match_boxes`. The functions behind the commands are on [their own page](commands.md).

"""
FUNCTIONS = """# Commands as functions

Every command is a function of the same module, which takes the flags as keywords with underscores:
`train(data="mydata", epochs=100)`.

"""


def modules() -> list[str]:
    """Return the dotted names of alignyolo's modules, the package first."""
    found = []
    for path in sorted((ROOT / "alignyolo").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[-1] != "__init__":
            found.append(".".join(parts))
    return found


def first_line(module: str) -> str:
    """Return the first line of a module's docstring."""
    text = (ROOT / f"{module.replace('.', '/')}.py").read_text("utf-8")
    return text.removeprefix('"""').split("\n", 1)[0].removesuffix('"""')


def pages() -> dict[str, str]:
    """Return the text of every page of the API by its place on the site."""
    rows = [(f"[`{name}`]({name}.md)", first_line(name)) for name in modules()]
    made = {f"api/{name}.md": f"# {name}\n\n::: {name}\n" for name in modules()}
    made["api/index.md"] = LIBRARY + markdown_table(("module", "what it holds"), rows) + "\n"
    made["api/commands.md"] = FUNCTIONS + "\n\n".join(
        f"## {name}\n\n::: {name}\n    options:\n      heading_level: 3\n" for name in COMMANDS
    )
    return made
