"""Everything that a folder holds, also what is compressed, packed or encoded in its files: what a
search for identifiers has to look through.
"""

import base64
import binascii
import gzip
import io
import json
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorstore as ts

DATA_URI = re.compile(rb"base64,([A-Za-z0-9+/=]{16,})")
PNG = b"\x89PNG\r\n\x1a\n"
ZSTD = b"(\xb5/\xfd"


def everything_in(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Names and contents of files and folders, then what is packed in each of them."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        yield name, name.encode()
        if path.is_file():
            for data in _of_file(path):
                yield name, data
        elif (path / "zarr.json").exists() or (path / ".zarray").exists():
            driver = "zarr3" if (path / "zarr.json").exists() else "zarr"
            yield name, _array(driver, path)
        elif (path / "manifest.ocdbt").exists():
            yield from ((f"{name}, {key}", data) for key, data in _of_database(path))


def _array(driver: str, path: Path) -> bytes:
    spec = {"driver": driver, "kvstore": {"driver": "file", "path": str(path)}}
    return ts.open(spec, open=True).result().read().result().tobytes()


def _of_database(path: Path) -> Iterator[tuple[str, bytes]]:
    """Keys and values of Orbax's database."""
    spec = {"driver": "ocdbt", "base": f"file://{path}/"}
    root = ts.KvStore.open(spec).result()
    for key in root.list().result():
        yield key.decode(errors="replace"), key
        for data in unpacked(root.read(key).result().value):
            yield key.decode(errors="replace"), data


def _of_file(path: Path) -> Iterator[bytes]:
    yield from unpacked(path.read_bytes())
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        for column in table.columns:
            yield repr(column.to_pylist()).encode()
        yield repr(table.schema.metadata).encode()


def unpacked(data: bytes) -> Iterator[bytes]:
    """The data, and whatever is packed in it, at any depth."""
    yield data
    for inner in _inner(data):
        yield from unpacked(inner)


def _inner(data: bytes) -> Iterator[bytes]:
    if data.startswith(b"PK\x03\x04"):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            yield from (archive.read(name) for name in archive.namelist())
    elif data.startswith(PNG):
        yield from _of_png(data)
    elif data.startswith(b"\x1f\x8b"):
        yield gzip.decompress(data)
    elif data.startswith(ZSTD):
        # Frames of a stream do not say how much they hold.
        with suppress(OSError), pa.CompressedInputStream(pa.BufferReader(data), "zstd") as stream:
            yield stream.read()
    elif data[:1] == b"x" and data[1:2] in b"\x01\x5e\x9c\xda":
        with suppress(zlib.error):  # of a text that begins so
            yield zlib.decompress(data)
    elif data.startswith(b"\x93NUMPY"):
        yield repr(np.load(io.BytesIO(data)).tolist()).encode()
    elif data[:1] in (b"{", b"["):
        yield from (plain for plain in _of_json(data) if plain != data)
    for found in DATA_URI.findall(data):
        try:
            yield base64.b64decode(found)
        except binascii.Error:
            continue


def _of_json(data: bytes) -> Iterator[bytes]:
    """JSON, or JSON a line, without escapes such as \\u0053."""
    for text in (data, *data.splitlines()):
        try:
            yield json.dumps(json.loads(text), ensure_ascii=False).encode()
        except ValueError:
            continue
        if text is data:
            return


def _of_png(data: bytes) -> Iterator[bytes]:
    """Chunks of a picture, and its rows of pixels."""
    at, pixels = len(PNG), b""
    while at + 8 <= len(data):
        (size,) = struct.unpack(">I", data[at : at + 4])
        kind, chunk = data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
        pixels += chunk if kind == b"IDAT" else b""
        if kind == b"zTXt":
            yield zlib.decompress(chunk.split(b"\0", 1)[1][1:])
        at += size + 12
    yield zlib.decompress(pixels)


def forms_of(word: str) -> list[bytes]:
    """A word as bytes, in the ways in which texts are written: encodings, hex and base64."""
    plain = [word, word.lower(), word[::-1]]
    found = [each.encode(code) for each in plain for code in ("utf-8", "utf-16-le", "utf-16-be")]
    found.append(word.encode().hex().encode())
    for shift in range(3):  # the same bytes have three forms in base64, by where they begin
        text = base64.b64encode(b"\0" * shift + word.encode())
        found.append(text[(0, 2, 3)[shift] : -4])
    return found
