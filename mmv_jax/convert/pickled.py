"""Which tensors a PyTorch pickle names. A program of its own: `stored.py` starts it as a process.

A pickle is a list of instructions that may call anything. Here only the names below can be
reached, and none of them does more than keep its arguments. The process can open no file and no
socket besides. It imports the standard library alone.

stdin: the pickle of a zipped checkpoint, or a whole checkpoint of PyTorch before 1.6.
stdout: one JSON object, see `described` and `main`.
"""

import json
import pickle
import sys
from typing import Any, NamedTuple

# A checkpoint before 1.6 begins with this number, pickled.
MAGIC = 0x1950A86A20F9469CFC6C
MEMORY, SECONDS = 4 << 30, 300  # of this process
DEEPEST = 50  # groups within groups
# As safetensors spells the types.
KINDS = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}


class Storage(NamedTuple):
    key: str
    kind: str
    first: int  # of its values in the storage `key`


class Tensor(NamedTuple):
    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class OrderedNames(dict):
    """Stands for an ordered dictionary, whose `_metadata` is an attribute."""


class Inert:
    """Stands for what a checkpoint holds beside tensors, such as the arguments of its training."""

    def __new__(cls, *_args: Any, **_kwargs: Any) -> "Inert":
        return object.__new__(cls)

    def __init__(self, *_args: Any, **_kwargs: Any):
        pass

    def __call__(self, *_args: Any, **_kwargs: Any) -> "Inert":
        return self

    def __setstate__(self, _state: Any) -> None:
        pass

    def __setitem__(self, _key: Any, _value: Any) -> None:
        pass

    def append(self, _value: Any) -> None:
        pass

    def __hash__(self) -> int:
        return id(self)


def rebuild(storage: Storage, offset: int, shape: Any, stride: Any, *_rest: Any) -> Tensor:
    return Tensor(storage, int(offset), tuple(shape), tuple(stride))


def same(value: Any, *_rest: Any) -> Any:
    return value


PLAIN = ("list", "dict", "set", "frozenset", "tuple", "int", "float", "bool", "str", "complex")
TYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8")
ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedNames,
    ("torch._utils", "_rebuild_tensor"): rebuild,
    ("torch._utils", "_rebuild_tensor_v2"): rebuild,
    ("torch._utils", "_rebuild_parameter"): same,
    ("torch.nn.parameter", "Parameter"): same,
    ("torch", "Size"): tuple,
    **{("torch", storage): kind for storage, kind in KINDS.items()},
    # A training's own state: kept by none, so that the tensors beside it can be read.
    ("torch", "device"): Inert,
    **{("torch", kind): Inert for kind in (*TYPES, "bool")},
    # Pickles of protocol 2 have the name of Python 2.
    **{(module, name): Inert for module in ("builtins", "__builtin__") for name in PLAIN},
    ("argparse", "Namespace"): Inert,
    ("optparse", "Values"): Inert,
    ("pathlib", "PosixPath"): Inert,
    ("pathlib", "WindowsPath"): Inert,
    ("collections", "defaultdict"): Inert,
    ("collections", "Counter"): Inert,
    ("numpy", "dtype"): Inert,
    ("numpy", "ndarray"): Inert,
    ("numpy.core.multiarray", "scalar"): Inert,
    ("numpy._core.multiarray", "scalar"): Inert,
    ("numpy.core.multiarray", "_reconstruct"): Inert,
    ("numpy._core.multiarray", "_reconstruct"): Inert,
    ("_codecs", "encode"): Inert,
}


class NotTensors(Exception):
    """The pickle asks for something that no list of tensors needs."""


class Reader(pickle.Unpickler):
    """An unpickler that reaches `ALLOWED` and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        # A look-up, never a getattr: "OrderedDict.__init__" is no name of the table.
        if (module, name) not in ALLOWED:
            raise NotTensors(f"{module}.{name}")
        return ALLOWED[module, name]

    def persistent_load(self, said: Any) -> Any:
        if not isinstance(said, tuple) or len(said) < 5 or said[0] != "storage":
            raise NotTensors(f"a reference of the kind {str(said)[:60]}")
        _, kind, key, _, _, *view = said
        if kind not in KINDS.values():
            raise NotTensors("a storage of an unknown type")
        first = 0
        if view and view[0] is not None:  # before 1.6: a part of the storage
            _, first, _ = view[0]
        return Storage(str(key), kind, int(first))


def lock() -> None:
    """Take from this process what it needs no more: files, sockets, other programs, memory."""
    try:
        import resource
    except ImportError:  # a system without limits of this kind: the table of names still holds
        pass
    else:
        for what, most in (
            # Every file and every socket needs a descriptor; those open already stay.
            (resource.RLIMIT_NOFILE, 0),
            (resource.RLIMIT_CORE, 0),
            (resource.RLIMIT_AS, MEMORY),
            (resource.RLIMIT_CPU, SECONDS),
        ):
            _, hard = resource.getrlimit(what)  # which may be lowered and never raised
            most = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(what, (most, most))
    closed = ("open", "import", "exec", "compile", "subprocess.", "os.", "socket.", "ctypes.")

    def refuse(event: str, _args: Any) -> None:
        if event.startswith(closed):
            raise NotTensors(f"the event {event}")

    sys.addaudithook(refuse)  # which nothing can take away again


def described(value: Any, path: tuple[str, ...], found: list[list]) -> list[list]:
    """All tensors within `value`: path of keys, type, shape, strides, storage, first value."""
    if isinstance(value, Tensor):
        storage, offset, shape, stride = value
        at = storage.first + offset
        found.append([path, storage.kind, shape, stride, storage.key, at])
    elif len(path) > DEEPEST:
        raise NotTensors(f"more than {DEEPEST} groups within each other")
    elif isinstance(value, dict):
        for key, inner in value.items():
            described(inner, (*path, str(key)), found)
    elif type(value) in (list, tuple):
        for n, inner in enumerate(value):
            described(inner, (*path, str(n)), found)
    return found


def main() -> None:
    """Print `tensors` (see `described`); of an old checkpoint also `storages`, the keys in the
    order of the file, and `data_at`, the byte at which they begin. Or print `refused`.
    """
    out: dict[str, Any] = {}
    source = sys.stdin.buffer
    json.dumps({"": [0.5, None, True]})  # whatever it imports late must be there
    lock()
    try:
        whole = Reader(source, encoding="utf-8").load()
        if whole == MAGIC:
            for _ in range(2):  # the version of the format, and the machine that wrote it
                Reader(source, encoding="utf-8").load()
            whole = Reader(source, encoding="utf-8").load()
            out["storages"] = list(map(str, Reader(source, encoding="utf-8").load()))
            out["data_at"] = source.tell()
        out["tensors"] = described(whole, (), [])
    except NotTensors as error:
        out = {"refused": str(error)}
    except Exception as error:  # of any kind: the instructions are another's
        out = {"damaged": type(error).__name__}
    sys.stdout.write(json.dumps(out))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
