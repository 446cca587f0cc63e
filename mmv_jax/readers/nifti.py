"""NIfTI reader (version 1 and 2, gzipped or not): `[z, y, x]` in LPS+ order, slice by slice."""

import gzip
import io
import math
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np

from mmv_jax.readers.canvas import Canvas, rescaled
from mmv_jax.readers.image import Format, Image
from mmv_jax.readers.limits import MAX_HEADER_BYTES, check_size
from mmv_jax.readers.orient import RAS_TO_LPS, Orientation, orientation_of
from mmv_jax.readers.refused import Refused
from mmv_jax.readers.volume import SLOWEST_FIRST, Shape, check_rest, first_kind, three_axes

GZIP = b"\x1f\x8b"
# metres, millimetres, micrometres; millimetres where no unit is stated
NIFTI_UNITS_MM = {1: 1000.0, 2: 1.0, 3: 0.001}
PIXDIM_TOLERANCE = 0.05  # the same as between a file and its manifest
NIFTI_MAGIC = {b"n+1\0": 1, b"ni1\0": 1, b"n+2\0": 2, b"ni2\0": 2}


def nifti_version(head: bytes) -> int | None:
    """Version (1 or 2) if `head`, the first 352 bytes, is a NIfTI header; otherwise None."""
    # NIfTI-1 has its magic at the end of 348 bytes, NIfTI-2 behind sizeof_hdr.
    return NIFTI_MAGIC.get(head[344:348]) or NIFTI_MAGIC.get(head[4:8])


def gunzipped_head(path: Path, size: int = 540) -> bytes:
    """First `size` bytes of the content of a gzip file; empty if it cannot be inflated."""
    try:
        with gzip.open(path) as file:
            return file.read(size)
    except (OSError, EOFError, zlib.error):
        return b""


def read_nifti(path: Path, grid: Shape | None = None) -> Image:
    """Read a NIfTI file slice by slice into its final place, so memory holds the volume once.

    Args:
      grid: shape of the study, if the file is its mask.
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
    shape = three_axes(tuple(int(n) for n in header.get_data_shape()))
    dtype = header.get_data_dtype()
    if dtype.kind not in "iuf":
        raise Refused("bad_shape", "voxels of a complex or colour type")
    size = check_size(shape, dtype.itemsize, stored if zipped else None, what="NIfTI", grid=grid)
    offset = int(header["vox_offset"])
    here = file.tell()
    # vox_offset is a float in NIfTI-1, and may leave room for header extensions.
    if not here <= offset <= MAX_HEADER_BYTES:
        raise Refused("corrupt", "the voxels are said to begin inside the header")
    if not zipped and offset + size > stored:
        raise Refused(
            "truncated",
            f"{size} bytes of voxels are declared, the file has {max(0, stored - offset)}",
        )
    if not zipped:
        check_rest(stored - offset - size, size // shape[2])
    if not (int(header["sform_code"]) or int(header["qform_code"])):
        raise Refused(
            "no_orientation",
            "sform_code and qform_code are both 0, so left and right are not known. Set one of"
            " them",
        )
    shape = shape[::-1]  # from here on the slowest axis is first
    # The low three bits of xyzt_units are for space, the next three for time.
    unit_mm = NIFTI_UNITS_MM.get(int(header["xyzt_units"]) & 7, 1.0)
    with np.errstate(all="ignore"):  # orientation_of refuses what is not finite
        # nibabel takes the sform if its code is set, otherwise the qform. Both are in RAS.
        affine = np.diag([unit_mm] * 3 + [1.0]) @ RAS_TO_LPS @ header.get_best_affine()
    check_statements(header)
    orientation = orientation_of(shape, affine[:, SLOWEST_FIRST])
    _skip(file, offset - here)
    voxels = _read_slices(
        file, shape, dtype=dtype, scaling=_scaling(header), orientation=orientation
    )
    # gzip verifies its checksum only at the end of the stream, after the last voxel.
    if zipped:
        _skip_to_end(file, size // shape[0])
    return Image(voxels, orientation.spacing_mm, 3, orientation=orientation)


def _nifti_header(file: io.BufferedIOBase) -> nib.Nifti1Header:
    # 540 bytes: the header of NIfTI-2, the longer one.
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
    # check=False: nibabel would repair fields and log their values. What matters here is checked
    # above and below.
    return kind.from_fileobj(io.BytesIO(file.read(348 if version == 1 else 540)), check=False)


def check_statements(header: nib.Nifti1Header) -> None:
    """Refuse a header whose redundant fields disagree.

    sform and qform must agree about left and right, spacing of the transform and pixdim within 5 %.
    Rotations may differ: an sform may lie in a template's space.

    Raises:
      Refused: contradictory.
    """
    with np.errstate(all="ignore"):
        best, sform, qform = header.get_best_affine(), header.get_sform(), header.get_qform()
        lengths = np.linalg.norm(best[:3, :3], axis=0)
    if not all(np.isfinite(affine).all() for affine in (best, sform, qform)):
        return  # orientation_of refuses it
    if int(header["sform_code"]) and int(header["qform_code"]):
        # The sign of a determinant is the handedness: it differs where left and right do.
        sides = [np.linalg.det(affine[:3, :3]) for affine in (sform, qform)]
        # A dot product of each column with its counterpart; below 0 the axis runs the other way.
        along = np.sum(sform[:3, :3] * qform[:3, :3], axis=0)
        if sides[0] * sides[1] < 0 or (along < 0).any():
            raise Refused(
                "contradictory",
                "sform and qform disagree about left and right, or about the sense of an axis: keep"
                " the one that is true",
            )
    # pixdim[0] is qfac, a sign for the qform; 1 to 3 are the spacings.
    stated = np.abs(np.asarray(header["pixdim"][1:4], float))
    known = (stated > 0) & np.isfinite(stated) & (lengths > 0)
    apart = np.abs(stated - lengths)[known] > PIXDIM_TOLERANCE * lengths[known]
    if apart.any():
        raise Refused(
            "contradictory",
            "the header's spacing (pixdim) and its transform differ by more than 5 %",
        )


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
    """Volume `[z, y, x]` from slices of `shape` (k, j, i), the slowest axis first."""
    canvas = Canvas(shape, orientation, first_kind(dtype, *scaling))
    size = shape[1] * shape[2] * dtype.itemsize
    for k in range(shape[0]):
        data = file.read(size)
        if len(data) < size:
            raise Refused("truncated", f"the voxels end in slice {k + 1} of {shape[0]}")
        canvas.put(k, rescaled(np.frombuffer(data, dtype).reshape(shape[1:]), *scaling))
    return canvas.voxels


def _skip(file: io.BufferedIOBase, count: int) -> None:
    while count > 0:
        data = file.read(min(count, 1 << 20))
        if not data:
            raise Refused("truncated", "the file ends before its voxels begin")
        count -= len(data)


def _skip_to_end(file: io.BufferedIOBase, a_slice: int) -> None:
    """Read to the end of a gzip stream, where its checksum is.

    More than MAX_HEADER_BYTES behind the voxels is refused as a decompression bomb, a slice or more
    as a header that is wrong.
    """
    rest = 0
    while data := file.read(1 << 20):
        rest += len(data)
        if rest > MAX_HEADER_BYTES:
            raise Refused("too_large", "more data follow the voxels than can belong to them")
    check_rest(rest, a_slice)


def is_nifti(head: bytes, path: Path) -> bool:
    """Whether a file that begins with `head` is NIfTI, gzipped or not."""
    return nifti_version(gunzipped_head(path) if head.startswith(GZIP) else head) is not None


NIFTI = Format(is_nifti, read_nifti)
