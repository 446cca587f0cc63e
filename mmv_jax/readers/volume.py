"""Volume files: NIfTI (1, 2; gzipped or not), MetaImage (MHA) and NRRD, to `[z, y, x]` in LPS+
order.

None of these formats has a word for Hounsfield units: the unit is the manifest's. All three can
point to voxels in another file, which is
refused: such a path may be any file of the machine.
"""

import gzip
import io
import math
import re
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np

from mmv_jax.readers.canvas import Canvas, is_whole, rescaled
from mmv_jax.readers.claims import Image
from mmv_jax.readers.limits import MAX_HEADER_BYTES, check_inflated, check_size
from mmv_jax.readers.orient import RAS_TO_LPS, Orientation, orientation_of, triple
from mmv_jax.readers.refused import Refused

Shape = tuple[int, ...]
GZIP = b"\x1f\x8b"
# columns of an affine for (i, j, k) -> for (k, j, i), as C order holds them
SLOWEST_FIRST = [2, 1, 0, 3]
# metres, millimetres, micrometres; where nothing is said, millimetres
NIFTI_UNITS_MM = {1: 1000.0, 2: 1.0, 3: 0.001}
NIFTI_MAGIC = {b"n+1\0": 1, b"ni1\0": 1, b"n+2\0": 2, b"ni2\0": 2}


def nifti_version(head: bytes) -> int | None:
    """1 or 2 where `head` (the first 352 bytes) is a NIfTI header, otherwise None."""
    return NIFTI_MAGIC.get(head[344:348]) or NIFTI_MAGIC.get(head[4:8])


def gunzipped_head(path: Path, size: int = 540) -> bytes:
    """The first bytes of what a gzip file holds; empty where it holds none."""
    try:
        with gzip.open(path) as file:
            return file.read(size)
    except (OSError, EOFError, zlib.error):
        return b""


def read_nifti(path: Path, grid: Shape | None = None) -> Image:
    """Reads a NIfTI file slice by slice into its final place, so that memory holds the volume once.
    `grid`: of a mask, its study's shape.

    Raises:
      Refused: detached_data, bad_shape, no_orientation, truncated, corrupt, too_large and what
        `orientation_of` raises.
    """
    stored = path.stat().st_size
    with path.open("rb") as raw:
        zipped = raw.read(2) == GZIP
    try:
        with gzip.open(path) if zipped else path.open("rb") as file:
            return _read_nifti(file, stored, zipped, grid)
    except EOFError:
        raise Refused("truncated", "the gzip data end too early") from None
    except (gzip.BadGzipFile, zlib.error):
        raise Refused(
            "corrupt", "the gzip data are damaged: their checksum does not hold"
        ) from None


def _read_nifti(file: io.BufferedIOBase, stored: int, zipped: bool, grid: Shape | None) -> Image:
    header = _nifti_header(file)
    shape = _three(tuple(int(n) for n in header.get_data_shape()))
    dtype = header.get_data_dtype()
    if dtype.kind not in "iuf":
        raise Refused("bad_shape", "voxels of a complex or colour type")
    size = check_size(shape, dtype.itemsize, stored if zipped else None, what="NIfTI", grid=grid)
    offset = int(header["vox_offset"])
    here = file.tell()
    if not here <= offset <= MAX_HEADER_BYTES:
        raise Refused("corrupt", "the voxels are said to begin inside the header")
    if not zipped and offset + size > stored:
        raise Refused(
            "truncated",
            f"{size} bytes of voxels are declared, the file has {max(0, stored - offset)}",
        )
    if not (int(header["sform_code"]) or int(header["qform_code"])):
        raise Refused(
            "no_orientation",
            "sform_code and qform_code are both 0, so left and right are not known. Set one of"
            " them",
        )
    shape = shape[::-1]  # from here on the slowest axis is first
    unit_mm = NIFTI_UNITS_MM.get(int(header["xyzt_units"]) & 7, 1.0)
    with np.errstate(all="ignore"):  # what is not finite is refused by orientation_of
        affine = np.diag([unit_mm] * 3 + [1.0]) @ RAS_TO_LPS @ header.get_best_affine()
    orientation = orientation_of(shape, affine[:, SLOWEST_FIRST])
    _skip(file, offset - here)
    voxels = _read_slices(file, shape, dtype, _scaling(header), orientation)
    if zipped:
        _skip_to_end(file)
    return Image(voxels, orientation.spacing_mm, 3, orientation=orientation)


