"""The house rules that a program can check: floors, the one door to ultralytics, nothing unsafe, no work at import."""

import ast
from pathlib import Path

import pytest

from tests.paths import ROOT

FLOORS = [
    {"tests"},
    {"studies", "benchmarks", "examples"},
    {"train", "convert", "detect", "export", "import_weights"},
    {"val"},
    {"engine"},
    {"data", "models"},
    {"utils"},
]
SOURCES = [path for path in sorted(ROOT.rglob("*.py")) if ".venv" not in path.parts and "runs" not in path.parts]
OURS = set.union(*FLOORS)


def floor_of(package):
    return next(level for level, names in enumerate(FLOORS) if package in names)


def package_of(path: Path):
    first = path.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


def imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            yield node.module


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path):
    package = package_of(path)
    for module in imported(ast.parse(path.read_text("utf-8"))):
        target = module.split(".")[0]
        if target in OURS and target != package:
            assert floor_of(target) > floor_of(package), f"{path}: {package} imports {module}"
        if target == "ultralytics" and package != "tests":
            assert path.name == "ultralytics_door.py", f"{path} imports ultralytics"


def test_every_source_has_a_floor():
    assert {package_of(path) for path in SOURCES} <= OURS


FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_unsafe(path):
    if package_of(path) == "tests":
        pytest.skip("tests attack on purpose")
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        assert called not in FORBIDDEN_CALLS, f"{path}:{node.lineno} calls {called}"
        assert called not in ("os.system", "pickle.load", "pickle.loads", "yaml.unsafe_load"), f"{path}:{node.lineno}"
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        assert keywords.get("shell") != "True", f"{path}:{node.lineno} uses a shell"
        assert keywords.get("weights_only") != "False", f"{path}:{node.lineno} unpickles"
        assert keywords.get("allow_pickle") != "True", f"{path}:{node.lineno} unpickles"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_functions_fit_a_screen(path):
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef):
            lines = node.end_lineno - node.lineno + 1
            assert lines <= 70, f"{path}:{node.lineno} {node.name} has {lines} lines"
