"""--compile: the same training from a compiled network, and a refusal where nothing can compile it."""

import shutil

import pytest
import torch

from train import train
from utils.checkpoint import load_checkpoint
from utils.device import require_compiler
from utils.errors import UserError
from utils.run_folder import read_csv

CPU = torch.device("cpu")


def test_without_a_compiler_it_is_refused_with_the_reason(monkeypatch, flags):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(UserError, match="--compile: needs .*not at hand"):
        train(**flags, compiled=True)
    monkeypatch.setenv("CXX", "my-compiler -O2")
    with pytest.raises(UserError, match="needs my-compiler"):
        require_compiler(CPU)
    with pytest.raises(UserError, match="not mps"):
        require_compiler(torch.device("mps"))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ to compile with")
def test_a_compiled_network_trains_alike_and_saves_the_same_names(flags):
    folders = [train(**(flags | {"epochs": 1}), compiled=compiled, name=str(compiled)) for compiled in (False, True)]
    eager, compiled = (read_csv(folder / "results.csv")[0] for folder in folders)
    assert float(compiled["loss"]) == pytest.approx(float(eager["loss"]), rel=1e-3)
    names = [list(load_checkpoint(folder / "weights" / "last.pt")["network"]) for folder in folders]
    assert names[0] == names[1]
