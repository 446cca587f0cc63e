"""NRRD reader: `[z, y, x]` in LPS+ order."""

from pathlib import Path

import numpy as np

from mmv_jax.readers.image import SPACING_TOLERANCE, Format, Image
from mmv_jax.readers.limits import check_inflated, check_size
from mmv_jax.readers.refused import Refused
from mmv_jax.readers.volume import SLOWEST_FIRST, Shape, check_rest, placed, three_axes

NRRD_SPACES = {  # direction of each axis of the file's space, relative to LPS
    "left-posterior-superior": (1, 1, 1), "lps": (1, 1, 1),
    "right-anterior-superior": (-1, -1, 1), "ras": (-1, -1, 1),
    "left-anterior-superior": (1, -1, 1), "las": (1, -1, 1),
}  # fmt: skip


# words of `space units`, in mm
NRRD_UNITS_MM = {
    "": 1.0, "mm": 1.0, "millimeter": 1.0, "millimeters": 1.0, "millimetre": 1.0,
    "cm": 10.0, "m": 1000.0, "meter": 1000.0, "metre": 1000.0,
    "um": 0.001, "\u00b5m": 0.001, "\u03bcm": 0.001, "micron": 0.001, "microns": 0.001,
    "micrometer": 0.001,
}  # fmt: skip


def read_nrrd(path: Path, grid: Shape | None = None) -> Image:
    """Read an NRRD file that contains its own voxels.

    Args:
      grid: shape of the study, if the file is its mask.
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
        shape = three_axes(tuple(int(n) for n in header.get("sizes", ())))
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
            # pynrrd inflates without a limit, so look for a decompression bomb first, keeping
            # nothing.
            check_inflated(file, 47, size)
        elif encoding != "raw":
            raise Refused("unknown_encoding", "an NRRD encoding that is neither raw nor gzip")
        elif stored - start < size:
            raise Refused(
                "truncated", f"{size} bytes of voxels are declared, the file has {stored - start}"
            )
        elif encoding == "raw":
            check_rest(stored - start - size, size // shape[2])
        # NRRD counts axes from the fastest (i, j, k); numpy in C order from the slowest.
        affine = _nrrd_affine(header)[:, SLOWEST_FIRST]
        file.seek(start)
        try:
            source = nrrd.read_data(header, file, index_order="C").reshape(shape[::-1])
        except (nrrd.NRRDError, ValueError, OSError):
            raise Refused("truncated", "the NRRD's voxels cannot be read to their end") from None
    return placed(source, affine)


def _nrrd_itemsize(header) -> int:
    # pynrrd resolves the many names of a type, and its byte order, only in this function.
    from nrrd.reader import _determine_datatype

    try:
        dtype = _determine_datatype(header)
    except Exception:
        raise Refused("unknown_encoding", "an NRRD type that is not read here") from None
    if dtype.kind not in "iuf":
        raise Refused("unknown_encoding", "an NRRD type that is not read here")
    return dtype.itemsize


def _nrrd_affine(header) -> np.ndarray:
    """Affine from index (i, j, k) to LPS mm."""
    senses = NRRD_SPACES.get(str(header.get("space", "")).lower())
    directions = header.get("space directions")
    if senses is None or directions is None:
        raise Refused(
            "no_orientation",
            "the NRRD names no patient space (left-posterior-superior or the like), so left and"
            " right are not known",
        )
    rows = np.array(directions, float)
    # pynrrd reads the direction `none` of a non-spatial axis as a row of NaN.
    rows = rows[np.isfinite(rows).all(axis=1)] if rows.ndim == 2 else rows
    if rows.shape != (3, 3):
        raise Refused("bad_shape", "three space directions are expected")
    stated, lengths = np.array(header.get("spacings", ()), float), np.linalg.norm(rows, axis=1)
    # The format asks for one of the two; a writer that changes one may leave the other.
    if stated.shape == (3,) and (np.abs(stated - lengths) > SPACING_TOLERANCE * lengths).any():
        raise Refused("contradictory", "spacings and space directions differ by more than 5 %")
    units = header.get("space units") or [""]
    # pynrrd keeps the quotation marks that the format puts around each unit.
    words = {str(unit).strip().strip('"').lower() for unit in units}
    if len(words) != 1 or not words <= set(NRRD_UNITS_MM):
        raise Refused("bad_spacing", "the NRRD's space units are not one known unit of length")
    unit_mm = NRRD_UNITS_MM[words.pop()]
    rows = rows * unit_mm
    affine = np.eye(4)
    # A row is the direction of one axis of the file, so it becomes a column of the affine.
    affine[:3, :3] = rows.T * np.array(senses)[:, None]
    origin = np.array(header.get("space origin", (0, 0, 0)), float)
    affine[:3, 3] = origin * senses * unit_mm
    return affine


NRRD = Format(lambda head, _: head.startswith(b"NRRD0"), read_nrrd)
