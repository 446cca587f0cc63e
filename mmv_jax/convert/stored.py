"""Tensors of a checkpoint by name, each read when it is asked for.

safetensors files, and PyTorch's pickles. A pickle is never loaded here: a process of its own says
which tensors it names (`pickled.py`), and their bytes are read from the file.
"""

import hashlib
import json
import math
import struct
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmv_jax.convert import pickled
from mmv_jax.errors import UserError
from mmv_jax.models.folder_files import WHOLE, refuse_adapters, refuse_pointer, shards

TYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": np.uint16,  # NumPy has no such float: these are its bits
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
FLOATS = ("F64", "F32", "F16", "BF16")
INDEX = ".index.json"  # of weights in several files
QUANTISED = (
    "a tensor of it has values of the type {}. Weights that were quantised are not read: take the"
    " model in 16 or 32 bits."
)
HEADER = 100 << 20  # bytes that the header of a safetensors file, or a pickle, may have
PATIENCE_S = 600.0
# The number of `pickled.MAGIC`, as the first pickle of a checkpoint before PyTorch 1.6 writes it.
OLD = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".tar", ".pkl")


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file.

    Attributes:
      kind: of its values, as safetensors spells it.
      stride: in values; None if they lie one behind the other.
      at: byte of its first value in the file.
    """

    path: Path
    kind: str
    shape: tuple[int, ...]
    at: int
    stride: tuple[int, ...] | None = None

    def read(self) -> np.ndarray:
        """Its values; floats as float32, which holds those of 16 bits exactly.

        Raises:
          UserError: a value is not finite, or of a type that is not read, such as float8.
        """
        if self.kind not in TYPES:
            raise UserError(f"{self.path.name}: {QUANTISED.format(self.kind)}")
        kind = np.dtype(TYPES[self.kind])
        count = _reach(self.shape, self.stride)
        flat = np.zeros(0, kind)
        if count:
            flat = np.memmap(self.path, kind, "r", offset=self.at, shape=(count,))
        if self.stride is None:
            value = np.array(flat).reshape(self.shape)
        else:
            steps = [step * kind.itemsize for step in self.stride]
            value = np.array(np.lib.stride_tricks.as_strided(flat, self.shape, steps))
        if self.kind not in FLOATS:
            return value
        if self.kind == "BF16":  # the upper half of a float32
            value = (value.astype(np.uint32) << 16).view(np.float32)
        value = value.astype(np.float32)
        if not np.isfinite(value).all():
            raise UserError(f"{self.path.name}: a tensor of it has values that are not finite.")
        return value


Tensors = Mapping[str, StoredTensor]
Groups = dict[str, dict[str, StoredTensor]]


def read_groups(paths: Iterable[Path]) -> Groups:
    """The tensors of files by group and name; a group is "teacher", or "" where there is one.

    Raises:
      UserError: a file is no checkpoint, is damaged, or its pickle asks for more than tensors.
    """
    groups: Groups = {}
    for path in paths:
        for group, tensors in _groups_of(path).items():
            groups.setdefault(group, {}).update(tensors)
    return groups


def digest_of(path: Path) -> str:
    """The sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_of(source: Path) -> list[Path]:
    """The files of weights of a checkpoint: the file itself, or those of a folder.

    Raises:
      UserError: there is none, or more than one checkpoint.
    """
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise UserError(f"{source}: there is no such file or folder.")
    refuse_adapters(source)
    if (source / WHOLE).is_file():  # which transformers reads, whatever lies beside it
        return [source / WHOLE]
    if indices := sorted(source.glob(f"*{INDEX}")):
        return [_there(path) for path in shards(indices[0])]
    safe = sorted(source.glob("*.safetensors"))
    found = safe or sorted(path for path in source.iterdir() if path.suffix in PICKLES)
    if len(found) != 1:
        there = ", ".join(path.name for path in found) or "none"
        raise UserError(
            f"{source.name}: one file of weights is needed, and there is {there}. Name the file"
            " itself; config files are looked for beside it."
        )
    return found


def _there(path: Path) -> Path:
    if not path.is_file():
        raise UserError(f"{path.parent.name}: {path.name} is missing, which its index names.")
    return path


def _groups_of(path: Path) -> Groups:
    refuse_pointer(path)
    with path.open("rb") as file:
        first = file.read(len(OLD))
    if first.startswith(b"PK\x03\x04"):
        return _zipped(path)
    if first.startswith(OLD):
        return _before_zip(path)
    if path.suffix == ".safetensors":
        return {"": _safe(path)}
    raise UserError(
        f"{path.name} is no checkpoint that is read here: safetensors, or what torch.save writes"
        " of a dictionary of tensors."
    )


