"""The package that pip installs: alignyolo/ alone, which needs torch alone."""

import ast
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest

from tests.paths import ROOT

HEART = sorted((ROOT / "alignyolo").rglob("*.py"))
# Plug-ins for other people's detectors, imported only by who asks for them.
PLUGINS = {"ultralytics.py", "torchvision.py"}


@pytest.mark.parametrize("path", HEART, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_heart_imports_torch_alone(path):
    allowed = set(sys.stdlib_module_names) | {"torch", "alignyolo"}
    if path.name in PLUGINS and path.parent.name == "alignyolo":
        allowed |= {path.stem}
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) else []
        assert {name.split(".")[0] for name in names} <= allowed


def test_it_computes_where_nothing_else_is_installed():
    """Every loss and every assigner, with NumPy, torchvision and all rooms of the repository out of reach."""
    script = """
import sys
for name in ("numpy", "torchvision", "ultralytics", "models", "data", "engine", "utils"):
    sys.modules[name] = None
import warnings
warnings.simplefilter("ignore")
import torch
import alignyolo
from alignyolo import ASSIGNERS, SIMILARITIES, Context, Predictions, Targets, build_anchors, match_boxes, similarity
boxes = torch.tensor([[10.0, 12, 50, 70], [60, 20, 90, 44]])
around = {"image_size": (96, 128), "over_ranks": lambda values: values, "training": True}
for name in SIMILARITIES:
    assert torch.isfinite(similarity(name)(boxes + 3, boxes, **around)).all(), name
anchors = build_anchors((96, 128), [16, 32], [[(20, 30)], [(60, 60)]])
truths = Targets(boxes, torch.zeros(2).long(), torch.zeros(2).long())
scores = torch.full((1, len(anchors.boxes), 1), 0.5)
seen = Predictions(anchors.boxes[None], scores, scores[..., 0])
for name, entry in ASSIGNERS.items():
    assert len(entry.bind()(Context(anchors, truths, 1, seen)).target), name
assert match_boxes(anchors.boxes, boxes).max() == 1
print("done", alignyolo.__version__)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.startswith("done"), done.stderr


def test_all_public_names_are_there():
    import alignyolo

    assert all(getattr(alignyolo, name) is not None for name in alignyolo.__all__)
    assert set(alignyolo.__all__) <= set(dir(alignyolo))
    with pytest.raises(AttributeError, match="no attribute 'scaloss'"):
        alignyolo.scaloss  # noqa: B018


@pytest.mark.slow
def test_the_archives_hold_the_heart_alone(tmp_path):
    """The source archive, and the wheel made from it. Needs the package registry, for setuptools."""
    source = tmp_path / "source"  # setuptools leaves build folders beside what it builds
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".git", ".venv", "runs", "datasets", "__pycache__"))
    command = [sys.executable, "-m", "build", "--outdir", str(tmp_path), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        held = {name.partition("/")[2].split("/")[0] for name in archive.getnames()}
    assert {"alignyolo", "pyproject.toml", "LICENSE", "README.md"} <= held
    assert not held & {"models", "data", "engine", "utils", "studies", "tests"}
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as archive:
        folders = {name.split("/")[0] for name in archive.namelist()}
    assert {name for name in folders if not name.endswith(".dist-info")} == {"alignyolo"}
