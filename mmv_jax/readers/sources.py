"""Files behind a path of a manifest: on disk, of a pattern, or in an archive.

Members of archives are held in memory as files without a name, so that every reader, also one of a
plug-in, opens them as it opens any file. They end with the process, however it ends: a reader that
is killed leaves no study of a patient behind.
"""

import os
import resource
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from glob import has_magic
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from mmv_jax.buckets import BucketPath, is_address, place
from mmv_jax.files import matching
from mmv_jax.readers.archive import (
    MARK,
    NAME_A_MEMBER,
    Archive,
    archived,
    open_archive,
    unsafe_name,
)
from mmv_jax.readers.limits import MAX_VOXEL_BYTES
from mmv_jax.readers.refused import Refused

SERIES_MARK = "#"  # begins the last part of a path that names one series in a folder
SPARE = 128  # open files that a process has beside the slices of a series


@dataclass(frozen=True)
class Source:
    """The files of one study.

    Attributes:
      files: path of each file, by the name that it has in its folder or archive.
      is_series: whether they are the slices of one series.
      series: `series_name` of the one that is meant, where the files are of several.
    """

    files: dict[str, Path]
    is_series: bool = False
    series: str = ""


FETCHED: dict[str, Source] = {}  # files of a bucket that are in memory now, by their address


@contextmanager
def source_of(path: Path, grid: tuple[int, ...] | None = None) -> Iterator[Source]:
    """The files that a path names, as long as the context lasts.

    Args:
      path: a file, a folder, `FOLDER/#series`, a pattern with `*`, `?` or `[...]` of the slices of
        one series, or any of these in an archive: `ARCHIVE::MEMBER`. All but archives may lie in a
        bucket.
      grid: for a mask, the shape of its study.
    Raises:
      Refused: not_found, and the codes of `Archive.read`.
    """
    if isinstance(path, BucketPath):
        with _from_bucket(path) as source:
            yield source
        return
    member = archived(path)
    if member is not None:
        with _member(*member, grid) as source:
            yield source
    elif path.is_dir() or _is_series_name(path):
        # A real folder may begin with the mark; only a path that does not exist names a series.
        only = path.name if not path.exists() else ""
        folder = path.parent if only else path
        yield Source({p.name: p for p in folder.iterdir()}, is_series=True, series=only)
    elif has_magic(str(path)) and not path.exists():
        found = {str(p): p for p in matching(path) if p.is_file()}
        if not found:
            raise Refused("not_found", "no file matches the pattern")
        yield Source(found, is_series=len(found) > 1)
    elif MARK in str(path) and not path.exists():
        # A reader would say that there is no such file, and leave open which of the two is meant.
        raise Refused("not_found", f"there is no archive of the name before `{MARK}`")
    else:
        yield Source({path.name: path})


@contextmanager
def fetched(paths: Sequence[str]) -> Iterator[int]:
    """Bytes of those files that lie in a bucket. As long as the context lasts they are in memory,
    and `source_of` finds them there.

    Raises:
      Unreachable: the bucket does not answer.
    """
    with ExitStack() as stack:
        size = 0
        for path in filter(is_address, paths):
            try:
                source = stack.enter_context(_from_bucket(place(path)))
            except Refused:
                continue  # its reader will say so
            FETCHED[path] = source
            stack.callback(FETCHED.pop, path, None)
            size += sum(file.stat().st_size for file in source.files.values())
        yield size


@contextmanager
def _from_bucket(path: Path) -> Iterator[Source]:
    if str(path) in FETCHED:
        yield FETCHED[str(path)]
        return
    if MARK in str(path):
        raise Refused("not_found", "an archive is not read in a bucket: copy it to a disk")
    folder, is_series, series = path.parent, False, ""
    found = [path.name] if path.is_file() else []
    if not found and has_magic(path.name):
        found = [each.name for each in folder.glob(path.name)]
        is_series = len(found) > 1
    elif not found:
        series = path.name if _is_series_name(path) and not path.exists() else ""
        folder, is_series = (folder if series else path), True
        assert isinstance(folder, BucketPath)
        # What lies further down is no slice of this folder.
        found = [name for name in folder.below() if "/" not in name]
    if not found:
        raise Refused("not_found", "the bucket has no such object")
    write = {name: partial(_copy, folder / name) for name in found}
    with held(write) as files:
        yield Source(files, is_series, series)


