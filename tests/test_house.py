"""The house rules that a program can check: floors, the one door to ultralytics, nothing unsafe, no work at import."""

import ast
from pathlib import Path

import pytest

from tests.paths import ROOT

FLOORS = [
    {"tests"},
    {"docs"},
    {"tune"},
    {"studies", "benchmarks", "examples"},
    {"train", "convert", "detect", "export", "import_weights"},
    {"val"},
    {"engine"},
    {"data", "models"},
    {"utils"},
    {"alignyolo"},
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


# Within a package: its rooms, and the files beside them, from top to bottom.
ROOMS = {
    "engine": [
        {"predict", "train"},
        {"validate"},
        {"export"},
        {"settings"},
        {"batches", "failures", "resources", "run_files"},
        {"event_file", "own_files", "parent_process", "run_lock"},
    ],
    "models": [
        {"weights"},
        {"families"},
        {"torchvision", "yolov3"},
        {"choices", "detector"},
        {"kernels", "postprocess"},
    ],
    "data": [
        {"check", "download", "loader"},
        {"open"},
        {"dataset", "formats"},
        {"split"},
        {"sampling"},
        {"augment", "labels", "shapes"},
        {"data_yaml", "images"},
        {"path_array", "photo_files", "pixel_limit"},
    ],
    "utils": [
        {"drawing"},
        {"metrics"},
        {"config", "checkpoint", "device", "distributed", "letterbox", "optim", "progress", "run_folder"},
        {"checksum", "errors", "hardware", "ultralytics_only"},
        {"regular_file"},
    ],
    "alignyolo": [
        {"torchvision", "ultralytics"},
        {"assign", "balance"},
        {"gaussian_iou"},
        {"similarities"},
        {"anchors", "registry", "targets"},
        {"choices", "derivatives"},
    ],
}
LARGEST_ROOM = 12


def room_of(module):
    """The room of a module within its package; empty for the package itself."""
    return [*module.split("."), ""][1]


def place_of(room, package):
    """How many rooms of the package lie above a room, on floors of their own."""
    return next(floor for floor, rooms in enumerate(ROOMS[package]) if room in rooms)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path):
    package = package_of(path)
    inside = room_of(path.relative_to(ROOT).with_suffix("").as_posix().replace("/", "."))
    for module in imported(ast.parse(path.read_text("utf-8"))):
        target = module.split(".")[0]
        if target in OURS and target != package:
            assert floor_of(target) > floor_of(package), f"{path}: {package} imports {module}"
        # A package's own file says what it holds.
        elif target == package and target in ROOMS and inside != "__init__" and room_of(module) not in ("", inside):
            upper, lower = place_of(inside, package), place_of(room_of(module), package)
            assert lower > upper, f"{path}: {package}.{inside} imports {module}, which lies no lower"
        if target == "ultralytics" and package != "tests":
            # The plug-in is a library for programs that import ultralytics themselves; our own have one door.
            doors = ("utils/ultralytics_only.py", "alignyolo/ultralytics.py")
            assert path.relative_to(ROOT).as_posix() in doors, f"{path} imports ultralytics"


def test_rooms_are_small_enough_to_look_at():
    for folder in {path.parent for path in SOURCES if package_of(path) not in ("tests", path.name.removesuffix(".py"))}:
        files = [path.name for path in folder.glob("*.py") if path.name != "__init__.py"]
        assert len(files) <= LARGEST_ROOM, f"{folder.relative_to(ROOT)} has {len(files)} files: {sorted(files)}"


def test_every_source_has_a_floor():
    assert {package_of(path) for path in SOURCES} <= OURS


FORBIDDEN_CALLS = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "os.system",
    "os.popen",
    "yaml.unsafe_load",
    "yaml.full_load",
}
FORBIDDEN_IMPORTS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "code", "pty"}
# What they take from a forbidden module: the name of an exception, and a reader of pickles that runs nothing.
EXCUSED = {"utils/checkpoint.py": {"pickle.UnpicklingError"}}
LOADERS = {"PlainLoader", "yaml.SafeLoader", "yaml.CSafeLoader"}


