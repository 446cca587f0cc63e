"""Whether the files of a stored study are still the ones that it was read from.

Names, sizes and times of files are one keyed hash, since a time may be that of an examination. Only
where it differs are the files read and their checksum compared: a copy or a move is no change.
"""

from collections.abc import Iterable
from glob import has_magic
from pathlib import Path

import google_crc32c

from mmv_jax.buckets import is_address
from mmv_jax.files import matching
from mmv_jax.readers.archive import MARK
from mmv_jax.readers.deidentify import Key

PIECE = 1 << 20  # bytes read at a time


def stamp_of(key: Key, paths: Iterable[str]) -> str:
    """Keyed hash of the names, sizes and times of files; "" where one cannot be seen."""
    try:
        seen = [(file.name, file.stat()) for path in paths for file in _files_of(path)]
    except OSError:
        return ""
    marks = "\0".join(f"{name}\0{about.st_size}\0{about.st_mtime_ns}" for name, about in seen)
    return key.hash("files", marks) if marks else ""


def content_of(paths: Iterable[str]) -> str:
    """Checksum (crc32c) of the bytes of files in order; "" where one cannot be read."""
    found, checksum = False, 0
    try:
        for path in paths:
            for file in _files_of(path):
                found = True
                with file.open("rb") as opened:
                    while piece := opened.read(PIECE):
                        checksum = google_crc32c.extend(checksum, piece)
    except OSError:
        return ""
    return f"{checksum:08x}" if found else ""


def _files_of(path: str) -> list[Path]:
    """Files on disk that a path names by itself; none of a bucket or an archive.

    Raises:
      OSError: there is none, or it cannot be seen.
    """
    if is_address(path) or MARK in path:
        return []
    place = Path(path)
    if place.is_dir():
        files = (file for file in place.iterdir() if not file.name.startswith("."))
        return sorted(file for file in files if file.is_file())
    if has_magic(path) and not place.exists():
        return [file for file in matching(place) if file.is_file()]
    if place.name.startswith("#") and not place.exists():
        return []  # one of several series of a folder, whose other files are not its own
    if not place.is_file():
        raise FileNotFoundError
    return [place]
