"""PyTorch's pickles, read without running anything that they hold.

Unpickling calls what the file names, so this module does not unpickle. It walks the opcodes (pickletools) over plain
containers: a class or function stays a name, a call stays a record of its arguments, and only the few names that make
tensors are understood. No import, call, attribute access or hash of anything foreign ever happens; pickle.Unpickler
with a restricted find_class is not enough, as it hashes what the file nests (which overflows the C stack) and sizes its
memo by the file's word. A file that names what no weights need is refused all the same: it was made to attack.

`torch.load(weights_only=True)` was weighed. It refuses the files that are to be imported, for Lightning keeps its
settings beside the weights (omegaconf, pathlib, the trainer's own classes); the way round it, `add_safe_globals`, wants
those packages installed, and calls their classes with what the file says. What it does allow it calls, too, and code
has been run through it (CVE-2025-32434).
"""

from __future__ import annotations

import math
import pickletools
import re
import sys
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING  # Python 2 names, which protocols 0 to 2 write
from dataclasses import dataclass, field
from typing import Any

import torch

from .format import CheckpointError

DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
KEY = re.compile(r"[0-9]{1,10}")  # of a storage
MAX_DIMENSIONS = 8
COUNT = range(2**48)  # arithmetic on the integers of a pickle, which can have millions of digits, stays cheap
MAPPINGS = {"collections.OrderedDict", "collections.defaultdict", "builtins.dict"}
REBUILD_TENSOR, REBUILD_PARAMETER = "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter"
# Names of the standard library and torch that honest files hold; every other one is refused. Other packages' names
# (omegaconf, pytorch_lightning, numpy) need no list: they too are only names here.
ALLOWED = {
    *MAPPINGS,
    REBUILD_TENSOR,
    REBUILD_PARAMETER,
    *(f"torch.{name}" for name in (*DTYPES, "Size", "device")),
    *(f"torch.{name}" for name, value in vars(torch).items() if isinstance(value, torch.dtype)),
    *(f"builtins.{cls.__name__}" for cls in (list, tuple, set, frozenset, str, bytes, bytearray, bool, int, float)),
    *(f"builtins.{cls.__name__}" for cls in (complex, slice, object)),
    *(f"pathlib.{name}" for name in ("Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")),
    *(f"typing.{name}" for name in ("Any", "Union", "Optional", "Dict", "List", "Tuple")),
    "_codecs.encode",  # how protocol 2 writes bytes
    "copyreg._reconstructor",
    "argparse.Namespace",
    "datetime.datetime",
    "datetime.timedelta",
}
GUARDED = sys.stdlib_module_names | {"torch", "cloudpickle", "dill", "joblib"}


@dataclass(frozen=True)
class Name:
    """A class or function by its dotted name."""

    dotted: str


@dataclass(frozen=True)
class Storage:
    """One member of the archive, data/<key>."""

    dtype: torch.dtype
    key: str
    size: int


