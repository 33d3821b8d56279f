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


def modules_table() -> str:
    """Write the table of alignyolo's modules, each with a link to its page."""
    return markdown_table(
        ("module", "what it holds"), [(f"[`{name}`]({name}.md)", first_line(name)) for name in modules()]
    )


def functions() -> str:
    """Write a section for each function behind a command."""
    return "\n\n".join(f"## {name}\n\n::: {name}\n    options:\n      heading_level: 3" for name in COMMANDS)


def pages() -> dict[str, str]:
    """Return the text of each module's page by its place on the site."""
    return {f"api/{name}.md": f"# {name}\n\n::: {name}\n" for name in modules()}
