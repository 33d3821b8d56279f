"""The plug-in inside old and new versions of ultralytics, each in a folder of its own, in processes of their own.

Slow: pip fetches what is not there. What an old version needs of other packages comes beside it, in the same folder.
"""

import json
import os
import subprocess
import sys

import pytest

from data.shapes.demo_set import make_shapes
from tests.paths import ROOT

pytestmark = pytest.mark.slow
# 8.3 is written for NumPy before 2.4, which has no trapz.
OLD = ("numpy==2.2.*", "pandas==2.2.*", "python-dateutil", "pytz", "six")
VERSIONS = {"8.3.0": OLD, "8.3.200": OLD, "8.4.0": (), "installed": ()}
MODELS = {"8.3.0": ("yolo11n",), "8.3.200": ("yolo11n", "yolo12n")}
ALL = ("yolo11n", "yolo12n", "yolo26n")
RUNS = [(version, model) for version in VERSIONS for model in MODELS.get(version, ALL)]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """A few drawn pictures, which ultralytics reads as they are."""
    return make_shapes(tmp_path_factory.mktemp("data") / "shapes", seed=2, train=8, val=4, size=96)


@pytest.fixture(scope="module")
def path_of(tmp_path_factory):
    """The folder of a version, filled when it is first asked for; None is the one that is installed."""
    folders = {"installed": None}

    def found(version):
        if version not in folders:
            folder = tmp_path_factory.mktemp(version)
            wanted = (f"ultralytics=={version}", *VERSIONS[version])
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
            done = subprocess.run([*pip, "--target", folder, *wanted], capture_output=True, text=True)
            if done.returncode:
                pytest.skip(f"pip could not fetch ultralytics {version}: {done.stderr.strip()[-200:]}")
            folders[version] = folder
        return folders[version]

    return found


SCRIPT = ROOT / "tests" / "alignyolo" / "trains_in_ultralytics.py"


def ran(path, folder, *arguments):
    """The output of python run with a version of ultralytics, which writes its settings in the folder alone."""
    places = [str(each) for each in (path, ROOT) if each]
    quiet = {"YOLO_OFFLINE": "1", "YOLO_AUTOINSTALL": "0", "YOLO_CONFIG_DIR": str(folder), "OMP_NUM_THREADS": "1"}
    environment = {**os.environ, **quiet, "PYTHONPATH": os.pathsep.join(places)}
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize(("version", "model"), RUNS)
def test_a_version_trains_resumes_and_validates(version, model, path_of, shapes, tmp_path):
    asked = ("--loss", "inner_wiou_v3", "--assign", "ggiou", "--with-us", "--stop")
    lines = ran(path_of(version), tmp_path, SCRIPT, shapes, tmp_path, f"{model}.yaml", *asked).splitlines()
    found = json.loads(lines[-1])
    assert version in (found["version"], "installed")
    assert set(found["losses"]) == {"SimilarityBoxLoss"}
    assert set(found["assigners"]) == {"HeadAssigner"}
    assert len(found["losses"]) == (2 if model == "yolo26n" else 1)
    assert found["asked"] == {"align_loss": "inner_wiou_v3", "align_assign": "ggiou"}


@pytest.mark.parametrize(("version", "model"), [(version, models) for version, models in RUNS if models != "yolo12n"])
def test_what_is_not_asked_for_trains_to_the_same_bits(version, model, path_of, shapes, tmp_path):
    """Without the plug-in, and with it where nothing is asked for."""
    found = []
    for number, asked in enumerate(((), ("--with-us",))):
        folder = tmp_path / str(number)
        folder.mkdir()
        lines = ran(path_of(version), folder, SCRIPT, shapes, folder, f"{model}.yaml", *asked).splitlines()
        found.append(json.loads(lines[-1])["bits"])
    assert found[0] == found[1]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_version_trains_from_the_command_line(version, path_of, shapes, tmp_path):
    own = {"data": shapes, "project": tmp_path, "name": "run", "epochs": 1, "imgsz": 96, "batch": 4, "workers": 0}
    own |= {"device": "cpu", "amp": False, "plots": False, "loss": "sca", "assign": "ggiou"}
    own["model"] = f"{MODELS.get(version, ALL)[-1]}.yaml"
    arguments = [f"{name}={value}" for name, value in own.items()]
    ran(path_of(version), tmp_path, "-m", "alignyolo.ultralytics", *arguments)
    assert (tmp_path / "run" / "weights" / "best.pt").is_file()


def test_processes_on_other_gpus_start_from_the_file_that_ultralytics_writes_for_them(shapes, tmp_path):
    """They import the trainer by its name, and find the choices among its arguments."""
    pytest.importorskip("cloudpickle")  # ultralytics' own need, for several GPUs alone
    asked = ("--loss", "sca", "--assign", "ggiou", "--with-us", "--spawned")
    found = json.loads(ran(None, tmp_path, SCRIPT, shapes, tmp_path, "yolo11n.yaml", *asked).splitlines()[-1])
    assert found["asked"] == {"align_loss": "sca", "align_assign": "ggiou"}


@pytest.mark.parametrize("version", VERSIONS)
def test_a_version_that_leaves_box_losses_out_trains_no_mean_over_gpus(version, path_of, tmp_path):
    code = "from alignyolo.ultralytics import *; check_processes('sca', 2)\ntry: check_processes('wiou_v3', 2)\n"
    said = ran(path_of(version), tmp_path, "-c", f"{code}except UnevenProcesses as error: print(error)")
    assert ("computes no box loss" in said) == (version != "installed")
