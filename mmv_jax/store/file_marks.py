"""Whether the files of a stored study are still the ones that it was read from.

Names, sizes and times of files are one keyed hash, since a time may be that of an examination. Only
where it differs are the files read and their checksum compared: a copy or a move is no change.
"""

from collections.abc import Iterable, Mapping, Sequence
from glob import has_magic
from pathlib import Path

import google_crc32c

from mmv_jax.buckets import is_address, place
from mmv_jax.errors import UserError
from mmv_jax.files import matching
from mmv_jax.readers.archive import MARK, archived
from mmv_jax.readers.deidentify import Key
from mmv_jax.readers.sources import SEEN, FilesRead, content_in, source_of

PIECE = 1 << 20  # bytes read at a time


def stamp_of(key: Key, paths: Iterable[str], versions: Mapping[str, str] | None = None) -> str:
    """Keyed hash of the names, sizes and times of files; "" where one cannot be seen.

    Args:
      versions: of the paths in buckets.
    """
    try:
        marks = [mark for path in paths for mark in _marks_of(path, versions or {})]
    except OSError:
        return ""
    return key.hash("files", "\0".join(marks)) if marks else ""


def key_of_stamp(salt: str) -> Key:
    """The key of a study's stamp, for workers, which do not have the store's key."""
    return Key(salt.encode())


def _marks_of(path: str, versions: Mapping[str, str]) -> list[str]:
    """Raises OSError where a file cannot be seen."""
    if is_address(path):
        if path not in versions:
            raise FileNotFoundError
        return [versions[path]]
    # A member's own time is not asked for: to list an archive may mean to inflate it.
    member = archived(Path(path)) if MARK in path else None
    files = [member[0]] if member else _files_of(path)
    seen = [(file.name, file.stat()) for file in files]
    marks = [f"{name}\0{about.st_size}\0{about.st_mtime_ns}" for name, about in seen]
    return [*marks, member[1]] if member else marks


def content_of(paths: Iterable[str]) -> str:
    """Checksum (crc32c) of the bytes of files in order; "" where one cannot be read.

    Of an archive, a bucket and one of several series it goes over a hash of their files.
    """
    found, checksum = False, 0
    try:
        for path in paths:
            if _is_kept_in_memory(path):
                seen = SEEN.pop(path, None) or _seen_of(path)
                found, checksum = True, google_crc32c.extend(checksum, seen.content.encode())
                continue
            for file in _files_of(path):
                found = True
                with file.open("rb") as opened:
                    while piece := opened.read(PIECE):
                        checksum = google_crc32c.extend(checksum, piece)
    except (OSError, UserError):
        return ""
    return f"{checksum:08x}" if found else ""


def marks_of_read(paths: Sequence[str], salt: str) -> dict[str, str]:
    """`content` of files that this process has just read and, where some lie in a bucket, their
    `stamp`.

    Args:
      salt: of the study's stamp; "" where none lies in a bucket.
    """
    objects = [path for path in paths if is_address(path)]
    if not objects:
        return {"content": content_of(paths)}
    if not all(path in SEEN for path in objects):
        # A reader of the user's own has read them: to read them again may take hours.
        return {"content": ""}
    versions = {path: SEEN[path].versions for path in objects}
    stamp = stamp_of(key_of_stamp(salt), paths, versions)
    return {"stamp": stamp, "content": content_of(paths)}


def _is_kept_in_memory(path: str) -> bool:
    """Whether a path is read through a copy in memory, or chooses among the files of a folder."""
    inside = MARK in path and archived(Path(path)) is not None
    return is_address(path) or inside or _is_one_of_several(Path(path))


def _is_one_of_several(place: Path) -> bool:
    return place.name.startswith("#") and not place.exists()


def _seen_of(path: str) -> FilesRead:
    """What is there now.

    Raises:
      UserError: it cannot be read any more.
    """
    with source_of(place(path)) as source:
        return SEEN.pop(path, None) or FilesRead(content_in(source), source.versions)


def _files_of(path: str) -> list[Path]:
    """Files on disk that a path names by itself.

    Raises:
      OSError: there is none, or it cannot be seen.
    """
    place = Path(path)
    if _is_one_of_several(place):
        place = place.parent
    if place.is_dir():
        files = (file for file in place.iterdir() if not file.name.startswith("."))
        return sorted(file for file in files if file.is_file())
    if has_magic(path) and not place.exists():
        return [file for file in matching(place) if file.is_file()]
    if not place.is_file():
        raise FileNotFoundError
    return [place]
