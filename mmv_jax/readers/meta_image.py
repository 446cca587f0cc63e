"""MetaImage (MHA) reader: `[z, y, x]` in LPS+ order."""

import io
import re
from pathlib import Path

import numpy as np
from nibabel.orientations import io_orientation

from mmv_jax.readers.image import SPACING_TOLERANCE, Format, Image
from mmv_jax.readers.limits import check_size, inflated
from mmv_jax.readers.orient import triple
from mmv_jax.readers.refused import Refused
from mmv_jax.readers.volume import SLOWEST_FIRST, Shape, check_rest, placed

META_TYPES = {  # numpy's; MetaIO's long has 4 bytes on every machine
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2",
    "MET_INT": "i4", "MET_UINT": "u4", "MET_LONG": "i4", "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4", "MET_DOUBLE": "f8",
}  # fmt: skip
# MetaIO takes the first of these names that the header has
DIRECTIONS = ("TransformMatrix", "Rotation", "Orientation")
ORIGINS = ("Offset", "Position", "Origin")
SPACINGS = ("ElementSpacing", "ElementSize")
YES = ("true", "1", "t", "y", "yes")
UNITS_MM = {"": 1.0, "?": 1.0, "mm": 1.0, "cm": 10.0, "um": 0.001}  # words of DistanceUnits
MAX_HEADER_TEXT = 4 << 20
META_LINE = re.compile(rb"^[A-Za-z]+[ \t]*=")


def is_meta_image(head: bytes) -> bool:
    """Whether a file that begins with `head` is a MetaImage.

    Its header has lines `Key = value`, one of them NDims or ObjectType.
    """
    first = head.split(b"\n", 1)[0]
    return bool(META_LINE.match(first)) and (b"NDims" in head or b"ObjectType" in head)


