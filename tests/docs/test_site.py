"""The site as make docs builds it: without a warning, and with every link, picture and anchor there."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from urllib.parse import unquote

import pytest

from alignyolo.registry import BASE_SIMILARITIES
from docs.generate.pages import write_site
from tests.paths import ROOT


class Page(HTMLParser):
    """What a page of HTML links to, and the anchors that it has."""

    def __init__(self, text):
        super().__init__()
        self.targets, self.anchors = [], set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.anchors |= {found[key] for key in ("id", "name") if found.get(key)}
        if tag in ("a", "link", "img", "script", "source"):
            self.targets += [found[key] for key in ("href", "src") if found.get(key)]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of HTML, built as make docs does; a warning ends the build with an exit code."""
    folder = tmp_path_factory.mktemp("site")
    write_site(folder)
    build = [sys.executable, "-m", "zensical", "build", "--strict", "--config-file", str(folder / "zensical.toml")]
    done = subprocess.run(build, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "html"


@pytest.fixture(scope="module")
def pages(site):
    return {path: Page(path.read_text("utf-8")) for path in sorted(site.rglob("*.html"))}


def test_every_link_of_the_site_leads_somewhere(site, pages):
    lost = []
    for path, page in pages.items():
        for target in page.targets:
            # The page for a wrong address is shown at any depth, so its links begin at the site's root.
            if re.match(r"[a-z]+:|//|/", target):
                continue
            file, _, part = unquote(target).partition("#")
            meant = (path.parent / file.partition("?")[0]).resolve() if file else path
            meant = meant / "index.html" if meant.is_dir() else meant
            if not meant.is_file() or part and meant in pages and part not in pages[meant].anchors:
                lost.append(f"{path.relative_to(site)}: {target}")
    assert len(pages) > 60
    assert not lost


def test_nothing_is_fetched_from_elsewhere(pages):
    """No font, script or picture of another host: the site works without a network."""
    script, style = r'<(?:script|img|source)[^>]* src="', r'<link[^>]* rel="(?:style|pre)\w+"[^>]* href="'
    fetched = rf"(?:{script}|{style})(?:https?:)?//"
    for path in pages:
        assert not re.findall(fetched, path.read_text("utf-8")), path


def test_no_marker_of_a_generated_part_is_left(site):
    for path in site.rglob("*.html"):
        assert "<!-- generated:" not in path.read_text("utf-8"), path


def test_the_site_has_a_picture_of_each_loss_and_can_be_searched(site):
    text = (site / "concepts" / "gradients.html").read_text("utf-8")
    for name in BASE_SIMILARITIES:
        assert f"images/gradients/{name}.png" in text
        assert (site / "images" / "gradients" / f"{name}.png").stat().st_size > 10_000
    assert "inner_ciou" in (site / "search.json").read_text("utf-8")


def test_the_site_is_drawn_with_the_versions_that_the_project_asks_for():
    def lines(name):
        return set((ROOT / name).read_text("utf-8").splitlines())

    asked = {line for line in lines("requirements-docs.txt") if not line.startswith("#")}
    assert {"zensical", "ruff", "torch"} <= {re.split("[<>=]", line)[0] for line in asked}
    assert asked <= lines("requirements-dev.txt") | lines("requirements.txt")
