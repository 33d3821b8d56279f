"""The commands as a person runs them: exit codes, one-line errors, nothing downloaded, nothing half-written."""

import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from data.shapes.demo_set import make_shapes
from detect import detect
from export import export
from import_weights import import_weights
from tests.paths import ROOT
from train import train
from utils.config.knobs import Hyperparameters
from utils.errors import UserError
from val import validate

WITHOUT_NETWORK = """
import runpy, socket, sys
def refuse(*arguments, **settings):
    raise AssertionError(f"a connection was tried: {arguments}")
connect = socket.socket.connect
def local_only(self, address):
    return connect(self, address) if self.family == socket.AF_UNIX else refuse(address)
socket.socket.connect = local_only
socket.getaddrinfo = refuse
socket.create_connection = refuse
command, *sys.argv[1:] = sys.argv[1:]
sys.argv[0] = command
runpy.run_path(command, run_name="__main__")
"""
WITH_TORCH_ALONE = """
import json, sys
TORCH = {"torch", "torchgen", "functorch", "filelock", "typing_extensions", "sympy", "mpmath", "networkx", "jinja2"}
TORCH |= {"markupsafe", "fsspec", "setuptools", "nvidia", "triton"}
class Nothing:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in TORCH and top not in sys.stdlib_module_names and not top.startswith("_"):
            raise ModuleNotFoundError(f"not in this environment: {name}", name=name)
sys.meta_path.insert(0, Nothing())
import torch
best = torch.load("best.pt", weights_only=True)
print(json.dumps([best["names"], best["epoch"], best["config"]["model"]["backbone"], "numpy" in sys.modules]))
assert all(tensor.isfinite().all() for tensor in best["model"].values())
"""
FAST = ["--imgsz", "64", "--batch-size", "4", "--epochs", "1", "--workers", "0", "--device", "cpu", "--amp", "off"]
FAST += ["--set", "channels=[8,8,16,16,32,32,64]"]


def run(*arguments, cwd=ROOT, **environment):
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_shapes(tmp_path_factory.mktemp("my data é") / "shapes", seed=3, train=8, val=8, size=96)


COMMANDS = ["train.py", "val.py", "convert.py", "detect.py", "export.py", "import_weights.py"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_needs_no_torch(command):
    script = f"import runpy, sys; sys.argv = [{command!r}, '--help']\n"
    script += f"try:\n    runpy.run_path({command!r}, run_name='__main__')\n"
    script += "except SystemExit as end:\n    assert not end.code\n"
    script += "assert 'torch' not in sys.modules and 'cv2' not in sys.modules"
    result = run("-c", script)
    assert result.returncode == 0, result.stderr
    assert "usage:" in result.stdout


def test_the_help_says_which_loss_and_assignment_are_the_default():
    shown = " ".join(run(ROOT / "train.py", "--help").stdout.split())
    default = Hyperparameters()
    assert f"hyperparameter box_loss (default {default.box_loss};" in shown
    assert f"hyperparameter assigner (default {default.assigner};" in shown


def one_line_error(result):
    assert result.returncode == 2, result.stdout + result.stderr
    lines = result.stderr.strip().splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1
    assert "Traceback" not in result.stderr
    return errors[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--los", "sca"], "unknown flag --los; did you mean '--loss'?"),
        (["--loss", "scaa"], "did you mean 'sca'?"),
        (["--assign", "gggiou"], "did you mean 'ggiou'?"),
        (["--loss", "CIOU"], "did you mean 'ciou'?"),
        (["--assign", "ATSS"], "did you mean 'atss'?"),
        (["--epochs", "many"], "--epochs is 'many': expected a whole number"),
        (["--epochs", "0"], "epochs is 0: expected"),
        (["--set", "boxx=1"], "unknown key 'boxx'; did you mean 'box'?"),
        (["--hyp", "bazeline"], "did you mean 'baseline'?"),
        (["--cfg", "yolov4"], "no model YAML named 'yolov4'"),
        (["--cfg", "nowhere/model.yaml"], "nowhere/model.yaml"),
        (["--data", "nowhere/data.yaml"], f"{ROOT}/nowhere/data.yaml"),
        (["--imgsz", "100"], "expected multiples of 32"),
        (["--amp", "fp32"], "amp is 'fp32'"),
        (["--epochs"], "expected one argument"),
        (["--set", "box=0.1", "cls=1"], "cls=1 belongs to no flag: expected --set cls=1, each key with its own"),
        (["--loss", "sca", "giou"], "giou belongs to no flag (--help lists all)"),
    ],
    ids=str,
)
def test_wrong_flags_need_no_torch_and_get_one_line(arguments, message):
    script = "import runpy, sys, atexit\natexit.register(lambda: print('TORCH', 'torch' in sys.modules))\n"
    script += "sys.argv = ['train.py', *sys.argv[1:]]\nrunpy.run_path('train.py', run_name='__main__')"
    result = run("-c", script, *arguments)
    assert message in one_line_error(result)
    assert "TORCH False" in result.stdout


