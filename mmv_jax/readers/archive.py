"""Members of zip and tar archives: what an archive holds, and the bytes of one member.

A path `ARCHIVE::MEMBER` names a file in an archive, `ARCHIVE::FOLDER` a DICOM series in it. Members
are read into memory, one study at a time: nothing is unpacked to a disk, where it could stay.
An archive may come from anybody, so names, links and sizes are checked before a byte is inflated.
"""

import gzip
import io
import math
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from mmv_jax.readers.limits import BOMB_BYTES, BOMB_RATIO, MAX_HEADER_BYTES, MAX_VOXEL_BYTES
from mmv_jax.readers.refused import Refused

MARK = "::"  # between an archive and its member
ZIP, GZIP, TAR = (b"PK\x03\x04", b"PK\x05\x06"), b"\x1f\x8b", b"ustar"  # a tar's mark is at 257
TAR_BLOCK = 512
MOST_MEMBERS = 500_000  # about 1 kB of memory each
MOST_AT_ONCE = 16 << 20  # bytes of one read: the extended header of a tar is read as a whole
PIECE = 1 << 20
NESTED = ("bad_member", "an archive in an archive: unpack the outer one first")
NAME_A_MEMBER = "name one of its members, ARCHIVE::FILE, or a folder of one DICOM series"
MOST_OPEN = 2  # lines of a manifest go through one archive; a mask may lie in a second one
ARCHIVE_END = re.compile(r"\.(zip|tar|tgz|tar\.gz)$", re.IGNORECASE)
DRIVE = re.compile(r"[A-Za-z]:[/\\]")


@dataclass(frozen=True)
class Member:
    """A file of an archive.

    Attributes:
      name: without a leading `./`.
      size: bytes, as declared.
      wrong: (code, reason) why it is not read; None if it may be.
      open: opens it for reading, as a binary file.
    """

    name: str
    size: int
    wrong: tuple[str, str] | None
    open: Callable[[], Any]


@dataclass(frozen=True)
class Archive:
    """An open archive.

    Attributes:
      members: its files by name, in their order in the archive.
      close: closes the file.
    """

    members: dict[str, Member]
    close: Callable[[], object]

    def copy(self, name: str, to: BinaryIO, *, grid: Sequence[int] | None = None) -> None:
        """Write a member to an open file.

        Args:
          grid: for a mask, the shape of its study, which bounds the size of a member.
        Raises:
          Refused: not_found, bad_member, encrypted, too_large, truncated, corrupt,
            unknown_encoding.
        """
        member = self._checked(name)
        most = MAX_VOXEL_BYTES + MAX_HEADER_BYTES
        if grid is not None:
            most = 8 * math.prod(grid) + MAX_HEADER_BYTES
        elif member.wrong:
            raise Refused(*member.wrong)
        if member.size > most:
            raise Refused("too_large", f"the member declares {member.size / 2**20:.0f} MiB")
        size = 0
        with _damage_refused(), member.open() as file:
            while piece := file.read(PIECE):
                if size == 0 and archive_kind(piece[:TAR_BLOCK], io.BytesIO(piece)) is not None:
                    raise Refused(*NESTED)
                size += len(piece)
                to.write(piece)
        if size != member.size:
            raise Refused("truncated", "the member ends before its declared size")

    def head(self, name: str, size: int) -> bytes:
        """The first `size` bytes of a member. Raises as `read` does."""
        member = self._checked(name)
        if member.wrong:
            raise Refused(*member.wrong)
        with _damage_refused(), member.open() as file:
            return file.read(size)

    def below(self, folder: str) -> list[str]:
        """Names of the files that lie directly in a folder of the archive."""
        parent = PurePosixPath(folder)
        return [name for name in self.members if PurePosixPath(name).parent == parent]

    def matching(self, pattern: str) -> list[str]:
        """Names of the members that match a pattern, part by part."""
        parts = PurePosixPath(pattern).parts
        return sorted(
            name
            for name in self.members
            if len(PurePosixPath(name).parts) == len(parts)
            and all(map(fnmatchcase, PurePosixPath(name).parts, parts))
        )

    def _why_marked(self, outer: str) -> tuple[str, str]:
        """Why a path with two marks is refused; `outer` is what stands between them."""
        if outer not in self.members:
            return "not_found", f"the path has `{MARK}` twice: {NAME_A_MEMBER}"
        head = self.head(outer, TAR_BLOCK)
        if archive_kind(head) or head[:2] == GZIP or ARCHIVE_END.search(outer):
            return NESTED
        return "not_found", f"the member before the second `{MARK}` is no archive: leave that out"

    def _checked(self, name: str) -> Member:
        if name not in self.members:
            if MARK in name:
                raise Refused(*self._why_marked(name.partition(MARK)[0]))
            raise Refused("not_found", "the archive has no such member")
        member = self.members[name]
        # A mask may shrink without limit; its size is judged by its study's.
        if member.wrong and member.wrong[0] != "too_large":
            raise Refused(*member.wrong)
        return member


