"""What is compiled before torch is there is what training asks for later, and nothing where it would not be used."""

import subprocess
import sys

import pytest

from engine.settings import configure
from engine.settings.kernels_ahead import compile_before_torch
from engine.settings.used_settings import Choices
from models.kernels import kernel_cache
from tests.paths import ROOT
from utils.config.knobs import RunConfig
from utils.config.sources import hyperparameters, model_config

BOTH = ["norm_loops", "tile_loops"]


@pytest.fixture
def asked(monkeypatch):
    """What is to be compiled."""
    calls = []
    monkeypatch.setattr(kernel_cache, "compile_ahead", lambda stored, rooms: calls.append((stored, list(rooms))))
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    return calls


def chosen(cfg="yolov3-tiny", kernels="on", **flags):
    return Choices(RunConfig(**flags), model_config(cfg, {}), hyperparameters("", {"cpu_kernels": kernels}))


def machine(folder, flags, gpu=False):
    """A folder that tells of a Linux machine as its /proc and /dev do."""
    (folder / "proc").mkdir()
    (folder / "dev").mkdir()
    (folder / "proc/cpuinfo").write_text(f"processor\t: 0\nflags\t\t: fpu {flags}\nbugs\t\t: none\n")
    if gpu:
        (folder / "dev/nvidia0").touch()
    return folder


@pytest.mark.parametrize(
    ("flags", "given", "expected"),
    [
        ("avx512_bf16", {}, [("uint16", BOTH)]),
        ("avx512_bf16 amx_bf16", {}, [("uint16", BOTH)]),
        ("amx_bf16", {}, [("uint16", ["norm_loops"])]),
        ("avx2", {}, [("float32", BOTH)]),
        ("avx512_bf16", {"amp": "off"}, [("float32", BOTH)]),
        ("avx2", {"amp": "bf16"}, [("uint16", ["norm_loops"])]),
        ("avx512_bf16", {"device": "cpu"}, [("uint16", BOTH)]),
        ("avx512_bf16", {"kernels": "off"}, []),
        ("avx512_bf16", {"cfg": "retinanet_resnet18_fpn"}, []),
    ],
)
def test_what_the_cpu_and_the_flags_ask_for(flags, given, expected, asked, tmp_path):
    compile_before_torch(chosen(**given), machine(tmp_path, flags))
    assert asked == expected


@pytest.mark.parametrize("device", ["", "cpu"])
def test_a_machine_with_a_gpu_compiles_only_when_told_to_use_the_cpu(device, asked, tmp_path):
    compile_before_torch(chosen(device=device), machine(tmp_path, "avx2", gpu=True))
    assert bool(asked) == (device == "cpu")


def test_of_several_processes_the_first_compiles(asked, tmp_path, monkeypatch):
    root = machine(tmp_path, "avx2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    compile_before_torch(chosen(), root)
    assert not asked
    monkeypatch.setenv("LOCAL_RANK", "0")
    compile_before_torch(chosen(), root)
    assert len(asked) == 1


def test_a_machine_that_tells_nothing_is_left_alone(asked, tmp_path):
    compile_before_torch(chosen(), tmp_path / "nothing")
    assert not asked


def test_torch_is_not_imported_for_it():
    script = "import sys; from engine.settings.kernels_ahead import compile_before_torch; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_training_begins_with_it_before_the_data_is_opened(asked, tmp_path, monkeypatch):
    monkeypatch.setattr(configure, "open_data", lambda *_: pytest.fail(f"opened after {len(asked)}"))
    with pytest.raises(pytest.fail.Exception, match="opened after 1"):
        configure.plan_run({}, lambda choices: compile_before_torch(choices, machine(tmp_path, "avx2")))
