"""Files behind a path of a manifest: on disk, of a pattern, or in an archive.

Members of archives are held in memory as files without a name, so that every reader, also one of a
plug-in, opens them as it opens any file. They end with the process, however it ends: a reader that
is killed leaves no study of a patient behind.
"""

import hashlib
import os
import resource
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from glob import has_magic
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from mmv_jax.buckets import BucketPath, Unreachable, answer, contact, is_address, place
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
      versions: names and versions of the objects, where they lie in a bucket.
    """

    files: dict[str, Path]
    is_series: bool = False
    series: str = ""
    versions: str = ""


@dataclass(frozen=True)
class FilesRead:
    """What was read of a path in an archive or a bucket.

    Attributes:
      content: hash of the bytes of its files, in whatever order they come.
      versions: see `Source`.
    """

    content: str
    versions: str


SEEN: dict[str, FilesRead] = {}  # of what this process has read, until somebody asks for it
MOST_SEEN = 256
PROBED = 8  # objects of a folder in a bucket whose versions are asked for
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
            _note(path, source)
            yield source
        return
    member = archived(path)
    if member is not None:
        with _member(*member, grid) as source:
            _note(path, source)
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


def _note(path: Path, source: Source) -> None:
    """Keeps what `SEEN` says of files that are in memory now: later they would be read again."""
    # Studies that are refused leave theirs behind: nobody asks for them.
    while len(SEEN) >= MOST_SEEN:
        SEEN.pop(next(iter(SEEN)))
    SEEN[str(path)] = FilesRead(content_in(source), source.versions)


def content_in(source: Source) -> str:
    """Hash of the bytes of a study's files, in any order: an archive may be packed anew."""
    files, sums = list(source.files.values()), []
    if source.series:
        from mmv_jax.readers.dicom import files_of_series  # it needs pydicom

        files = files_of_series(source.files, source.series)
    for path in files:
        with path.open("rb") as file:
            sums.append(hashlib.file_digest(file, "sha256").hexdigest())
    return hashlib.sha256(",".join(sorted(sums)).encode()).hexdigest()[:16]


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
    folder, found, is_series, series = _objects_of(path)
    if not found:
        raise Refused("not_found", "the bucket has no such object")
    marks: dict[str, bytes] = {}
    write = {name: partial(_copy, BucketPath(folder / name), marks=marks) for name in found}
    with held(write) as files:
        yield Source(files, is_series, series, versions(marks))


def _objects_of(path: Path) -> tuple[Path, list[str], bool, str]:
    """The folder and the names of the objects that a path means, whether they form a series, and
    the series' name.
    """
    folder = path.parent
    if path.is_file():
        return folder, [path.name], False, ""
    if has_magic(path.name):
        found = [each.name for each in folder.glob(path.name)]
        return folder, found, len(found) > 1, ""
    series = path.name if _is_series_name(path) and not path.exists() else ""
    folder = folder if series else path
    assert isinstance(folder, BucketPath)
    # What lies further down is no slice of this folder.
    return folder, [name for name in folder.below() if "/" not in name], True, series


def versions_now(paths: Iterable[str]) -> dict[str, str]:
    """`Source.versions` of paths in buckets as they are now, without reading the objects.

    Those that cannot be seen are left out.
    """
    found: dict[str, str] = {}
    # All at once: each is a short request, and there may be one for each study.
    with suppress(Unreachable):
        asked = {path: _first_byte(BucketPath(path)) for path in paths}
        for path, future in asked.items():
            if mark := _mark(path, future):
                found[path] = versions({BucketPath(path).name: mark})
                continue
            folder, names, *_ = _objects_of(BucketPath(path))
            some = {name: _first_byte(BucketPath(folder / name)) for name in probed(names)}
            marks = {name: _mark(path, future) for name, future in some.items()}
            found[path] = versions(dict.fromkeys(names, b"") | marks)
    return found


def _first_byte(path: BucketPath) -> Any:
    return contact(str(path)).read(path.key, byte_range=slice(0, 1))


def _mark(address: str, future: Any) -> bytes:
    """The version of an object whose first byte was asked for; empty where there is none."""
    try:
        answered = answer(address, future)
    except Unreachable as error:
        if "OUT_OF_RANGE" in str(error):  # an object of 0 bytes
            return b""
        raise
    return answered.stamp.generation if answered.state == "value" else b""


def _copy(path: BucketPath, to: BinaryIO, marks: dict[str, bytes]) -> None:
    content, marks[path.name] = path.read_marked(missing=False)
    to.write(content or b"")


def versions(marks: Mapping[str, bytes]) -> str:
    """Names of objects, and the versions of some of them, as one text.

    Args:
      marks: version by name; of a folder at least those of `probed`.
    """
    some = {name: marks.get(name, b"").hex() for name in probed(list(marks))}
    return "\0".join([*sorted(marks), *(f"{name}\0{mark}" for name, mark in some.items())])


def probed(names: Sequence[str]) -> list[str]:
    """Up to PROBED names, evenly spread from the first to the last."""
    ordered = sorted(names)
    # A CT has hundreds of slices: to ask for each would cost as much as to read it again.
    steps = min(PROBED, len(ordered))
    return [ordered[n * (len(ordered) - 1) // max(1, steps - 1)] for n in range(steps)]


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
