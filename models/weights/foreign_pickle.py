"""Other people's PyTorch checkpoints as inert data: their pickle is read, never run.

A pickle is a program that can call anything. Here its opcodes move values between containers of ours; a class
becomes a StandIn (its name, arguments and state), and a name that no detector checkpoint needs is refused.
"""

import math
import pickletools
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from utils.errors import UserError, printable

LARGEST_PICKLE = 64 * 2**20
LARGEST_CHECKPOINT = 4 * 2**30
MOST_ENTRIES = 100_000

STORAGES = {
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.DoubleStorage": torch.float64,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}
TENSOR = ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter")
# What a checkpoint may name as a function to call; none is called, the arguments are kept beside the name.
CALLS = {
    *TENSOR,
    *(f"{module}.{kind}" for module in ("builtins", "__builtin__") for kind in ("set", "frozenset", "list", "dict")),
    *(f"{module}.multiarray.{kind}" for module in ("numpy.core", "numpy._core") for kind in ("scalar", "_reconstruct")),
    *(f"pathlib.{kind}" for kind in ("Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")),
    *(f"pathlib._local.{kind}" for kind in ("Path", "PosixPath", "WindowsPath")),
    *("collections.OrderedDict", "collections.defaultdict", "torch.Size", "torch.device", "numpy.dtype"),
    *("argparse.Namespace", "types.SimpleNamespace", "_codecs.encode", "datetime.datetime"),
}
TORCH_CLASSES = {
    f"torch.nn.modules.{name}"
    for name in (
        *("activation.SiLU", "activation.LeakyReLU", "activation.Hardswish", "activation.ReLU", "activation.Sigmoid"),
        *("batchnorm.BatchNorm2d", "container.ModuleList", "container.ModuleDict", "container.Sequential"),
        *("conv.Conv2d", "conv.ConvTranspose2d", "linear.Identity", "padding.ZeroPad2d", "pooling.MaxPool2d"),
        *("upsampling.Upsample", "loss.BCEWithLogitsLoss", "dropout.Dropout"),
    )
}
TYPES = {*STORAGES, *TORCH_CLASSES, "numpy.ndarray", *(f"torch.{name}" for name in ("float32", "float16", "int64"))}
FOREIGN_PACKAGES = ("models", "ultralytics", "utils")  # of the yolov3, yolov5 and ultralytics repositories


class Refused(Exception):
    """What is wrong with a checkpoint, in a few words."""


@dataclass(frozen=True)
class Name:
    """A class or function that a pickle names; nothing of it is imported."""

    text: str


@dataclass(eq=False)
class StandIn:
    """An object of a foreign class: the class's name, its arguments and its state, without any behaviour."""

    kind: str
    arguments: tuple = ()
    state: Any = field(default=None)

    def get(self, key: str, default: Any = None) -> Any:
        """Return an attribute of the pickled object."""
        return self.state.get(key, default) if isinstance(self.state, dict) else default


def read_foreign(path: Path) -> Any:
    """Return a PyTorch checkpoint as containers, numbers, text, tensors and StandIns; UserError for anything else."""
    try:
        with zipfile.ZipFile(path) as archive:
            return Reader(archive).value()
    except (Refused, zipfile.BadZipFile, EOFError, OSError, ValueError, NotImplementedError) as error:
        raise UserError(f"{printable(path)}: not a checkpoint, or damaged ({printable(error, 160)})") from None
    except (TypeError, IndexError, KeyError, AttributeError, RuntimeError, OverflowError, MemoryError) as error:
        raise UserError(
            f"{printable(path)}: a damaged checkpoint ({type(error).__name__} while reading its pickle)"
        ) from None


def pickle_bytes(archive: zipfile.ZipFile) -> tuple[bytes, str]:
    """Return the pickle of a checkpoint archive and the folder it lies in.

    Refused for an archive torch would not write.
    """
    entries = archive.infolist()
    if len(entries) > MOST_ENTRIES or sum(entry.file_size for entry in entries) > LARGEST_CHECKPOINT:
        raise Refused(f"larger than {LARGEST_CHECKPOINT >> 30} GiB or {MOST_ENTRIES} entries when unpacked")
    if any(entry.compress_type != zipfile.ZIP_STORED or entry.file_size > entry.compress_size for entry in entries):
        raise Refused("compressed entries, which torch never writes")
    found = [entry for entry in entries if entry.filename.split("/")[-1] == "data.pkl"]
    if len(found) != 1:
        raise Refused(f"{len(found)} entries named data.pkl, one was expected")
    if found[0].file_size > LARGEST_PICKLE:
        raise Refused(f"its data.pkl is larger than {LARGEST_PICKLE >> 20} MiB")
    return archive.read(found[0]), found[0].filename.removesuffix("data.pkl")


def has_entry(pickle: bytes, key: str, value: str) -> bool:
    """Tell whether a pickle puts a text under a key, by its opcodes alone; ValueError for what is no pickle.

    Texts that hold the two, such as the path of a folder, are none.
    """
    before = None
    for opcode, argument, _ in pickletools.genops(pickle):
        if opcode.name in MEMORIES:
            continue
        if before == key and argument == value:
            return True
        before = argument if opcode.name in TEXTS else None
    return False


class Reader:
    """Interprets the opcodes of one checkpoint's pickle."""

    def __init__(self, archive: zipfile.ZipFile):
        self.archive = archive
        self.pickle, self.folder = pickle_bytes(archive)
        order = f"{self.folder}byteorder"
        if order in archive.namelist() and archive.read(order).strip() != b"little":
            raise Refused("written on a big-endian machine")
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Tensor] = {}

    def value(self) -> Any:
        """Return what the pickle holds."""
        for opcode, argument, _ in pickletools.genops(self.pickle):
            if opcode.name == "STOP":
                return self.stack.pop()
            self.step(opcode.name, argument)
        raise Refused("its pickle has no end")

    def step(self, opcode: str, argument: Any) -> None:
        """Run one opcode."""
        if opcode in LITERALS:
            self.stack.append(argument)
        elif opcode in CONSTANTS:
            self.stack.append(CONSTANTS[opcode]())
        elif opcode in ACTIONS:
            ACTIONS[opcode](self, argument)
        else:
            raise Refused(f"its pickle uses {opcode}, which no checkpoint needs")

    def marked(self) -> list[Any]:
        """Pop what stands above the last mark."""
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def popped(self, count: int) -> list[Any]:
        """Pop the last `count` values."""
        if count > len(self.stack):
            raise Refused("its pickle takes more than it put down")
        items = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return items

    def name(self, argument: Any) -> None:
        """Keep a named class or function that checkpoints need; refuse any other."""
        module, _, attribute = argument.partition(" ")
        text = f"{module}.{attribute}"
        if text not in CALLS | TYPES and module.split(".")[0] not in FOREIGN_PACKAGES:
            raise Refused(f"refused: it names {text}")
        self.stack.append(Name(text))

    def stacked_name(self, _: Any) -> None:
        """Look up a class or function that two texts on the stack name."""
        module, attribute = self.popped(2)
        self.name(f"{module} {attribute}")

    def call(self, _: Any) -> None:
        """Call a function: tensors are built, the rest becomes a StandIn."""
        function, arguments = self.popped(2)
        if not isinstance(function, Name) or function.text not in CALLS:
            raise Refused(f"refused: it calls {function.text if isinstance(function, Name) else 'a value'}")
        self.stack.append(self.called(function.text, arguments))

    def called(self, function: str, arguments: tuple) -> Any:
        """Return the inert value of an admitted call."""
        if function == TENSOR[0]:
            return tensor_view(*arguments[:4])
        if function == TENSOR[1]:
            return arguments[0]
        if function in ("collections.OrderedDict", "builtins.dict", "__builtin__.dict"):
            return dict(arguments[0]) if arguments else {}
        if function.endswith((".set", ".frozenset", ".list")):
            return list(arguments[0]) if arguments else []
        if function == "torch.Size":
            return tuple(arguments[0])
        return StandIn(function, tuple(arguments))

    def make(self, _: Any) -> None:
        """Make an object."""
        kind, arguments = self.popped(2)
        if not isinstance(kind, Name) or kind.text in STORAGES:
            raise Refused("refused: it makes an object of something that is no class")
        self.stack.append(StandIn(kind.text, arguments))

    def build(self, _: Any) -> None:
        """Give an object its state."""
        (state,) = self.popped(1)
        if isinstance(self.stack[-1], StandIn):
            self.stack[-1].state = state

    def storage(self, _: Any) -> None:
        """Read a tensor's memory, named by (storage, type, key, device, length)."""
        kind, storage, key, _, length = self.popped(1)[0]
        if kind != "storage" or not isinstance(storage, Name) or storage.text not in STORAGES:
            raise Refused("a tensor of an unknown type")
        if key not in self.storages:
            data, dtype = bytearray(self.archive.read(f"{self.folder}data/{key}")), STORAGES[storage.text]
            if len(data) != length * dtype.itemsize:
                raise Refused("a tensor whose length is not that of its data")
            self.storages[key] = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        self.stack.append(self.storages[key])


