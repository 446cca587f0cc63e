"""Limits that hold before memory is allocated, and inflation that stops at a limit."""

import io
import math
import zlib
from collections.abc import Iterator, Sequence

from mmv_jax.readers.refused import Refused

MAX_VOXEL_BYTES = 4 << 30  # of one decoded study: 2,048 slices of 1024 × 1024 at 16 bits
MAX_HEADER_BYTES = 64 << 20  # everything in the file beside the voxels
MAX_DEFLATED_BYTES = 256 << 20  # of a DICOM file in the deflated syntax, which is for small files
# Real CT shrinks 2 to 4 times. Only large and nearly empty arrays exceed 200.
BOMB_BYTES, BOMB_RATIO = 64 << 20, 200


def check_size(
    shape: Sequence[int],
    itemsize: int,
    stored: int | None = None,
    *,
    what: str = "image",
    grid: Sequence[int] | None = None,
) -> int:
    """Bytes of an array, if its shape is possible for an image.

    Args:
      shape: as declared by the header, which may be wrong.
      itemsize: bytes of a voxel.
      stored: bytes of the compressed data; None if not compressed.
      grid: for a mask, the shape of its study in any order. A nearly empty mask may shrink without
        limit, but its size is known.
    Raises:
      Refused: no_pixels, too_large, mask_grid.
    """
    if any(n < 1 for n in shape):
        raise Refused("no_pixels", f"the {what} has an axis of length 0 or less")
    size = math.prod(shape) * itemsize
    if size > MAX_VOXEL_BYTES:
        raise Refused(
            "too_large",
            f"the {what} declares {size / 2**30:.1f} GiB of voxels; {MAX_VOXEL_BYTES >> 30} GiB are"
            " allowed",
        )
    if grid is not None:
        # A first check in any order of axes; the oriented mask must have the exact shape later.
        own, wanted = (sorted((n for n in each if n > 1), reverse=True) for each in (shape, grid))
        if own != wanted:
            words = (" x ".join(map(str, each)) for each in (own, wanted))
            raise Refused(
                "mask_grid", "the mask has {} voxels, its study {} (in any order)".format(*words)
            )
    elif stored is not None and size > BOMB_BYTES and size > BOMB_RATIO * stored:
        raise Refused(
            "too_large",
            f"the {what} declares {size / 2**20:.0f} MiB of voxels in {stored / 2**20:.1f} MiB of"
            " compressed data",
        )
    return size


def inflated(file: io.BufferedIOBase, wbits: int, limit: int) -> Iterator[bytes]:
    """Rest of `file`, inflated piece by piece; refused beyond `limit` bytes.

    Args:
      wbits: as in zlib: -15 raw, 47 zlib or gzip.
    Raises:
      Refused: too_large, truncated, corrupt.
    """
    inflater, size = zlib.decompressobj(wbits), 0
    try:
        while not inflater.eof:
            # decompress stops after 1 MiB of output and keeps the rest of its input here.
            chunk = inflater.unconsumed_tail or file.read(1 << 16)
            if not chunk:
                raise Refused("truncated", "the compressed data end too early")
            piece = inflater.decompress(chunk, 1 << 20)
            size += len(piece)
            if size > limit:
                raise Refused(
                    "too_large", f"the compressed data inflate to more than {limit / 2**20:.0f} MiB"
                )
            yield piece
    except zlib.error:
        raise Refused("corrupt", "the compressed data are damaged") from None


def check_inflated(file: io.BufferedIOBase, wbits: int, limit: int) -> None:
    """Inflate the rest of `file` without keeping it. Raises as `inflated` does."""
    for _ in inflated(file, wbits, limit):
        pass