def _safe(path: Path) -> dict[str, StoredTensor]:
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(size, HEADER):
                raise ValueError
            header = json.loads(file.read(length))
        found = {}
        for name, about in header.items():
            if name == "__metadata__":
                continue
            shape, (start, end) = tuple(about["shape"]), about["data_offsets"]
            kind = about["dtype"]
            if kind in TYPES and (
                start < 0
                or end - start != math.prod(shape) * np.dtype(TYPES[kind]).itemsize
                or 8 + length + end > size
            ):
                raise ValueError
            found[name] = StoredTensor(path, kind, shape=shape, at=8 + length + start)
    except (ValueError, KeyError, TypeError, AttributeError, struct.error):
        raise _damaged(path) from None
    return found


def _zipped(path: Path) -> Groups:
    """What torch.save writes since 1.6: `NAME/data.pkl`, and a stored file a storage."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name: archive.getinfo(name) for name in archive.namelist()}
            (pickle,) = (name for name in names if name.endswith("/data.pkl"))
            root = pickle.removesuffix("data.pkl")
            if names[pickle].file_size > HEADER:
                raise ValueError
            order = archive.read(f"{root}byteorder") if f"{root}byteorder" in names else b"little"
            about = _described(path, archive.read(pickle))
    except (zipfile.BadZipFile, ValueError, EOFError):
        raise _damaged(path) from None
    if order != b"little":
        raise UserError(f"{path.name}: it was written on a big-endian machine. Save it again.")
    places = {}
    with path.open("rb") as file:
        for name, info in names.items():
            if name.startswith(f"{root}data/"):
                if info.compress_type != zipfile.ZIP_STORED:
                    raise UserError(f"{path.name}: its tensors are compressed. Save it again.")
                # The local header, 30 bytes, then the name and padding, has lengths of its own.
                file.seek(info.header_offset + 26)
                lengths = struct.unpack("<HH", file.read(4))
                start = info.header_offset + 30 + sum(lengths)
                places[name.removeprefix(f"{root}data/")] = (start, info.file_size)
    return _placed(path, about["tensors"], places)


def _before_zip(path: Path) -> Groups:
    """What torch.save wrote before 1.6: five pickles, then the storages one behind the other."""
    about = _described(path, None)
    kinds = {key: kind for _, kind, _, _, key, _ in about["tensors"]}
    places, at, size = {}, int(about["data_at"]), path.stat().st_size
    with path.open("rb") as file:
        for key in about["storages"]:
            file.seek(at)
            head = file.read(8)
            if key not in kinds or len(head) < 8:
                raise _damaged(path)
            (count,) = struct.unpack("<q", head)
            length = count * np.dtype(TYPES[kinds[key]]).itemsize
            if count < 0 or at + 8 + length > size:
                raise _damaged(path)
            places[key] = (at + 8, length)
            at += 8 + length
    return _placed(path, about["tensors"], places)


def _placed(path: Path, tensors: Iterable, places: Mapping[str, tuple[int, int]]) -> Groups:
    """Groups of tensors, whose storages lie at (byte, length) of the file."""
    groups: Groups = {}
    for keys, kind, shape, stride, storage, first in tensors:
        shape, stride = tuple(map(int, shape)), tuple(map(int, stride))
        width = np.dtype(TYPES[kind]).itemsize
        if storage not in places or len(shape) != len(stride) or min((*stride, first, 0)) < 0:
            raise _damaged(path)
        start, length = places[storage]
        if min((*shape, 0)) < 0 or (first + _reach(shape, stride)) * width > length:
            raise _damaged(path)
        *group, name = keys or [""]
        groups.setdefault("/".join(group), {})[name] = StoredTensor(
            path, kind, shape=shape, at=start + first * width, stride=stride
        )
    return groups


def _reach(shape: tuple[int, ...], stride: tuple[int, ...] | None) -> int:
    """The number of values from the first to the last one."""
    if 0 in shape:
        return 0
    if stride is None:
        return math.prod(shape)
    return 1 + sum((n - 1) * step for n, step in zip(shape, stride))


def _described(path: Path, pickle: bytes | None) -> dict:
    """What `pickled.py` says of a pickle, or of the file itself."""
    # -I and -S: nothing of the user's, and no site, is imported there.
    program = [sys.executable, "-I", "-S", str(Path(pickled.__file__).resolve())]
    try:
        with path.open("rb") as file:
            given = {"stdin": file} if pickle is None else {"input": pickle}
            out = subprocess.run(
                program,
                **given,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={},
                timeout=PATIENCE_S,
                check=False,
            )
        about = json.loads(out.stdout)
    except (subprocess.TimeoutExpired, ValueError):
        raise _damaged(path) from None
    if "refused" in about:
        raise UserError(
            f"{path.name}: its pickle asks for {about['refused']}, which no list of tensors needs."
            " It is not opened. Ask its authors for the tensors alone (a state_dict), best in"
            " safetensors."
        )
    if "damaged" in about:
        raise _damaged(path)
    return about


def _damaged(path: Path) -> UserError:
    return UserError(f"{path.name} is damaged, or is not what its name says.")
