"""The README and the site's pages: links lead somewhere, commands parse, generated parts are up to date."""

import ast
import json
import re
from pathlib import Path, PurePosixPath

import pytest
import torch
from PIL import Image

import alignyolo
from alignyolo.registry import BASE_SIMILARITIES, SIMILARITIES
from docs.generate import api, choices, gradients, results_chart, settings
from docs.generate.blocks import fill, renew
from docs.generate.links import links, turned
from docs.generate.pages import MAKERS, SETTINGS, site_settings, sources
from engine.train.epoch_report import EpochReport
from studies.comparison.paired import paired_difference
from tests.docs.commands_on_pages import commands, split
from tests.docs.sentences import longest_average
from tests.paths import ROOT
from tests.studies.results_page import of
from utils.config.knobs import Hyperparameters
from utils.errors import UserError

README = ROOT / "README.md"
PAGES = [README, *sources()]
MOST_WORDS = 900
MOST_WORDS_A_SENTENCE = 30
MOST_ROWS = 12  # of the page about performance
NOT_PROSE = ("report.md",)  # what studies.compare writes: tables, and lines of provenance
# Modules of ours whose flags have no page.
NO_PARSER = (
    "python -m examples.",
    "python -m benchmarks.",
    "python -m utils.checkpoint",
    "python -m pip",
    "python -m alignyolo.ultralytics",
)


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site make them."""
    text = re.sub(r"```.*?```", "", path.read_text("utf-8"), flags=re.DOTALL)
    heads = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", head.lower())) for head in heads}


def test_the_readme_is_short():
    assert len(README.read_text("utf-8").split()) <= MOST_WORDS


def test_no_cell_of_the_readme_holds_a_paragraph():
    rows = [line for line in README.read_text("utf-8").splitlines() if line.startswith("|")]
    assert rows
    assert max(len(cell.split()) for row in rows for cell in row.split("|")) <= 15


def test_generated_parts_of_the_readme_are_those_of_the_registry():
    text = README.read_text("utf-8")
    assert renew(text, MAKERS) == text, "python -m docs.generate --readme"
    for name, entry in SIMILARITIES.items():
        if name in choices.MAIN_LOSSES:
            said = " (default)" if name == Hyperparameters.box_loss else ""
            assert f"| `--loss {name}`{said} | {entry.meaning} |" in text
    said = {Hyperparameters.assigner: " (default)"}
    assert all(f"| `--assign {name}`{said.get(name, '')} |" in text for name in choices.MAIN_ASSIGNERS)


def test_the_readme_shows_the_results_that_are_in_the_tables():
    with Image.open(results_chart.CHART) as picture:
        assert json.loads(picture.text["Description"]) == json.loads(results_chart.numbers())


def test_the_readme_says_of_the_results_what_the_tables_say():
    text = " ".join(README.read_text("utf-8").split())
    cells, shapes = (results_chart.differences(panel) for panel in results_chart.PANELS)
    ggiou = cells["assign-ggiou"]
    assert f"{ggiou.mean:.1f} points above it ({ggiou.low:.1f} to {ggiou.high:.1f}) with three" in text
    steel = paired_difference(*(of("neu-det-assigners", "test", each, "ap") for each in ("ggiou", "anchor_ratio")))
    behind = f"{-shapes['ggiou'].mean:.1f} points behind on drawn, often slender shapes and "
    assert f"{behind}{-100 * steel.mean:.1f} on photos of steel" in text
    sca = paired_difference(*(of("bccd-sca", "test", each, "ap") for each in ("sca", "ciou")))
    interval = f"95 % interval {100 * sca.low:.1f} to {100 * sca.high:.1f}"
    size = paired_difference(*(of("bccd-sca-size", "test", each, "ap") for each in ("ciou-larger", "ciou")))
    said = f"SCALoss is {100 * sca.mean:.1f} points of AP ({interval}) above the default with five seeds; "
    assert f"{said}CIoU made as large (`--set box=0.083`) is {100 * size.mean:.1f} above." in text
    assert max(sca.p, size.p) < 0.05


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in NOT_PROSE], ids=named)
def test_no_paragraph_has_sentences_of_more_than_thirty_words_on_average(page):
    words, paragraph = longest_average(page.read_text("utf-8"))
    assert words <= MOST_WORDS_A_SENTENCE, paragraph


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page):
    """In the repository as it is, where generated parts are missing; test_site.py follows those of the site."""
    for target in links(page.read_text("utf-8")):
        path, _, part = target.partition("#")
        if "://" in target:
            continue
        meant = (page.parent / path).resolve() if path else page
        assert meant.exists(), target
        assert not part or meant.suffix != ".md" or part in anchors(meant), target


def test_every_page_has_its_place_and_no_place_is_empty():
    text = site_settings()
    shown = re.findall(r'"([\w./-]+\.md)"', text)
    assert len(shown) == len(set(shown))
    for path in sorted((ROOT / "docs").rglob("*.md")):
        assert path.relative_to(ROOT / "docs").as_posix() in shown
    for place in re.findall(r'"([\w./-]+\.md)"', SETTINGS.read_text("utf-8")):
        known = (ROOT / "docs" / place).is_file()
        assert known or place in ("contributing.md", "changelog.md", "experiments.md"), place


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_commands_parse(page):
    known = settings.commands()
    for words in commands(page.read_text("utf-8")):
        typed, flags = split(words)
        if typed in known:
            settings.parses(typed, flags)
        else:
            assert not typed or typed.startswith(NO_PARSER), " ".join(words)


@pytest.mark.parametrize("typed", settings.commands())
def test_every_flag_is_on_the_page_of_commands(typed):
    page = settings.command_sections()[settings.heading(typed)]()
    parser = settings.parser_of(settings.commands()[typed])
    shown = [action for action in parser._actions if action.help != "==SUPPRESS==" and action.dest != "help"]
    for action in shown:
        for name in action.option_strings:
            assert f"`{name}`" in page


def test_every_command_is_on_its_page_in_the_order_of_the_table():
    page = (ROOT / "docs" / "reference" / "commands.md").read_text("utf-8")
    assert re.findall(r"^## (.*)$", page, re.MULTILINE) == list(settings.command_sections())
    assert re.findall(r"generated: (.*) -->", page) == list(settings.command_sections())


@pytest.mark.parametrize("page", [page for page in PAGES if "generated:" in page.read_text("utf-8")], ids=named)
def test_a_page_says_in_the_repository_what_the_site_shows(page):
    """Below each marker stands a line in italics, which the site replaces too."""
    text = re.sub(r"`[^`\n]*`", "", page.read_text("utf-8"))
    assert not re.findall(r"^<!-- generated: .* -->$(?!\n\*[A-Z].*\*$)", text, re.MULTILINE)
    made = fill(page.read_text("utf-8"), {name: lambda: "made" for name in MAKERS})
    assert "make docs`" not in made or page.name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")


def test_every_hyperparameter_is_on_its_page_with_its_reader():
    rows = [line.split(" | ") for line in settings.hyperparameters().splitlines()[2:]]
    assert [row[0].strip("|` ") for row in rows] == list(Hyperparameters.__dataclass_fields__)
    assert all(len(row) == 5 and row[3].strip() and row[4].strip(" |") for row in rows)


def test_the_words_of_the_log_are_in_the_glossary():
    glossary = (ROOT / "docs" / "concepts" / "glossary.md").read_text("utf-8")
    words = set(re.findall(r"[A-Za-z/]{2,}", EpochReport().line())) | {"unmatched", "claimed twice", "ignored", "truth"}
    assert len(words) >= 9
    for word in words:
        assert re.search(rf"^\| ([\w ,]+, )?{word}(,[\w ,]+)? \|", glossary, re.MULTILINE), word


def test_the_table_of_performance_is_short():
    rows = [line for line in (ROOT / "docs" / "performance.md").read_text("utf-8").splitlines() if line[:1] == "|"]
    assert 3 <= len(rows) <= 2 + MOST_ROWS


def test_an_unknown_block_is_named():
    with pytest.raises(UserError, match="nothing makes the block 'loses'"):
        fill("<!-- generated: loses -->", MAKERS)


def test_links_to_source_become_text_and_links_to_results_lead_to_the_copy():
    page = "[a](../results/bccd/report.md#x) [b](../train.py) [c](https://example.org) `[d](e)`\n```\n[f](g)\n```\n"
    assert turned(page, PurePosixPath("docs/results.md")) == (
        "[a](experiments/bccd/report.md#x) `b` [c](https://example.org) `[d](e)`\n```\n[f](g)\n```\n"
    )
    picture = turned("![curves](../results/bccd/figures.png)", PurePosixPath("docs/results.md"))
    assert picture == "[![curves](experiments/bccd/figures.png)](experiments/bccd/figures.png)"


def test_there_is_a_picture_of_each_loss(tmp_path):
    text = MAKERS["gradient fields"]()
    assert [name for name in BASE_SIMILARITIES if f"## {name}\n" not in text] == []
    assert [name for name in re.findall(r"gradients/(\w+).png", text) if name not in gradients.NAMES] == []
    gradients.draw_field("iou", tmp_path / "iou.png")
    assert (tmp_path / "iou.png").stat().st_size > 10_000


@pytest.mark.parametrize("name", gradients.NAMES)
def test_every_loss_pulls_an_overlapping_box_towards_its_truth(name):
    """Halfway to the right and to the left: the pull has the other sign, or there is none."""
    values, x, _ = gradients.field(name, (64.0, 32.0), 11)
    assert torch.isfinite(values).all()
    row = x[5]
    assert row[4] >= 0 >= row[6]
    assert row[4] > 0


def public_functions():
    """The library's functions and those behind the commands, as they stand in their files; none is imported."""
    plugins = ("alignyolo.torchvision.use", "alignyolo.ultralytics.use")
    ours = [f"{module}.{name}" for module, names in alignyolo._PLACES.items() for name in names]
    for place in (*ours, *plugins, *api.COMMANDS):
        module, _, name = place.rpartition(".")
        if name == "Model":
            module, name = module, "__call__"
        for node in ast.walk(ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name == name:
                yield place, node


def test_public_functions_say_what_they_take_and_what_they_give():
    found = dict(public_functions())
    assert {"alignyolo.similarities.sca.sca", "alignyolo.assign.dense.match_boxes", "train.train"} <= found.keys()
    for place, function in found.items():
        text, arguments = ast.get_docstring(function) or "", function.args
        assert "\nReturns:\n" in text, place
        for each in (*arguments.args, *arguments.kwonlyargs, arguments.kwarg):
            assert each is None or each.arg == "self" or f"\n    {each.arg}: " in text, (place, each.arg)