def read_meta_image(path: Path, grid: Shape | None = None) -> Image:
    """Read an MHA file that contains its own voxels.

    ITK is not used: it fails on a comment of some hundred characters, and lets HeaderSize point
    into the header. Tests compare voxels and positions with ITK's.

    Args:
      grid: shape of the study, if the file is its mask.
    Raises:
      Refused: detached_data, bad_shape, no_orientation, truncated, corrupt, too_large and what
        `orientation_of` raises.
    """
    stored = path.stat().st_size
    with path.open("rb") as file:
        header = _meta_header(file)
        shape, dtype = _checked_meta(header)
        start = file.tell()
        check_header_size(header, start)
        zipped = _says_yes(header, "CompressedData")
        size = check_size(shape, dtype.itemsize, stored if zipped else None, what="MHA", grid=grid)
        # wbits 47 is 15 (the window) + 32 (zlib or gzip, whichever the header shows).
        if zipped:
            data = b"".join(inflated(file, 47, size))
        # Read only if the file is long enough: a false header must not make us allocate.
        # More than that is of a time series, or the header is another file's.
        elif stored - start >= size:
            check_rest(stored - start - size, size // shape[2])
            data = file.read(size)
        else:
            data = b""
        if len(data) < size:
            found = len(data) if zipped else stored - start
            raise Refused("truncated", f"{size} bytes of voxels are declared, the file has {found}")
    source = np.frombuffer(data, dtype).reshape(shape[::-1])
    return placed(source, _meta_affine(header)[:, SLOWEST_FIRST])


def _says_yes(header: dict[str, str], *keys: str) -> bool:
    return any(header.get(key, "").lower() in YES for key in keys)


def _meta_affine(header: dict[str, str]) -> np.ndarray:
    """Affine from index (i, j, k) to LPS mm."""

    def numbers(keys: tuple[str, ...], default: list[float]) -> np.ndarray:
        text = next((header[key] for key in keys if key in header), None)
        try:
            found = np.array(default if text is None else [float(n) for n in text.split()])
        except ValueError:
            found = np.empty(0)
        if found.size != len(default):
            raise Refused("corrupt", "the MetaImage header's place or spacing has wrong numbers")
        return found

    affine = np.eye(4)
    # Row n of the matrix is the direction of axis n; an affine has directions as columns.
    rows = numbers(DIRECTIONS, [0.0] * 9).reshape(3, 3)
    steps = [numbers((key,), [1.0] * 3) for key in SPACINGS if key in header]
    spacing = steps[0] if steps else np.ones(3)
    if (spacing <= 0).any():
        raise Refused("bad_spacing", "a spacing of the MetaImage header is 0 mm or less")
    # ElementSize is the size of a voxel, and ElementSpacing the distance of two.
    if (np.abs(steps[-1] - spacing) > SPACING_TOLERANCE * spacing).any() if steps else False:
        raise Refused("contradictory", "ElementSize and ElementSpacing differ by more than 5 %")
    unit_mm = UNITS_MM.get(header.get("DistanceUnits", "").lower().removeprefix("met_"))
    if unit_mm is None:
        raise Refused("bad_spacing", "the MetaImage header's DistanceUnits are no known length")
    affine[:3, :3] = rows.T * spacing * unit_mm
    affine[:3, 3] = numbers(ORIGINS, [0.0] * 3) * unit_mm
    check_letters(header.get("AnatomicalOrientation", ""), affine)
    return affine


def check_letters(letters: str, affine: np.ndarray) -> None:
    """Refuse an AnatomicalOrientation that the matrix contradicts, such as RAI or LPS.

    MetaIO writes the side that an axis begins at, others the side that it runs to.

    Args:
      letters: three, or something else where a writer did not know.
      affine: from index to LPS mm.
    Raises:
      Refused: contradictory.
    """
    runs_to = [("R", "L"), ("A", "P"), ("I", "S")]  # below and above 0, along x, y and z
    named = io_orientation(affine)
    ends = "".join(runs_to[int(axis)][int(sense > 0)] for axis, sense in named)
    begins = "".join(runs_to[int(axis)][int(sense < 0)] for axis, sense in named)
    known = sorted(letters.upper().replace("F", "I").replace("H", "S"))
    if len(known) == 3 and all(len({*pair} & {*known}) == 1 for pair in runs_to):
        said = letters.upper().replace("F", "I").replace("H", "S")
        if said not in (ends, begins):
            raise Refused("contradictory", "AnatomicalOrientation and TransformMatrix disagree")


def _meta_header(file: io.BufferedIOBase) -> dict[str, str]:
    header: dict[str, str] = {}
    while file.tell() < MAX_HEADER_TEXT:  # sequences of PLUS have thousands of lines
        # Bounded: a file without a line break would be read into memory as a whole.
        line = file.readline(MAX_HEADER_TEXT)
        key, equals, value = line.decode("latin-1").partition("=")
        if not equals:
            raise Refused("corrupt", "the MetaImage header has a line that is no `Key = value`")
        header[key.strip()] = value.strip()
        # ElementDataFile is the last line by definition: the voxels begin behind it.
        if key.strip() == "ElementDataFile":
            return header
    raise Refused("corrupt", "the MetaImage header has no ElementDataFile")


def check_header_size(header: dict[str, str], end: int) -> None:
    """Refuse a HeaderSize that does not point to the end of the header.

    ITK would follow it, and take text of the header for voxels.

    Raises:
      Refused: corrupt.
    """
    stated = header.get("HeaderSize", "0")
    if stated not in ("0", str(end)):
        raise Refused("corrupt", "HeaderSize says that the voxels do not begin behind the header")


def _checked_meta(header: dict[str, str]) -> tuple[tuple[int, int, int], np.dtype]:
    """Shape (i, j, k) and dtype of the voxels."""
    if header["ElementDataFile"].upper() != "LOCAL":
        raise Refused(
            "detached_data", "the MetaImage's voxels lie in another file. Save it as one .mha"
        )
    try:
        shape = [int(n) for n in header["DimSize"].split()]
        channels = int(header.get("ElementNumberOfChannels", "1"))
    except (KeyError, ValueError):
        raise Refused("corrupt", "the MetaImage header does not say its size") from None
    if channels != 1 or len(shape) != 3 or header.get("NDims") != "3":
        raise Refused(
            "bad_shape",
            "one volume of three dimensions and one channel is expected (split a time series"
            " first)",
        )
    if header.get("ElementType") not in META_TYPES:
        raise Refused("unknown_encoding", "an ElementType that is not read here")
    if header.get("BinaryData", "True").lower() not in YES:
        raise Refused("unknown_encoding", "a MetaImage whose voxels are written as text")
    # ITK would assume the identity here, and left and right would be a guess.
    if not set(DIRECTIONS) & set(header):
        raise Refused(
            "no_orientation",
            "the MetaImage header has no TransformMatrix, so left and right are not known",
        )
    # MetaIO accepts two names for the byte order.
    big = _says_yes(header, "BinaryDataByteOrderMSB", "ElementByteOrderMSB")
    dtype = np.dtype(META_TYPES[header["ElementType"]]).newbyteorder(">" if big else "<")
    return triple(shape), dtype


META_IMAGE = Format(lambda head, _: is_meta_image(head), read_meta_image)
