"""Limits that hold before memory is allocated, and inflation that stops at a limit."""

import math
import zlib
from collections.abc import Sequence
from typing import BinaryIO

from mmv_jax.readers.refused import Refused

MAX_VOXEL_BYTES = 4 << 30  # of one decoded study: 2,048 slices of 1024 × 1024 at 16 bits
MAX_HEADER_BYTES = 64 << 20  # of what stands beside the voxels
BOMB_BYTES, BOMB_RATIO = 256 << 20, 200  # real CT shrinks 2 to 4 times; only what is both large and nearly empty goes beyond 200


def check_size(shape: Sequence[int], itemsize: int, stored: int | None = None, *, what: str = "image") -> int:
    """The bytes of an array, if its shape is one that an image can have.

    Args:
      shape: as declared by a header that may lie.
      itemsize: bytes of a voxel.
      stored: bytes that hold it compressed, where it is.
    Raises:
      Refused: no_pixels, too_large.
    """
    if any(n < 1 for n in shape):
        raise Refused("no_pixels", f"the {what} has an axis of length 0 or less")
    size = math.prod(shape) * itemsize
    if size > MAX_VOXEL_BYTES:
        raise Refused("too_large", f"the {what} declares {size / 2**30:.1f} GiB of voxels; {MAX_VOXEL_BYTES >> 30} GiB are allowed")
    if stored is not None and size > BOMB_BYTES and size > BOMB_RATIO * stored:
        raise Refused("too_large", f"the {what} declares {size / 2**20:.0f} MiB of voxels in {stored / 2**20:.1f} MiB of compressed data")
    return size


def check_inflated(file: BinaryIO, wbits: int, limit: int) -> None:
    """Inflates the rest of `file` without keeping it, and refuses it beyond `limit` bytes. `wbits` is zlib's: -15 raw, 47 zlib or gzip.

    Raises:
      Refused: too_large, truncated, corrupt.
    """
    inflater, size = zlib.decompressobj(wbits), 0
    try:
        while not inflater.eof:
            chunk = inflater.unconsumed_tail or file.read(1 << 16)
            if not chunk:
                raise Refused("truncated", "the compressed data end too early")
            size += len(inflater.decompress(chunk, 1 << 20))
            if size > limit:
                raise Refused("too_large", f"the compressed data inflate to more than {limit / 2**20:.0f} MiB")
    except zlib.error:
        raise Refused("corrupt", "the compressed data are damaged") from None
