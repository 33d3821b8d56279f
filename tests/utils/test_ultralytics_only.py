"""Importing ultralytics through the door: no network, nothing written in HOME, nothing changed in the process."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import torch

from tests.paths import ROOT

# Runs in a fresh interpreter. The audit hook sees every attempt, also one whose error the library would swallow.
GUARDED_IMPORT = """
import json, os, sys, tempfile, warnings
import cv2, numpy, torch
from PIL import Image

network, written = [], []
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
tempfile.gettempdir()  # its first call writes a file to see whether it can

def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        network.append(str(arguments))
        raise OSError("no network in this test")
    if event == "open" and isinstance(arguments[0], (str, bytes)) and arguments[2] & WRITING:
        written.append(os.fsdecode(arguments[0]))
    if event in ("os.mkdir", "os.rename"):
        written.append(os.fsdecode(arguments[0]))

def state():
    functions = [torch.save, torch.load, Image.open, cv2.imread, cv2.imwrite, cv2.imshow]
    options = [str(numpy.get_printoptions()), str(torch._tensor_str.PRINT_OPTS), len(warnings.filters)]
    flags = [torch.backends.cudnn.benchmark, torch.get_num_threads(), torch.is_grad_enabled()]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("YOLO_")}
    return [*map(id, functions), cv2.getNumThreads(), *options, *flags, environment]

sys.dont_write_bytecode = True
before = state()
sys.addaudithook(watch)
import utils.ultralytics_only as door
after = state()
outside = [path for path in written if not path.startswith(os.environ["YOLO_CONFIG_DIR"]) and path != "/dev/null"]
from ultralytics.utils import AUTOINSTALL, LOCAL_RANK, ONLINE, SETTINGS, WORLD_SIZE
print(json.dumps({
    "network": network, "outside": outside, "same": before == after, "folder": os.environ["YOLO_CONFIG_DIR"],
    "online": ONLINE, "telemetry": SETTINGS["sync"], "install": AUTOINSTALL,
    "distributed": [WORLD_SIZE, LOCAL_RANK], "heavy": sorted({"matplotlib", "requests", "polars"} & set(sys.modules)),
}))
"""


def guarded_import(home: Path, **environment) -> tuple[dict, str]:
    """What the guarded import reports, and its stderr."""
    variables = {key: value for key, value in os.environ.items() if not key.startswith(("YOLO_", "PYTEST"))}
    variables |= {"HOME": str(home), "XDG_CONFIG_HOME": str(home / "config"), "PYTHONPATH": str(ROOT), **environment}
    command = [sys.executable, "-c", GUARDED_IMPORT]
    done = subprocess.run(command, env=variables, cwd=home, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr  # stdout holds the report alone: the import printed nothing


def test_import_is_offline_silent_and_leaves_no_trace(tmp_path):
    report, stderr = guarded_import(tmp_path)
    assert report["network"] == []
    assert report["outside"] == []
    assert report["same"], "the process state changed"
    assert (report["online"], report["telemetry"], report["install"]) == (False, False, False)
    assert report["heavy"] == []
    assert stderr == ""
    assert list(tmp_path.iterdir()) == []
    assert not Path(report["folder"]).exists(), "the settings folder outlived the process"


def test_import_by_one_rank_alone_does_not_wait_for_the_others(tmp_path):
    report, _ = guarded_import(tmp_path, WORLD_SIZE="2", RANK="1", LOCAL_RANK="1")
    assert report["distributed"] == [1, -1]  # as one process, ultralytics passes its barrier by
    assert report["same"]


def test_threads_keep_the_environment_while_they_make_results(tmp_path):
    """In a process of its own: the first call imports, which must lose no variable for good."""
    script = """
import os, sys, threading
import numpy as np, torch
from utils.ultralytics_only import result
for number in range(40): os.environ[f"SERVICE_{number}"] = "x"
before, lost = dict(os.environ), []
torch.set_printoptions(precision=8)
sys.setswitchinterval(1e-5)
parts = (np.zeros((64, 64, 3), np.uint8), "", {0: "a"}, torch.zeros(1, 4), torch.ones(1), torch.zeros(1))
def look():
    while started[0].is_alive(): lost.extend(name for name in ("SERVICE_1", "SERVICE_39") if name not in os.environ)
def work():
    for _ in range(300): result(*parts)
started = [threading.Thread(target=work) for _ in range(4)]
started.append(threading.Thread(target=look))
for each in started: each.start()
for each in started: each.join()
assert dict(os.environ) == before, set(before) ^ set(os.environ)
assert not lost, len(lost)
assert torch._tensor_str.PRINT_OPTS.precision == 8
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_the_average_works_without_a_word(capfd):
    from utils.ultralytics_only import ModelEMA

    model = torch.nn.Linear(2, 1)
    ema = ModelEMA(model, decay=0.5, tau=1)
    start = model.weight.detach().clone()
    with torch.no_grad():
        model.weight.add_(1)
    ema.update(model)
    rate = ema.decay(1)
    assert torch.allclose(ema.ema.weight, rate * start + (1 - rate) * model.weight)
    assert capfd.readouterr() == ("", "")


def test_nothing_else_imports_ultralytics():
    folders = [ROOT / name for name in ("data", "models", "engine", "utils")]
    paths = [path for folder in folders for path in folder.rglob("*.py")] + list(ROOT.glob("*.py"))
    importers = set()
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.split(".")[0] == "ultralytics" for name in names):
                importers.add(path.name)
    assert importers == {"ultralytics_only.py"}