def complaints(source):
    """What in a source could run what a file says, or hand it to a shell."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            aliases = [alias for alias in node.names if alias.name.split(".")[0] in FORBIDDEN_IMPORTS]
            yield from (f"imports {alias.name}" for alias in aliases)
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            if node.module.split(".")[0] in FORBIDDEN_IMPORTS | {"yaml"} or names & FORBIDDEN_CALLS:
                yield f"imports from {node.module}"
        elif isinstance(node, ast.Attribute) and ast.unparse(node).split(".")[0] in FORBIDDEN_IMPORTS:
            yield f"uses {ast.unparse(node)}"
        elif isinstance(node, ast.Name) and node.id in FORBIDDEN_CALLS:
            yield f"names {node.id}"
        elif isinstance(node, ast.Call):
            yield from bad_call(ast.unparse(node.func), node)


def bad_call(called, node):
    keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
    if called in FORBIDDEN_CALLS:
        yield f"calls {called}"
    for name, only in (("shell", "False"), ("weights_only", "True"), ("allow_pickle", "False")):
        if keywords.get(name, only) != only:
            yield f"{name}={keywords[name]}"
    if called == "torch.load" and "weights_only" not in keywords:
        yield "torch.load without weights_only"
    if called in ("yaml.load", "yaml.load_all") and keywords.get("Loader") not in LOADERS:
        yield f"{called} without a safe loader"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_unsafe(path):
    if package_of(path) == "tests":
        pytest.skip("tests attack on purpose")
    excused = EXCUSED.get(path.relative_to(ROOT).as_posix(), set())
    allowed = {f"uses {name}" for name in excused} | {f"imports {name.split('.')[0]}" for name in excused}
    assert not set(complaints(path.read_text("utf-8"))) - allowed


@pytest.mark.parametrize(
    "source",
    [
        "eval('1')",
        "run = exec\nrun('1')",
        "import pickle",
        "from pickle import loads",
        "from os import system",
        "import os\nos.system('x')",
        "subprocess.run('x', shell=True)",
        "subprocess.run('x', shell=wanted)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text)",
        "yaml.load(text, Loader=yaml.Loader)",
        "yaml.unsafe_load(text)",
        "from yaml import load",
    ],
)
def test_the_gate_sees_what_is_unsafe(source):
    assert list(complaints(source))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_functions_fit_a_screen(path):
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef):
            lines = node.end_lineno - node.lineno + 1
            assert lines <= 60, f"{path}:{node.lineno} {node.name} has {lines} lines"


PROGRAM = [path for path in SOURCES if path.relative_to(ROOT).parts[0] != "tests"]
# Words that tell what something is; a docstring's first line says what a function does.
NO_VERBS = {
    "The",
    "A",
    "An",
    "One",
    "What",
    "Which",
    "Whether",
    "Where",
    "How",
    "Every",
    "Each",
    "All",
    "Its",
    "Of",
    "Per",
}


def is_property(function):
    return any("property" in ast.unparse(each) or ".setter" in ast.unparse(each) for each in function.decorator_list)


def says_what_it_does(line):
    """Tell whether a line begins with a verb that says what to do: `Copy`, neither `Copies` nor `Copy of`."""
    word, _, rest = line.partition(" ")
    word = word.rstrip(",:;.")
    is_noun = word in NO_VERBS or rest.startswith("of ")
    return word.isalpha() and word.istitle() and not is_noun and (not word.endswith("s") or word.endswith("ss"))


@pytest.mark.parametrize("path", PROGRAM, ids=lambda path: str(path.relative_to(ROOT)))
def test_docstrings_begin_with_a_verb(path):
    """ruff's D401 knows verbs in other forms; that a line begins with a noun it does not see."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and not is_property(node):
            first = (ast.get_docstring(node) or "Say").splitlines()[0]
            assert says_what_it_does(first), f"{node.name}, line {node.lineno}: {first!r}; begin as 'Return the ...'"


@pytest.mark.parametrize(
    ("line", "good"),
    [
        ("Copy to a device.", True),
        ("Pass it on.", True),
        ("Copies to a device.", False),
        ("Copy of the weights.", False),
        ("The copy.", False),
        ("IoU of boxes.", False),
        ("(B, C) in order.", False),
    ],
)
def test_what_a_verb_is(line, good):
    assert says_what_it_does(line) == good