def _copy(path: Path, to: BinaryIO) -> None:
    to.write(path.read_bytes())


def bytes_of(path: Path) -> tuple[int, int]:
    """Bytes of the files of a path, and those of an archive that are passed on the way to them.

    0 where they cannot be seen; the reader will say why.
    """
    if is_address(path):
        return 0, 0  # TensorStore lists names without sizes; the worker finds them
    try:
        member = archived(path)
        if member is not None:
            return _bytes_in(*member)
        if _is_series_name(path) and not path.exists():
            path = path.parent  # one series among others: at most the size of all of them
        if path.is_dir():
            files = [entry for entry in os.scandir(path) if entry.is_file()]
            return sum(entry.stat().st_size for entry in files), 0
        if has_magic(str(path)) and not path.exists():
            return sum(file.stat().st_size for file in matching(path)), 0
        return path.stat().st_size, 0
    except (OSError, Refused):
        return 0, 0


def _bytes_in(archive: Path, member: str) -> tuple[int, int]:
    stored = archive.stat().st_size
    with archive.open("rb") as file:
        # A gzipped tar is not listed here: that would inflate all of it, without a time limit.
        if file.read(2) == b"\x1f\x8b":
            return 0, stored
    found = open_archive(archive)
    names = _names_in(found, member)[0]
    return sum(found.members[name].size for name in names if name in found.members), 0


def _is_series_name(path: Path | PurePosixPath) -> bool:
    return path.name.startswith(SERIES_MARK)


def _names_in(archive: Archive, member: str) -> tuple[list[str], bool, str]:
    """Names of the members that are meant, whether they form a series, and the series' name."""
    path = PurePosixPath(member)
    if member in archive.members:
        return [member], False, ""
    folder = archive.below(member)
    if folder:
        return folder, True, ""
    if _is_series_name(path):
        return archive.below(str(path.parent)), True, path.name
    if has_magic(member):
        found = archive.matching(member)
        return found, len(found) > 1, ""
    return [member], False, ""


@contextmanager
def _member(path: Path, member: str, grid: tuple[int, ...] | None) -> Iterator[Source]:
    if wrong := unsafe_name(member):
        raise Refused(*wrong)
    archive = open_archive(path)
    names, is_series, series = _names_in(archive, member)
    if not archive.members:
        raise Refused("not_found", "the archive is empty")
    if not member and not archive.below(""):
        raise Refused("not_found", f"no file lies at the archive's root: {NAME_A_MEMBER}")
    if not names:
        raise Refused("not_found", "the archive has no such member")
    if is_series:
        size = sum(archive.members[name].size for name in names)
        if size > MAX_VOXEL_BYTES:
            raise Refused("too_large", f"the series declares {size / 2**30:.1f} GiB")
    # In the archive's order: a gzipped tar is inflated once, from its begin to its end.
    with held({name: partial(archive.copy, name, grid=grid) for name in names}) as files:
        yield Source(files, is_series, series)


@contextmanager
def held(files: Mapping[str, Callable[[BinaryIO], object]]) -> Iterator[dict[str, Path]]:
    """Paths of files that are in memory only, by name, as long as the context lasts.

    Args:
      files: for each name, what writes the file's bytes.

    Without Linux's files in memory they lie in a folder that only this user can read.
    """
    with ExitStack() as stack:
        paths: dict[str, Path] = {}
        folder: Path | None = None
        if not hasattr(os, "memfd_create"):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mmv-")))
        for name, write in files.items():
            if folder is not None:
                paths[name] = folder / str(len(paths))
                with paths[name].open("wb") as file:
                    write(file)
                continue
            _allow_open_files(len(paths) + SPARE)
            number = os.memfd_create("study")
            stack.callback(os.close, number)
            with open(number, "wb", closefd=False) as file:
                write(file)
            # Opened by this path, a file begins at 0 each time, as one on disk does.
            paths[name] = Path(f"/proc/self/fd/{number}")
        yield paths


def _allow_open_files(count: int) -> None:
    """Raises this process's own limit: a series has a file a slice."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if count > soft and (hard == resource.RLIM_INFINITY or soft < hard):
        most = 2 * count if hard == resource.RLIM_INFINITY else min(2 * count, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
