"""Writes everything that the site is built from into one folder: pages, pictures, and the generator's settings."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath

from docs.generate import api, choices, gradients, results_chart, runtimes, settings
from docs.generate.blocks import fill, renew
from docs.generate.links import DOCS, NOT_PAGES, ROOT, SHOWN, on_site, turned
from studies.figures import ggiou_plane

MAKERS: Mapping[str, Callable[[], str]] = {
    "main choices": choices.main_choices,
    "losses": choices.all_losses,
    "wrappers": choices.all_wrappers,
    "assigners": choices.all_assigners,
    "dense assigners": choices.all_dense_assigners,
    "metrics": choices.all_metrics,
    "gradient fields": gradients.sections,
    **settings.command_sections(),
    "modules": api.modules_table,
    "functions": api.functions,
    "hyperparameters": settings.hyperparameters,
    "runtimes": runtimes.tables,
    "runtimes by cpu": runtimes.recommendation,
    "yolov3 keys": settings.yolov3_keys,
    "torchvision keys": settings.torchvision_keys,
}
SETTINGS = DOCS / "site.toml"


def sources() -> list[Path]:
    """Return every page of the repository that the site shows."""
    written = sorted(DOCS.rglob("*.md"))
    return [*written, *(ROOT / name for name in SHOWN), *sorted((ROOT / "results").glob("*/report.md"))]


def renew_readme() -> None:
    """Write the generated parts of the README and its picture anew."""
    page = ROOT / "README.md"
    page.write_text(renew(page.read_text("utf-8"), MAKERS), "utf-8")
    results_chart.draw()


def write_site(into: Path) -> None:
    """Write pages, pictures and site.toml into a folder, which is emptied first."""
    pages = into / "pages"
    shutil.rmtree(pages, ignore_errors=True)
    for path in sources():
        inside = PurePosixPath(path.relative_to(ROOT).as_posix())
        _write(pages / str(on_site(inside)), turned(fill(path.read_text("utf-8"), MAKERS), inside))
    for path in [*DOCS.rglob("*"), *(ROOT / "results").glob("*/*")]:
        place = on_site(PurePosixPath(path.relative_to(ROOT).as_posix()))
        if path.is_file() and place is not None and path.suffix not in (".md", *NOT_PAGES) and path.suffix != ".pyc":
            (pages / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, pages / place)
    for name, text in api.pages().items():
        _write(pages / name, text)
    gradients.draw_all(pages / "images" / "gradients")
    results_chart.draw(pages / "images" / "results.png")
    # The study whose pictures take seconds; the others' are those that make studies wrote last.
    ggiou_plane.draw(pages / "studies")
    _write(into / "zensical.toml", site_settings())


def site_settings() -> str:
    """Return site.toml with this checkout's folder, and with the pages that its navigation does not name yet."""
    text = SETTINGS.read_text("utf-8")
    concepts = [page for page in unnamed() if page.startswith("concepts/")]
    guides = [page for page in unnamed() if page not in concepts]
    # By the file's name alone: the folders before it would not fit beside a page.
    functions = [f'      {{ "{name.split(".")[-1]}" = "api/{name}.md" }},' for name in api.modules()]
    text = text.replace("@ROOT@", ROOT.as_posix()).replace("      # alignyolo's modules", "\n".join(functions))
    for kind, places in (("guides", guides), ("concepts", concepts)):
        text = text.replace(f"    # further {kind}", "\n".join(f'    "{page}",' for page in places))
    return text


def unnamed() -> list[str]:
    """Return the pages of docs/ that site.toml does not name: a new one is shown among the guides, or the concepts."""
    text = SETTINGS.read_text("utf-8")
    places = [path.relative_to(DOCS).as_posix() for path in sorted(DOCS.rglob("*.md"))]
    return [place for place in places if f'"{place}"' not in text]


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