def _nifti_header(file: io.BufferedIOBase) -> nib.Nifti1Header:
    head = file.read(540)
    version = nifti_version(head)
    magic = head[344:348] if version == 1 else head[4:8]
    if magic in (b"ni1\0", b"ni2\0"):
        raise Refused(
            "detached_data",
            "a NIfTI pair (.hdr and .img): its voxels lie in another file. Save it as one .nii",
        )
    kind = nib.Nifti1Header if version == 1 else nib.Nifti2Header
    file.seek(0)
    # check=False: nibabel repairs what it can and logs the field's value; what matters here is
    # checked above and below
    return kind.from_fileobj(io.BytesIO(file.read(348 if version == 1 else 540)), check=False)


def _three(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """The shape without trailing axes of length 1; two axes are a volume of one slice."""
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) == 2:
        shape = (*shape, 1)
    if len(shape) != 3:
        raise Refused(
            "bad_shape",
            f"an image of shape {shape}; one volume of three dimensions is expected (split a time"
            " series first)",
        )
    return shape


def _scaling(header: nib.Nifti1Header) -> tuple[float, float]:
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    # NIfTI-1: a slope of 0 means that the values are not scaled
    if slope == 0 or not math.isfinite(slope):
        return 1.0, 0.0
    if not math.isfinite(intercept):
        raise Refused("corrupt", "the header's intercept is not finite")
    return slope, intercept


def _read_slices(
    file: io.BufferedIOBase,
    shape: tuple[int, int, int],
    dtype: np.dtype,
    scaling: tuple[float, float],
    orientation: Orientation,
) -> np.ndarray:
    """Puts slice by slice, `shape` being (k, j, i), the slowest axis first."""
    canvas = Canvas(shape, orientation, first_kind(dtype, *scaling))
    size = shape[1] * shape[2] * dtype.itemsize
    for k in range(shape[0]):
        data = file.read(size)
        if len(data) < size:
            raise Refused("truncated", f"the voxels end in slice {k + 1} of {shape[0]}")
        canvas.put(k, rescaled(np.frombuffer(data, dtype).reshape(shape[1:]), *scaling))
    return canvas.voxels


def first_kind(dtype: np.dtype, slope: float = 1.0, intercept: float = 0.0) -> np.dtype | type:
    """The type that a canvas begins with: the file's own small integers, int16 for other whole
    numbers, otherwise float32.
    """
    if dtype.kind == "f" or not is_whole(slope, intercept):
        return np.float32
    return (
        dtype.newbyteorder("=")
        if (slope, intercept) == (1.0, 0.0) and dtype.itemsize < 4
        else np.int16
    )


def _skip(file: io.BufferedIOBase, count: int) -> None:
    while count > 0:
        data = file.read(min(count, 1 << 20))
        if not data:
            raise Refused("truncated", "the file ends before its voxels begin")
        count -= len(data)


def _skip_to_end(file: io.BufferedIOBase) -> None:
    """Reads on to the end of a gzip stream, where its checksum is; what follows the voxels is small
    or a bomb.
    """
    rest = 0
    while data := file.read(1 << 20):
        rest += len(data)
        if rest > MAX_HEADER_BYTES:
            raise Refused("too_large", "more data follow the voxels than can belong to them")


