"""No command opens a connection, looks up an address or leaves anything in HOME, in whatever format."""

import json
import os
import subprocess
import sys

import pytest

from tests.lively import lively_checkpoint
from tests.paths import ROOT
from utils.config.export_formats import EXPORT_FORMATS

# Every way out of the process is written down, and closed; services on this machine stay open to it.
PRELUDE = """
import json, os, socket, sys
asked = []
def refused(*given, **named):
    asked.append(repr(given[:2])); raise OSError("refused by the test")
socket.getaddrinfo = socket.gethostbyname = refused
connect = socket.socket.connect
def local(self, address):
    return connect(self, address) if self.family == socket.AF_UNIX else refused(address)
socket.socket.connect = socket.socket.connect_ex = local
folder, weights, name, data = sys.argv[1:5]
"""
AFTER = """
import time
time.sleep(1)  # what a library sends, it sends from another thread
home = os.environ["HOME"]
files = [os.path.relpath(os.path.join(at, file), home) for at, _, files in os.walk(home) for file in files]
own = ".cache/alignyolo/"  # parsed labels
print(json.dumps({"asked": asked, "home": [file for file in files if not file.startswith(own)]}))
"""
SEEN = """
from export import export
from detect import detect
from val import validate
(file,) = export(weights=weights, format=[name], output=f"{folder}/{name}")
settings = {"plots": False, "report": False, "project": folder, "workers": 0}
validate(weights=str(file), data=data, **settings)
detect(weights=str(file), source=os.path.dirname(data) + "/images/val", project=folder)
"""
OTHERS = """
from train import train
from convert import main
from import_weights import main as imported
train(data=data, epochs=1, imgsz=[64], batch_size=4, workers=0, project=folder, plots=False)
sys.argv = ["convert.py", "--help"]
try: main()
except SystemExit: pass
"""


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    from data.shapes.demo_set import make_shapes

    names = ("disc", "ring", "square", "triangle", "cross", "bar")
    folder = tmp_path_factory.mktemp("offline")
    data = make_shapes(folder / "shapes", seed=3, train=4, val=2, size=64)
    changes = {"channels": [8, 8, 16, 16, 32, 32, 64]}
    return data, lively_checkpoint(folder / "best.pt", "yolov3-tiny", changes, names, (64, 64))


def traces(script, weights, name, home):
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("XDG_", "ORT_", "YOLO_"))}
    environment |= {"HOME": str(home), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    data, file = weights
    script = PRELUDE + script + AFTER
    command = [sys.executable, "-W", "ignore", "-c", script, str(home.parent), str(file), name, str(data)]
    result = subprocess.run(command, env=environment, cwd=home.parent, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", EXPORT_FORMATS)
def test_exporting_validating_and_detecting(name, weights, tmp_path):
    entry = EXPORT_FORMATS[name]
    if name == "darknet":
        pytest.skip("this model is none of Darknet's; its writer is a file of this project")
    for module in (*entry.writes, *entry.opens):
        pytest.importorskip(module)
    (tmp_path / "home").mkdir()
    assert traces(SEEN, weights, name, tmp_path / "home") == {"asked": [], "home": []}


def test_training_and_converting(weights, tmp_path):
    (tmp_path / "home").mkdir()
    assert traces(OTHERS, weights, "train", tmp_path / "home") == {"asked": [], "home": []}
