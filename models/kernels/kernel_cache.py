"""Kernels in the user's cache: compiled once, and before their first use in processes of their own.

This module does not import torch, whose import takes longer than most kernels.
"""

import contextlib
import functools
import hashlib
import importlib
import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

# The files with loops, what of them is called, and by what: training calls all of it.
KERNELS: dict[str, dict[str, tuple[str, ...]]] = {
    "norm_loops": {
        "evaluation": ("forward_pool", "through"),
        "training": (
            "statistics",
            "finish_statistics",
            "gradient_sums",
            "finish_gradient_sums",
            "backward_pool",
        ),
    },
    "tile_loops": {
        "evaluation": ("input_tiles", "weight_tiles", "output_of_tiles"),
        "training": ("output_tiles_gradient", "input_gradient", "weight_gradient"),
    },
}
SOURCES = (*(f"{room}.py" for room in KERNELS), "vectors.py", "work_order.py")
# LLVM's level of optimisation: the loops are written as vectors, which higher levels make no faster, only later.
OPTIMISATION = "1"
# What a kernel is called as, and the function that calls numba's, which wants places for a result and an exception too.
ENTRY = "kernel"
CALLING = """
declare i32 @"{inner}"(ptr, ptr, ptr)
define void @{entry}(ptr %work) {{
  %result = alloca ptr
  %exception = alloca ptr
  %status = call i32 @"{inner}"(ptr %result, ptr %exception, ptr %work)
  ret void
}}
"""
# The variable that names the cache, to those that compile ahead.
FOLDER = "ALIGNYOLO_KERNELS"
DIGEST = hashlib.sha256().digest_size
_AHEAD: dict[Path, subprocess.Popen] = {}


class Kernel:
    """A compiled kernel: a C function at `address` of one argument, the address of a work order."""

    def __init__(self, code: bytes) -> None:
        from llvmlite import binding

        self.engine = binding.create_mcjit_compiler(binding.parse_assembly(""), target_machine())  # keeps the code
        self.engine.add_object_file(binding.ObjectFileRef.from_data(code))
        self.engine.finalize_object()
        self.address = self.engine.get_function_address(ENTRY)


def compiled_kernel(room: str, function: str, stored: str) -> Kernel:
    """Return a kernel for numbers that memory holds as `stored` (numba's name): compiled, or read from the cache.

    What the cache holds is machine code, which needs llvmlite alone: importing numba takes half a second and 80 MB.
    """
    _wait_for(room, stored)
    path = kernel_folder() / f"{room}-{function}-{stored}.o"
    code = _intact(path)
    if code is None:
        code = machine_code(room, function, stored)
        _write(path, hashlib.sha256(code).digest() + code)
    return Kernel(code)


def machine_code(room: str, function: str, stored: str) -> bytes:
    """Compile a kernel by numba and LLVM; raises ImportError without numba."""
    import numba
    from llvmlite import binding

    loops = getattr(importlib.import_module(f"models.kernels.{room}"), function)
    signature = numba.types.void(numba.types.CPointer(getattr(numba.types, stored)))
    bare = {"error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    compiled = numba.njit(signature, **bare)(loops)
    machine = target_machine()
    module = binding.parse_assembly(compiled.inspect_llvm(compiled.signatures[0]))
    (inner,) = (each for each in module.functions if not each.is_declaration)
    module.link_in(binding.parse_assembly(CALLING.format(entry=ENTRY, inner=inner.name)))
    return machine.emit_object(module)


def target_machine() -> Any:
    """Return LLVM's description of the CPU at hand, for code that is loaded into this process."""
    from llvmlite import binding

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    cpu, features = binding.get_host_cpu_name(), binding.get_host_cpu_features().flatten()
    target = binding.Target.from_triple(binding.get_process_triple())
    return target.create_target_machine(cpu=cpu, features=features, opt=2, codemodel="jitdefault")


def _intact(path: Path) -> bytes | None:
    """Return the code in a file of the cache; None if it is not there, or not what was written."""
    try:
        contents = path.read_bytes()
    except OSError:
        return None
    digest, code = contents[:DIGEST], contents[DIGEST:]
    return code if hashlib.sha256(code).digest() == digest else None


def _write(path: Path, contents: bytes) -> None:
    """Write a file of the cache in one go: other processes may be reading or writing it."""
    with contextlib.suppress(OSError), tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(contents)
        file.close()
        Path(file.name).replace(path)


@functools.cache
def kernel_folder() -> Path:
    """Return where the code for this CPU is kept: a home folder may be that of machines with others."""
    from llvmlite import binding

    cpu = f"{binding.get_process_triple()} {binding.get_host_cpu_name()} {binding.get_host_cpu_features().flatten()}"
    versions = f"{metadata.version('llvmlite')} {metadata.version('numba')}"
    folder = cache_folder() / hashlib.sha256(f"{cpu} {versions}".encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@functools.cache
def cache_folder() -> Path:
    """Return where kernels compiled from exactly these sources are kept.

    In the user's cache folder, or where nothing can be written to that, in a temporary one.
    """
    if given := os.environ.get(FOLDER):
        return Path(given)
    sources = b"".join(Path(__file__).with_name(name).read_bytes() for name in SOURCES)
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(root) / "alignyolo" / "kernels" / hashlib.sha256(sources).hexdigest()[:16]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        return Path(tempfile.mkdtemp(prefix="alignyolo-kernels-"))


def compile_ahead(stored: str, rooms: Iterable[str] = KERNELS, use: str = "training") -> None:
    """Begin to compile what of these files is not in the cache yet, each file in a process of its own.

    What training needs has what evaluation needs in it. The first use of a kernel waits for its file. Where a process
    fails, kernels are compiled when they are used.
    """
    if importlib.util.find_spec("numba") is None:
        return
    for room in rooms:
        stamps = [_stamp(room, stored, whole) for whole in dict.fromkeys((use, "training"))]
        if any(stamp in _AHEAD or stamp.exists() for stamp in stamps):
            continue
        command = [sys.executable, "-m", "models.kernels.kernel_cache", room, stored, use]
        silence: Any = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
        paths = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {"NUMBA_OPT": OPTIMISATION, **os.environ} | {FOLDER: str(cache_folder()), "PYTHONPATH": paths}
        try:
            _AHEAD[stamps[0]] = subprocess.Popen(command, env=environment, **silence)
        except OSError:
            return


def _wait_for(room: str, stored: str) -> None:
    """Wait until the processes that compile a file for such numbers have ended."""
    for stamp in [stamp for stamp in _AHEAD if stamp.name.startswith(f"{room}-{stored}-")]:
        _AHEAD.pop(stamp).wait()


def _stamp(room: str, stored: str, use: str) -> Path:
    """Return the file that says that all kernels of a file for this use are in the cache."""
    return kernel_folder() / f"{room}-{stored}-{use}.compiled"


def main() -> None:
    """Compile one file's kernels into the cache."""
    room, stored, use = sys.argv[1:]
    for function in (*KERNELS[room]["evaluation"], *(KERNELS[room]["training"] if use == "training" else ())):
        compiled_kernel(room, function, stored)
    _stamp(room, stored, use).touch()


if __name__ == "__main__":
    main()