def archived(path: Path) -> tuple[Path, str] | None:
    """The archive and the member that a path names; None where it names neither.

    >>> archived(Path("study.png")) is None
    True
    """
    text = str(path)
    if MARK not in text or path.exists():
        return None
    # The first mark that ends at a file: folders may have the mark in their names.
    ends = [found.start() for found in re.finditer(MARK, text)]
    end = next((end for end in ends if Path(text[:end]).is_file()), None)
    if end is None:
        return None
    return Path(text[:end]), plain_name(text[end + len(MARK) :])


def plain_name(name: str) -> str:
    """Name of a member without `./` in front and `/` behind it."""
    return name.removeprefix("./").rstrip("/") if name not in (".", "/") else name.strip(".")


def archive_kind(head: bytes | bytearray, file: io.BufferedIOBase | None = None) -> str | None:
    """ "zip", "tar" or "tar.gz" by content; None for anything else.

    Args:
      head: the first 512 bytes.
      file: the whole file, to look into what is gzipped.
    """
    if head[:4] in ZIP:
        return "zip"
    if head[257:262] == TAR:
        return "tar"
    if file is None or head[:2] != GZIP:
        return None
    try:
        inner = gzip.GzipFile(fileobj=file).read(TAR_BLOCK)
    except (OSError, EOFError, zlib.error):
        return None
    return "tar.gz" if inner[257:262] == TAR else None


def kind_of_archive(path: Path) -> str | None:
    """ "zip", "tar" or "tar.gz" by the content of a file; None for anything else."""
    with path.open("rb") as file:
        head = file.read(TAR_BLOCK)
        file.seek(0)
        return archive_kind(head, file)


def open_archive(path: Path) -> Archive:
    """The archive of a file. Its list of members is kept for the next call.

    Raises:
      Refused: not_an_image (no archive), too_large, truncated, corrupt.
    """
    seen = path.stat()
    stamp = (path, seen.st_size, seen.st_mtime_ns)
    if stamp not in _OPEN:
        while len(_OPEN) >= MOST_OPEN:
            _OPEN.pop(next(iter(_OPEN))).close()
        kind = kind_of_archive(path)
        if kind is None:
            raise Refused("not_an_image", "its content is that of no zip and no tar archive")
        with _damage_refused():
            _OPEN[stamp] = _open_zip(path) if kind == "zip" else _open_tar(path, kind, seen.st_size)
    return _OPEN[stamp]


def _open_zip(path: Path) -> Archive:
    archive = zipfile.ZipFile(path)
    members: list[Member] = []
    for info in archive.infolist():
        if info.is_dir():
            continue
        wrong = None
        if info.flag_bits & 1:
            wrong = "encrypted", "the member is encrypted: unpack the archive with its password"
        elif stat.S_ISLNK(info.external_attr >> 16):
            wrong = "bad_member", "the member is a link, which may lead anywhere"
        elif info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            # The other methods inflate whole blocks, whose size nothing bounds.
            wrong = "unknown_encoding", "the zip is neither stored nor deflated: pack it again"
        elif info.file_size > BOMB_BYTES and info.file_size > BOMB_RATIO * info.compress_size:
            wrong = _bomb(info.file_size, info.compress_size)
        members.append(Member(info.filename, info.file_size, wrong, partial(archive.open, info)))
    return Archive(_by_name(members), archive.close)


