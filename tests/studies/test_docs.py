"""The pages about the studies show pictures that exist, small enough for a repository, and name commands that parse."""

import re
import shlex

import pytest

from studies.compare import parse_flags
from tests.paths import ROOT
from train import parse_flags as train_flags

PAGES = [ROOT / "docs" / "studies.md", ROOT / "docs" / "coco.md"]


def commands(page):
    """The commands on a page, their continuation lines joined and variables of the shell filled in."""
    text = "\n".join(re.findall(r"```\n(.*?)```", page.read_text("utf-8"), re.DOTALL)).replace("\\\n", " ")
    text = text.replace("$model", "yolov3").replace("$loss", "sca")
    return [line.split("#")[0].strip() for line in text.splitlines()]


def test_pictures_exist_and_are_small():
    shown = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", PAGES[0].read_text("utf-8"))
    assert len(shown) >= 8
    for name in shown:
        size = (ROOT / "docs" / name).stat().st_size
        assert size < (1.2 * 2**20 if name.endswith(".gif") else 300_000), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_parse(page):
    parsers = {"train.py": train_flags, "-m studies.compare": parse_flags}
    found = 0
    for line in commands(page):
        for start, parser in parsers.items():
            if line.startswith(f"python {start} "):
                parser(shlex.split(line.removeprefix(f"python {start} ")))
                found += 1
    assert found >= 2


def test_numbers_of_the_coco_page_follow_from_what_it_states():
    images = 118_287 * 300
    assert round(images / 3600) == 9857
    assert round(images / 74 / 3600) == 133
    for peak, hours in ((165, 93), (312, 49), (989, 16)):
        assert round(images * 467.7e9 / (0.3 * peak * 1e12) / 3600) == hours
        assert images * 39.5e9 / (0.3 * peak * 1e12) / 3600 < 8.3