META_TYPES = {
    "MET_CHAR": 1, "MET_UCHAR": 1, "MET_SHORT": 2, "MET_USHORT": 2, "MET_INT": 4, "MET_UINT": 4,
    "MET_LONG": 8, "MET_ULONG": 8, "MET_LONG_LONG": 8, "MET_ULONG_LONG": 8, "MET_FLOAT": 4, "MET_DOUBLE": 8,
}  # fmt: skip
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
      Refused: detached_data, bad_shape, no_orientation, truncated, corrupt, too_large and what
        `orientation_of` raises.
    """
    import SimpleITK as sitk

    stored = path.stat().st_size
    with path.open("rb") as file:
        header = _meta_header(file)
        shape, itemsize = _checked_meta(header)
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
    for _ in range(200):
        line = file.readline(4096)
        key, equals, value = line.decode("latin-1").partition("=")
        if not equals:
            raise Refused("corrupt", "the MetaImage header has a line that is no `Key = value`")
        header[key.strip()] = value.strip()
        if key.strip() == "ElementDataFile":
            return header
    raise Refused("corrupt", "the MetaImage header has no ElementDataFile")


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


def placed(source: np.ndarray, affine: np.ndarray) -> Image:
    """An Image of the voxels of `source` [k, j, i], whose `affine` maps (k, j, i) to LPS mm."""
    orientation = orientation_of(source.shape, affine)
    canvas = Canvas(source.shape, orientation, first_kind(source.dtype))
    for k, values in enumerate(source):
        canvas.put(k, rescaled(values, 1.0, 0.0))
    return Image(canvas.voxels, orientation.spacing_mm, 3, orientation=orientation)


NRRD_SPACES = {  # the sense of each axis of the file's space, as seen from LPS
    "left-posterior-superior": (1, 1, 1), "lps": (1, 1, 1),
    "right-anterior-superior": (-1, -1, 1), "ras": (-1, -1, 1),
    "left-anterior-superior": (1, -1, 1), "las": (1, -1, 1),
}  # fmt: skip


def read_nrrd(path: Path, grid: Shape | None = None) -> Image:
    """Reads an NRRD file whose voxels lie in itself.

    Raises:
      Refused: detached_data, bad_shape, no_orientation, truncated, corrupt, unknown_encoding,
        too_large and what `orientation_of` raises.
    """
    import nrrd

    stored = path.stat().st_size
    with path.open("rb") as file:
        try:
            header = nrrd.read_header(file)
        except (nrrd.NRRDError, ValueError, KeyError, IndexError, UnicodeDecodeError):
            raise Refused("corrupt", "the NRRD header cannot be understood") from None
        if "data file" in header or "datafile" in header:
            raise Refused(
                "detached_data", "the NRRD's voxels lie in another file. Save it as one .nrrd"
            )
        shape = _three(tuple(int(n) for n in header.get("sizes", ())))
        encoding = str(header.get("encoding", ""))
        size = check_size(
            shape,
            _nrrd_itemsize(header),
            stored if encoding != "raw" else None,
            what="NRRD",
            grid=grid,
        )
        start = file.tell()
        if encoding in ("gzip", "gz"):
            check_inflated(file, 47, size)
        elif encoding != "raw":
            raise Refused("unknown_encoding", "an NRRD encoding that is neither raw nor gzip")
        elif stored - start < size:
            raise Refused(
                "truncated", f"{size} bytes of voxels are declared, the file has {stored - start}"
            )
        affine = _nrrd_affine(header)[:, SLOWEST_FIRST]
        file.seek(start)
        try:
            source = nrrd.read_data(header, file, index_order="C").reshape(shape[::-1])
        except (nrrd.NRRDError, ValueError, OSError):
            raise Refused("truncated", "the NRRD's voxels cannot be read to their end") from None
    return placed(source, affine)


def _nrrd_itemsize(header) -> int:
    from nrrd.reader import _determine_datatype

    try:
        dtype = _determine_datatype(header)
    except Exception:
        raise Refused("unknown_encoding", "an NRRD type that is not read here") from None
    if dtype.kind not in "iuf":
        raise Refused("unknown_encoding", "an NRRD type that is not read here")
    return dtype.itemsize


def _nrrd_affine(header) -> np.ndarray:
    """Index to LPS mm."""
    senses = NRRD_SPACES.get(str(header.get("space", "")).lower())
    directions = header.get("space directions")
    if senses is None or directions is None:
        raise Refused(
            "no_orientation",
            "the NRRD names no patient space (left-posterior-superior or the like), so left and"
            " right are not known",
        )
    rows = np.array(directions, float)
    rows = rows[np.isfinite(rows).all(axis=1)] if rows.ndim == 2 else rows
    if rows.shape != (3, 3):
        raise Refused("bad_shape", "three space directions are expected")
    affine = np.eye(4)
    affine[:3, :3] = rows.T * np.array(senses)[:, None]
    affine[:3, 3] = np.array(header.get("space origin", (0, 0, 0)), float) * senses
    return affine