def _open_tar(path: Path, kind: str, size: int) -> Archive:
    raw = gzip.GzipFile(path) if kind == "tar.gz" else path.open("rb")
    try:
        return Archive(_by_name(_tar_members(raw, kind, size)), raw.close)
    except BaseException:
        raw.close()
        raise


def _tar_members(raw: io.BufferedIOBase, kind: str, size: int) -> list[Member]:
    # Stays open with `raw`, which `Archive.close` closes.
    archive = tarfile.open(fileobj=_Bounded(raw), mode="r:")  # noqa: SIM115
    members: list[Member] = []
    for info in archive:
        # Before the next header is sought: on the way to it these bytes would be inflated.
        end = info.offset_data + info.size
        if kind == "tar.gz" and end > BOMB_BYTES and end > BOMB_RATIO * size:
            raise Refused(*_bomb(end, size))
        if len(members) > MOST_MEMBERS:
            raise Refused("too_large", f"the archive has more than {MOST_MEMBERS} members")
        if info.isdir():
            continue
        wrong = None
        if not info.isreg() or info.issparse():
            wrong = "bad_member", "the member is a link, a device or a sparse file"
        members.append(Member(info.name, info.size, wrong, partial(archive.extractfile, info)))
    if kind == "tar.gz":
        _check_rest(raw, size)
    return members


def _check_rest(raw: io.BufferedIOBase, size: int) -> None:
    """Reads on to the end, where gzip has its checksum.

    Raises:
      Refused: too_large.
    """
    while raw.read(PIECE):
        if raw.tell() > max(BOMB_BYTES, BOMB_RATIO * size):
            raise Refused(*_bomb(raw.tell(), size))


def _by_name(members: list[Member]) -> dict[str, Member]:
    if len(members) > MOST_MEMBERS:
        raise Refused("too_large", f"the archive has more than {MOST_MEMBERS} members")
    found: dict[str, Member] = {}
    for member in members:
        name = plain_name(member.name)
        wrong = member.wrong or unsafe_name(member.name)
        if name in found:
            wrong = "bad_member", "the archive has two members of this name"
        found[name] = replace(member, name=name, wrong=wrong)
    return found


def unsafe_name(name: str) -> tuple[str, str] | None:
    """Why a member's name is refused, as (code, reason); None if it may be read.

    >>> unsafe_name("a/b..png") is None, unsafe_name("a/../b")[0], unsafe_name("/etc/x")[0]
    (True, 'bad_member', 'bad_member')
    """
    if name.startswith(("/", "\\")) or DRIVE.match(name):
        return "bad_member", "the member has an absolute path"
    if ".." in re.split(r"[/\\]", name):
        return "bad_member", "the member's path has `..` in it"
    return None


def _bomb(size: int, stored: int) -> tuple[str, str]:
    return (
        "too_large",
        f"{size / 2**20:.0f} MiB lie in {stored / 2**20:.1f} MiB of the archive",
    )


# Open archives, in the order of their opening. Opening a gzipped tar anew would inflate all of it.
_OPEN: dict[tuple[Path, int, int], Archive] = {}


class _Bounded(io.RawIOBase):
    """A file whose single reads are bounded: `tarfile` reads extended headers as a whole."""

    def __init__(self, file):
        self._file = file

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MOST_AT_ONCE:
            raise Refused("too_large", "a header of the archive declares more than 16 MiB")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True


@contextmanager
def _damage_refused() -> Iterator[None]:
    """Turns what the libraries say of damaged archives into three codes."""
    try:
        yield
    except EOFError:
        raise Refused("truncated", "the archive ends too early") from None
    except tarfile.TarError as error:
        code = "truncated" if "unexpected end" in str(error) else "corrupt"
        raise Refused(code, "the archive's headers are damaged, or it ends too early") from None
    except (zipfile.BadZipFile, zlib.error, gzip.BadGzipFile):
        raise Refused("corrupt", "the archive is damaged, or declares other sizes") from None
    except NotImplementedError:
        raise Refused("unknown_encoding", "the archive's compression is not read here") from None
    except RuntimeError:  # zipfile asks for a password in this way
        raise Refused("encrypted", "the member is encrypted") from None
