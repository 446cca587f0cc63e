"""Picture reader: PNG of 1 to 16 bits and JPEG of 8 to 16 bits, as planar images.

A picture whose channels agree is grey, however it is stored. A true colour picture is refused, not
converted. In a radiograph, colour is writing, an arrow or a heat map, and luminance would turn it
into anatomy. Dots per inch describe printing, not patients, and are ignored: spacing comes from the
manifest.
"""

import io
from pathlib import Path

import numpy as np
from PIL import Image as Pillow
from PIL import ImageOps

from mmv_jax.readers.codestream import jpeg_frame
from mmv_jax.readers.image import NAN, Format, Image
from mmv_jax.readers.limits import check_size
from mmv_jax.readers.refused import Refused
from mmv_jax.readers.writing import grey, grey_of

PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
ORIENTATION = 0x0112  # EXIF tag
UNKNOWN = (NAN, NAN, NAN)


def read_picture(path: Path, grid: tuple[int, ...] | None = None) -> Image:
    """Read a PNG or a JPEG.

    Args:
      grid: shape of the study, if the picture is its mask. Then a palette's indices are the labels,
        and the channels must be equal.
    Raises:
      Refused: too_large, truncated, corrupt, bad_shape, colour, unknown_encoding, lossy_mask.
    """
    data = path.read_bytes()
    if data.startswith(JPEG):
        if grid is not None:
            raise Refused(
                "lossy_mask",
                "a mask may not be a JPEG: its labels are smeared by the compression. Write it"
                " as PNG",
            )
        return _image(_read_jpeg(data), data)
    pixels = _read_png(data, grid)
    return _image(grey(pixels, exact=True) if grid is not None else pixels, data)


def _image(pixels: np.ndarray, data: bytes) -> Image:
    found = grey_of(pixels)
    return Image(found.pixels[None], UNKNOWN, 2, attributes=_turned(data), coloured=found.coloured)


def _turned(data: bytes) -> dict[str, float]:
    """Attribute `exif_orientation` if EXIF turns the picture: its mask must be turned alike."""
    try:
        with Pillow.open(io.BytesIO(data), formats=("PNG", "JPEG")) as picture:
            turn = picture.getexif().get(ORIENTATION, 1)
    except (OSError, SyntaxError, ValueError):  # a 12-bit JPEG, which Pillow does not read
        return {}
    # 1 is upright; 2 to 8 are turned or mirrored; other values are not valid.
    return {"exif_orientation": float(turn)} if turn in range(2, 9) else {}


def _read_png(data: bytes, grid: tuple[int, ...] | None) -> np.ndarray:
    # The signature (8 bytes) and the IHDR chunk (25) come first in every PNG.
    if data[12:16] != b"IHDR" or len(data) < 33:
        raise Refused("truncated", "the PNG ends within its header")
    width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    # 8 bytes a pixel: four channels of 16 bits are the most that a PNG has.
    check_size((height, width), 8, len(data), what="PNG", grid=grid)
    # Chunk of an animation; it stands before the first picture, which alone would be read.
    if b"acTL" in data[: data.find(b"IDAT")]:
        raise Refused("bad_shape", "an animated PNG holds several pictures: save one of them")
    depth, colour_type = data[24], data[25]
    if depth == 16 and colour_type != 0:  # Pillow would drop the lower byte
        from imagecodecs import png_decode

        return _decoded(png_decode, data)
    picture = ImageOps.exif_transpose(_decoded(_pillow, data))
    # The palette of a mask is for display; its indices are the labels.
    if picture.mode == "P" and grid is not None:
        return np.asarray(picture)
    if picture.mode == "L" and depth < 8 and grid is not None:
        # Pillow spreads 2 and 4 bits over 8, for display; a label is the sample itself
        return np.asarray(picture) // (255 // ((1 << depth) - 1))
    if picture.mode == "1":
        return np.asarray(picture, np.uint8)
    # A study with a palette may still be grey: its colours decide, as in any picture.
    if picture.mode == "P":
        picture = picture.convert("RGBA" if "transparency" in picture.info else "RGB")
    # Pillow opens 16-bit grey as `I` (32 bits) or `I;16`, depending on its version.
    if picture.mode.startswith("I"):
        return np.asarray(picture).astype(np.uint16)
    return np.asarray(picture)


def _read_jpeg(data: bytes) -> np.ndarray:
    frame = jpeg_frame(data)
    check_size(
        (frame.rows, frame.columns, frame.components), 1 + (frame.bits > 8), len(data), what="JPEG"
    )
    if frame.components not in (1, 3):
        raise Refused("colour", "a JPEG of four colours is a print, not a radiograph")
    if frame.bits == 8 and frame.is_common:
        picture = _decoded(_pillow, data)
        return np.asarray(ImageOps.exif_transpose(picture))
    # Pillow reads neither 12 and 16 bits nor lossless JPEG.
    from imagecodecs import jpeg8_decode

    return _decoded(jpeg8_decode, data)


def _pillow(data: bytes) -> Pillow.Image:
    limit = Pillow.MAX_IMAGE_PIXELS
    # the size was already checked against our own limit, from the same header bytes
    Pillow.MAX_IMAGE_PIXELS = None
    try:
        picture = Pillow.open(io.BytesIO(data), formats=("PNG", "JPEG"))
        picture.load()
        return picture
    finally:
        Pillow.MAX_IMAGE_PIXELS = limit


def _decoded(decode, data: bytes):
    """`decode(data)`, with the many errors of decoders reduced to two.

    Raises:
      Refused: truncated, corrupt.
    """
    try:
        return decode(data)
    except (OSError, SyntaxError, ValueError, RuntimeError, EOFError) as error:
        if "truncated" in str(error).lower():
            raise Refused("truncated", "the picture ends before its pixels do") from None
        raise Refused("corrupt", "the picture's pixels cannot be decoded") from None


PICTURE = Format(lambda head, _: head.startswith((PNG, JPEG)), read_picture, noun="picture")
