"""Looks into the archives of a folder: which members are images, and which are left out.

Only the head of a member is read; `ingest` reads the rest.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pydicom

from mmv_jax.readers.archive import Archive, kind_of_archive, open_archive
from mmv_jax.readers.dicom import quiet
from mmv_jax.readers.read import format_of
from mmv_jax.readers.refused import Refused
from mmv_jax.readers.sources import held

ARCHIVE = "archive"  # the kind of a file that holds others
HEAD = 1 << 20  # bytes of a member that are looked at: no header that matters here is longer
TAGS = ["SeriesInstanceUID", "PatientID", "Modality", "BodyPartExamined"]
LEFT_OUT = {  # code of `refused.CODES` -> how such members are counted
    "encrypted": "encrypted members of archives",
    "bad_member": "members of archives that are links, archives or have unsafe names",
    "too_large": "members of archives that inflate beyond the limits",
}


@dataclass(frozen=True)
class FoundFile:
    """A file of a folder or of an archive.

    Attributes:
      kind: a name of FORMATS, ARCHIVE, or None where it is neither.
      header: a few tags, if it is DICOM; None where they cannot be read.
    """

    name: str
    kind: str | None
    header: pydicom.Dataset | None = None


def holds_members(file: Path) -> bool:
    """Whether a file is an archive, and not an empty one. One that is damaged counts."""
    if kind_of_archive(file) is None:
        return False
    try:
        return bool(open_archive(file).members)
    except Refused:
        return True


def look_into(file: Path, left: Counter[str]) -> dict[PurePosixPath, list[FoundFile]]:
    """What lies in each folder of an archive; empty where the file is none.

    Args:
      left: gets the count of what is left out.
    """
    found: dict[PurePosixPath, list[FoundFile]] = defaultdict(list)
    if kind_of_archive(file) is None:
        return found
    try:
        archive = open_archive(file)
    except Refused:
        left["archives that are damaged or inflate beyond the limits"] += 1
        return found
    for name in archive.members:
        path = PurePosixPath(name)
        if path.name.startswith("."):
            continue
        try:
            seen = _look(archive, name)
        except Refused as why:
            left[LEFT_OUT.get(why.code, "damaged members of archives")] += 1
            continue
        found[path.parent].append(seen)
    return found


def _look(archive: Archive, name: str) -> FoundFile:
    """Raises Refused: the codes of `Archive.head`, and bad_member for an archive."""
    data = archive.head(name, HEAD)
    with held({name: lambda file: file.write(data)}) as paths:
        path = paths[name]
        kind = format_of(path)
        if kind is None and kind_of_archive(path):
            raise Refused("bad_member", "an archive in an archive")
        header = header_of(path) if kind == "dicom" else None
    return FoundFile(PurePosixPath(name).name, kind, header)


def header_of(path: Path) -> pydicom.Dataset | None:
    """The tags of a DICOM file that say whose it is and of which series; None if it is damaged."""
    with quiet():
        try:
            # Only four tags: a folder may hold a million files.
            return pydicom.dcmread(path, stop_before_pixels=True, specific_tags=TAGS, force=True)
        except Exception:
            return None
