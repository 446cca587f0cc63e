"""MetaImage (MHA) to `[z, y, x]` in LPS+ order."""

import io
import re
from pathlib import Path

import numpy as np

from mmv_jax.readers.image import Format, Image
from mmv_jax.readers.limits import check_inflated, check_size
from mmv_jax.readers.orient import triple
from mmv_jax.readers.refused import Refused
from mmv_jax.readers.volume import SLOWEST_FIRST, Shape, placed

META_TYPES = {
    "MET_CHAR": 1, "MET_UCHAR": 1, "MET_SHORT": 2, "MET_USHORT": 2, "MET_INT": 4, "MET_UINT": 4,
    "MET_LONG": 8, "MET_ULONG": 8, "MET_LONG_LONG": 8, "MET_ULONG_LONG": 8,
    "MET_FLOAT": 4, "MET_DOUBLE": 8,
}  # fmt: skip
MAX_HEADER_TEXT = 4 << 20
META_LINE = re.compile(rb"^[A-Za-z]+[ \t]*=")


def is_meta_image(head: bytes) -> bool:
    """Whether a file that begins with `head` is a MetaImage: lines of `Key = value`, one of them
    NDims or ObjectType.
    """
    first = head.split(b"\n", 1)[0]
    return bool(META_LINE.match(first)) and (b"NDims" in head or b"ObjectType" in head)


def read_meta_image(path: Path, grid: Shape | None = None) -> Image:
    """Reads an MHA file whose voxels lie in itself.

    Raises:
      Refused: needs_extra, detached_data, bad_shape, no_orientation, truncated, corrupt, too_large
        and what `orientation_of` raises.
    """
    try:
        import SimpleITK as sitk
    except ImportError:
        raise Refused(
            "needs_extra",
            "an MHA file is read by SimpleITK, which is not installed: pip install 'mmv_jax[mha]'",
        ) from None

    stored = path.stat().st_size
    with path.open("rb") as file:
        header = _meta_header(file)
        shape, itemsize = _checked_meta(header)
        check_header_size(header, file.tell())
        zipped = header.get("CompressedData", "False").lower() in ("true", "1")
        size = check_size(shape, itemsize, stored if zipped else None, what="MHA", grid=grid)
        if zipped:
            check_inflated(file, 47, size)
        elif stored - file.tell() < size:
            raise Refused(
                "truncated",
                f"{size} bytes of voxels are declared, the file has {stored - file.tell()}",
            )
    reader = sitk.ImageFileReader()
    reader.SetImageIO("MetaImageIO")
    reader.SetFileName(str(path))
    try:
        image = reader.Execute()
    except RuntimeError:
        raise Refused("unreadable", "ITK cannot read this MetaImage") from None
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    source = sitk.GetArrayViewFromImage(image)
    if source.shape != shape[::-1]:
        raise Refused("corrupt", "header and voxels disagree about the shape")
    return placed(source, affine[:, SLOWEST_FIRST])


def _meta_header(file: io.BufferedIOBase) -> dict[str, str]:
    header: dict[str, str] = {}
    while file.tell() < MAX_HEADER_TEXT:  # sequences of PLUS have thousands of lines
        line = file.readline(MAX_HEADER_TEXT)
        key, equals, value = line.decode("latin-1").partition("=")
        if not equals:
            raise Refused("corrupt", "the MetaImage header has a line that is no `Key = value`")
        header[key.strip()] = value.strip()
        if key.strip() == "ElementDataFile":
            return header
    raise Refused("corrupt", "the MetaImage header has no ElementDataFile")


def check_header_size(header: dict[str, str], end: int) -> None:
    """Refuses voxels that are said to begin elsewhere than behind the header: ITK would follow, and
    take words of the header for voxels.

    Raises:
      Refused: corrupt.
    """
    stated = header.get("HeaderSize", "0")
    if stated not in ("0", str(end)):
        raise Refused("corrupt", "HeaderSize says that the voxels do not begin behind the header")


def _checked_meta(header: dict[str, str]) -> tuple[tuple[int, int, int], int]:
    """Shape (i, j, k) and bytes a voxel."""
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
    if not {"TransformMatrix", "Rotation", "Orientation"} & set(header):
        raise Refused(
            "no_orientation",
            "the MetaImage header has no TransformMatrix, so left and right are not known",
        )
    return triple(shape), META_TYPES[header["ElementType"]]


META_IMAGE = Format(lambda head, _: is_meta_image(head), read_meta_image)