@pytest.mark.parametrize(
    ("function", "keywords", "message"),
    [
        (train, {"epoch": 1}, "unknown flag 'epoch'; did you mean 'epochs'?"),
        (train, {"losses": "sca"}, "unknown flag 'losses'; did you mean 'loss'?"),
        (validate, {"weight": "best.pt"}, "unknown flag 'weight'; did you mean 'weights'?"),
        (detect, {"confs": 0.3}, "unknown flag 'confs'; did you mean 'conf'?"),
        (export, {"formats": ["onnx"]}, "unknown flag 'formats'; did you mean 'format'?"),
        (partial(import_weights, "yolo.weights"), {"out": "best.pt"}, "unknown flag 'out'; did you mean 'output'?"),
    ],
)
def test_functions_refuse_keywords_that_are_no_flags(function, keywords, message):
    with pytest.raises(UserError) as error:
        function(**keywords)
    assert str(error.value).startswith(message)


def test_train_and_val_without_network_home_or_terminal(data, tmp_path):
    """Also: a path with spaces and accents, LANG=C, a HOME that cannot be written to, not even by root."""
    environment = {"HOME": "/proc/none", "LANG": "C", "XDG_CACHE_HOME": "/proc/none/cache"}
    for name in ("train.py", "val.py"):
        extra = [*FAST, "--data", data] if name == "train.py" else ["--workers", "0"]
        result = run("-c", WITHOUT_NETWORK, ROOT / name, *extra, cwd=tmp_path, **environment)
        assert result.returncode == 0, result.stdout + result.stderr
        assert "Traceback" not in result.stderr
    folder = tmp_path / "runs" / "train" / "exp"
    pictures = {path.name for path in folder.iterdir()} - {"weights"}
    expected = {"results.csv", "results.png", "labels.png", "train_batch0.jpg", "val_batch0.jpg", "config.yaml"}
    expected |= {"env.json", "metrics.json", "pr_curve.png", "f1_curve.png", "confusion_matrix.png"}
    assert expected <= pictures
    val_folder = tmp_path / "runs" / "val" / "exp"
    assert {"metrics.json", "metrics.csv", "val_batch0.jpg"} <= {path.name for path in val_folder.iterdir()}
    check_that_torch_alone_loads(folder / "weights" / "best.pt", tmp_path / "alone")


def check_that_torch_alone_loads(best, folder):
    """In an empty folder, where neither this project nor any package but torch and what torch needs can be imported."""
    folder.mkdir()
    shutil.copy(best, folder)
    result = run("-I", "-c", WITH_TORCH_ALONE, cwd=folder)
    assert result.returncode == 0, result.stderr
    names, epoch, backbone, with_numpy = json.loads(result.stdout)
    assert (names[0], epoch, backbone, with_numpy) == ("disc", 1, "darknet_tiny", False)


def broken(data, tmp_path, change):
    """A copy of the data set with something broken in it."""
    copy = tmp_path / "broken"
    shutil.copytree(Path(data).parent, copy)
    change(copy)
    return copy / "shapes.yaml"


def append(file, text):
    file.write_text(file.read_text() + text)


BREAKAGES = {
    "class id": (lambda d: append(d / "labels/train/000000.txt", "99 .5 .5 .1 .1\n"), "labels/train/000000.txt:"),
    "malformed": (lambda d: append(d / "labels/train/000001.txt", "1 .5 .5\n"), "labels/train/000001.txt:"),
    "text": (lambda d: append(d / "labels/val/000001.txt", "1 .5 .5 x .1\n"), "labels/val/000001.txt:"),
    "no labels": (lambda d: (d / "labels").rename(d / "elsewhere"), "labels/train/000000.txt"),
    "no folder": (lambda d: (d / "images/val").rename(d / "elsewhere"), "broken/images/val"),
    "empty val": (lambda d: [file.unlink() for file in (d / "images/val").iterdir()], "val"),
    "nc": (lambda d: append(d / "shapes.yaml", "nc: 3\n"), "nc"),
    "unknown key": (lambda d: append(d / "shapes.yaml", "vall: x\n"), "did you mean 'val'"),
    "not yaml": (lambda d: (d / "shapes.yaml").write_text("a: [b\n"), "shapes.yaml:"),
}


@pytest.mark.parametrize("kind", BREAKAGES)
def test_broken_data_gets_one_line_and_leaves_nothing(kind, data, tmp_path):
    change, message = BREAKAGES[kind]
    yaml_file = broken(data, tmp_path, change)
    before = sorted(tmp_path.rglob("*"))
    result = run(ROOT / "train.py", *FAST, "--data", yaml_file, cwd=tmp_path)
    assert message in one_line_error(result)
    assert sorted(tmp_path.rglob("*")) == before


def test_what_can_be_mended_is_listed_and_training_goes_on(data, tmp_path):
    def change(copy):
        (copy / "images/train/000000.jpg").write_bytes(b"not a picture")
        append(copy / "labels/train/000001.txt", "1 0.999 0.5 0.01 0.1\n")
        append(copy / "labels/train/000002.txt", "1 1.5 0.5 0.2 0.2\n")

    result = run(ROOT / "train.py", *FAST, "--no-plots", "--data", broken(data, tmp_path, change), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    said = result.stdout + result.stderr
    assert "000000.jpg" in said
    assert "000002.txt:" in said
    assert "clipped" in said


def test_val_refuses_what_it_cannot_validate(data, tmp_path):
    result = run(ROOT / "val.py", cwd=tmp_path)
    assert "train first" in one_line_error(result)
    (tmp_path / "text.pt").write_text("hello")
    assert "not a checkpoint" in one_line_error(run(ROOT / "val.py", "--weights", "text.pt", cwd=tmp_path))
    assert "unknown flag" in one_line_error(run(ROOT / "val.py", "--weight", "text.pt", cwd=tmp_path))