def tensor_view(storage: Tensor, offset: int, size: tuple, stride: tuple) -> Tensor:
    """Return the tensor of a shape and stride in a storage; Refused if it would leave it."""
    if not isinstance(storage, Tensor) or len(size) != len(stride) or min((offset, *size, *stride), default=0) < 0:
        raise Refused("a tensor with a wrong shape")
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if math.prod(size) and (last >= storage.numel() or math.prod(size) > storage.numel()):
        raise Refused("a tensor that leaves its data")
    return torch.as_strided(storage, size, stride, offset)


def _append(reader: Reader, items: list[Any]) -> None:
    reader.stack[-1].extend(items)


def _set(reader: Reader, items: list[Any]) -> None:
    target = reader.stack[-1]
    if isinstance(target, StandIn):  # a subclass of dict: its items are of no use here
        return
    for key, value in zip(items[::2], items[1::2], strict=True):
        target[key] = value


def _remember(reader: Reader, key: Any) -> None:
    reader.memo[len(reader.memo) if key is None else key] = reader.stack[-1]


TEXTS = {"UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
MEMORIES = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}
LITERALS = {
    *TEXTS,
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES"),
}
CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": list,
}
ACTIONS: dict[str, Callable[[Reader, Any], Any]] = {
    "PROTO": lambda reader, _: None,
    "FRAME": lambda reader, _: None,
    "MARK": lambda reader, _: reader.marks.append(len(reader.stack)),
    "POP": lambda reader, _: reader.popped(1),
    "POP_MARK": lambda reader, _: reader.marked(),
    "TUPLE": lambda reader, _: reader.stack.append(tuple(reader.marked())),
    "TUPLE1": lambda reader, _: reader.stack.append(tuple(reader.popped(1))),
    "TUPLE2": lambda reader, _: reader.stack.append(tuple(reader.popped(2))),
    "TUPLE3": lambda reader, _: reader.stack.append(tuple(reader.popped(3))),
    "LIST": lambda reader, _: reader.stack.append(reader.marked()),
    "APPEND": lambda reader, _: _append(reader, reader.popped(1)),
    "APPENDS": lambda reader, _: _append(reader, reader.marked()),
    "ADDITEMS": lambda reader, _: _append(reader, reader.marked()),
    "SETITEM": lambda reader, _: _set(reader, reader.popped(2)),
    "SETITEMS": lambda reader, _: _set(reader, reader.marked()),
    "GET": lambda reader, key: reader.stack.append(reader.memo[key]),
    "BINGET": lambda reader, key: reader.stack.append(reader.memo[key]),
    "LONG_BINGET": lambda reader, key: reader.stack.append(reader.memo[key]),
    **dict.fromkeys(MEMORIES, _remember),
    "GLOBAL": Reader.name,
    "STACK_GLOBAL": Reader.stacked_name,
    "REDUCE": Reader.call,
    "NEWOBJ": Reader.make,
    "BUILD": Reader.build,
    "BINPERSID": Reader.storage,
}

MOST_MODULES, DEEPEST = 10_000, 32


def modules(root: StandIn) -> Iterator[tuple[str, StandIn]]:
    """Yield every module of a pickled torch module with its dotted path, in order; Refused for an endless tree."""
    seen = 0
    todo = [("", root, 0)]
    while todo:
        path, module, depth = todo.pop()
        seen += 1
        if seen > MOST_MODULES or depth > DEEPEST:
            raise Refused("modules without an end")
        yield path, module
        children = module.get("_modules") or {}
        below = [(f"{path}.{name}".lstrip("."), child, depth + 1) for name, child in children.items()]
        todo += [entry for entry in reversed(below) if isinstance(entry[1], StandIn)]


def parameter(module: StandIn, name: str) -> Tensor | None:
    """Return a parameter or buffer of a pickled module in float32, or None."""
    for store in ("_parameters", "_buffers"):
        value = (module.get(store) or {}).get(name)
        if isinstance(value, Tensor):
            return value.float()
    return None