@dataclass(frozen=True)
class View:
    """A tensor as the pickle describes it; offset and stride in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(eq=False)
class Inert:
    """What a foreign class or function would have made: the arguments, items and state that it was given."""

    arguments: Any
    items: dict[str, Any] = field(default_factory=dict)
    elements: list[Any] = field(default_factory=list)
    state: Any = None


PUSH = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
CONSTANT = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}


class Program:
    """The pickle machine, with records in place of calls. Time and memory are linear in the pickle's length."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self, data: bytes) -> Any:
        """The object that the pickle builds. Raises CheckpointError for a refused name, others if malformed."""
        for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            if opcode.name == "STOP":
                break
            self.step(opcode.name, argument, count)
        return self.stack.pop()

    def step(self, opcode: str, argument: Any, count: int) -> None:
        """One opcode, the `count`-th."""
        stack = self.stack
        match opcode:
            case "PROTO" | "FRAME":
                pass
            case _ if opcode in PUSH:
                stack.append(argument)
            case _ if opcode in CONSTANT:
                stack.append(CONSTANT[opcode])
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                if not 0 <= argument <= count:
                    raise ValueError("memo index out of range")
                self.memo[argument] = stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(self.memo[argument])
            case "MARK":
                self.marked.append(stack)
                self.stack = []
            case "POP" if not stack:
                self.to_mark()
            case "POP":
                stack.pop()
            case "POP_MARK":
                self.to_mark()
            case "DUP":
                stack.append(stack[-1])
            case "EMPTY_LIST" | "EMPTY_SET":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "LIST" | "FROZENSET":
                values = self.to_mark()
                self.stack.append(values)
            case "TUPLE":
                values = self.to_mark()
                self.stack.append(tuple(values))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                size = int(opcode[-1])
                stack[-size:] = [tuple(stack[-size:])]
            case "DICT":
                values = self.to_mark()
                self.stack.append({})
                self.set_items(values)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                self.set_items([key, value])
            case "SETITEMS":
                self.set_items(self.to_mark())
            case "APPEND":
                value = stack.pop()
                self.extend([value])
            case "APPENDS" | "ADDITEMS":
                self.extend(self.to_mark())
            case "GLOBAL":
                stack.append(named(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                stack.append(named(module, name))
            case "REDUCE" | "NEWOBJ":
                arguments, function = stack.pop(), stack.pop()
                stack.append(called(function, arguments))
            case "NEWOBJ_EX":
                keywords, arguments, function = stack.pop(), stack.pop(), stack.pop()
                stack.append(called(function, (arguments, keywords)))
            case "INST":
                arguments = tuple(self.to_mark())
                self.stack.append(called(named(*argument.split(" ", 1)), arguments))
            case "OBJ":
                function, *rest = self.to_mark()
                self.stack.append(called(function, tuple(rest)))
            case "BUILD":
                state = stack.pop()
                if isinstance(stack[-1], Inert):
                    stack[-1].state = state
            case "BINPERSID":
                stack.append(storage(stack.pop()))
            case _:
                raise ValueError(f"opcode {opcode} is not used by torch.save")

    def to_mark(self) -> list[Any]:
        """What was pushed since the last MARK; the stack below it is current again."""
        values, self.stack = self.stack, self.marked.pop()
        return values

    def set_items(self, pairs: list[Any]) -> None:
        """Keep the items whose key is text. No use is made of others, and a file could make hashing them endless."""
        target = self.stack[-1]
        items = target.items if isinstance(target, Inert) else target
        if not isinstance(items, dict):
            raise ValueError("items for what is no mapping")
        items.update((key, value) for key, value in zip(pairs[::2], pairs[1::2], strict=True) if isinstance(key, str))

    def extend(self, values: list[Any]) -> None:
        """Append to the list or set on top of the stack."""
        target = self.stack[-1]
        elements = target.elements if isinstance(target, Inert) else target
        if not isinstance(elements, list):
            raise ValueError("elements for what is no list")
        elements.extend(values)


def named(module: Any, name: Any) -> Name:
    """The name, if an honest file may hold it. Raises CheckpointError otherwise."""
    if not isinstance(module, str) or not isinstance(name, str) or len(module) + len(name) > 300:
        raise ValueError("a name that is none")
    module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
    dotted = f"{module}.{name}"
    guarded = module.partition(".")[0] in GUARDED or not all(part.isidentifier() for part in dotted.split("."))
    if guarded and dotted not in ALLOWED:
        raise CheckpointError(f"it refers to {dotted[:80]!a}, which no trained weights need; nothing of it was run")
    return Name(dotted)


def called(function: Any, arguments: Any) -> Any:
    """What stands for the result of a call: a tensor's description, an empty mapping, or a record."""
    if not isinstance(function, Name | Inert) or not isinstance(arguments, tuple):
        raise ValueError("a call of what is no class or function")
    match function:
        case Name(dotted) if dotted in MAPPINGS:
            return {}
        case Name(dotted) if dotted == REBUILD_TENSOR:
            return view(*arguments[:4])
        case Name(dotted) if dotted == REBUILD_PARAMETER:
            return arguments[0]
    return Inert(arguments)


def storage(identifier: Any) -> Storage:
    """('storage', type, key, location, number of elements), as torch.save writes it."""
    match identifier:
        case ("storage", Name(dotted), str(key), str(), int(size)) if KEY.fullmatch(key) and size in COUNT:
            return Storage(DTYPES[dotted.removeprefix("torch.")], key, size)
    raise ValueError("a reference to tensor data is not of the form that torch.save writes")


def view(storage: Any, offset: Any, shape: Any, stride: Any) -> View:
    """A tensor that stays within its storage and has no more elements than it."""
    if not isinstance(storage, Storage) or not len(shape) == len(stride) <= MAX_DIMENSIONS:
        raise ValueError("a tensor is not described as torch.save does")
    if not all(type(n) is int and n in COUNT for n in (offset, *shape, *stride)):
        raise ValueError("a tensor has a size, stride or offset that is no count")
    last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
    if 0 not in shape and (last >= storage.size or math.prod(shape) > storage.size):
        raise ValueError("a tensor reaches beyond its storage")
    return View(storage, offset, tuple(shape), tuple(stride))
