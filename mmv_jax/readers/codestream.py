"""Frame headers of compressed images (ISO 10918, 14495, 15444).

They are read from the markers before any decoder allocates memory.
"""

from dataclasses import dataclass

from mmv_jax.readers.refused import Refused

# 0xF7: JPEG-LS
# 0xC0 to 0xCF without 0xC4 (Huffman tables), 0xC8 (reserved) and 0xCC (arithmetic coding).
START_OF_FRAME = {
    0xC0,
    0xC1,
    0xC2,
    0xC3,
    0xC5,
    0xC6,
    0xC7,
    0xC9,
    0xCA,
    0xCB,
    0xCD,
    0xCE,
    0xCF,
    0xF7,
}
STANDALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a length
END_OF_IMAGE = b"\xff\xd9"
# SOC, at once followed by SIZ, as ISO 15444-1 demands.
J2K_START = b"\xff\x4f\xff\x51"
# First box of a JP2 file, the type of the box that holds the code stream, and a box's own header.
JP2_START, JP2_STREAM, JP2_HEAD = b"\0\0\0\x0cjP  ", b"jp2c", 8


@dataclass(frozen=True)
class Frame:
    """Size and kind of a compressed frame.

    Attributes:
      bits: bits per sample.
      marker: the start-of-frame marker of JPEG, or 0x51 for JPEG 2000.
    """

    rows: int
    columns: int
    components: int
    bits: int
    marker: int

    @property
    def is_common(self) -> bool:
        """Whether the coding is sequential or progressive Huffman: every JPEG library reads it."""
        return self.marker in (0xC0, 0xC1, 0xC2)


def jpeg_frame(data: bytes) -> Frame:
    """Frame header of a JPEG or JPEG-LS stream.

    Raises:
      Refused: truncated, corrupt.
    """
    # Behind the start-of-image marker (FF D8).
    at = 2
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            raise Refused("corrupt", "the JPEG stream has no marker where one must be")
        marker = data[at + 1]
        # ISO 10918-1, B.1.1.2: any number of 0xFF may fill the space before a marker.
        if marker == 0xFF or marker in STANDALONE:
            at += 1 if marker == 0xFF else 2
            continue
        if marker in START_OF_FRAME:
            # Marker (2 bytes), length (2), bits (1), rows (2), columns (2), components (1).
            if at + 10 > len(data):
                break
            rows, columns = (
                int.from_bytes(data[at + 5 : at + 7], "big"),
                int.from_bytes(data[at + 7 : at + 9], "big"),
            )
            return Frame(
                rows=rows,
                columns=columns,
                components=data[at + 9],
                bits=data[at + 4],
                marker=marker,
            )
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        # The length counts its own two bytes. With 0 or 1 the loop would not move on.
        if length < 2:
            raise Refused("corrupt", "a JPEG marker has an impossible length")
        at += 2 + length
    raise Refused("truncated", "the JPEG stream ends before its frame header")


def j2k_frame(data: bytes) -> Frame:
    """Frame header (SIZ) of a JPEG 2000 or HTJ2K code stream, bare or in a JP2 box.

    Raises:
      Refused: corrupt.
    """
    # In a JP2 file boxes come before the code stream.
    _check_boxes(data)
    at = data.find(J2K_START, 0, 4096)
    if at < 0 or at + 44 > len(data):
        raise Refused("corrupt", "there is no JPEG 2000 code stream where one must be")
    # SIZ: the reference grid and the offset of the image in it, both from the upper left.
    width, height, left, top = (
        int.from_bytes(data[at + n : at + n + 4], "big") for n in (8, 12, 16, 20)
    )
    components = int.from_bytes(data[at + 40 : at + 42], "big")
    return Frame(
        rows=height - top,
        columns=width - left,
        components=components,
        # Ssiz: the bits less one; the highest bit is the sign.
        bits=(data[at + 42] & 0x7F) + 1,
        marker=0x51,
    )


def _check_boxes(data: bytes) -> None:
    """Refuse a JP2 file in which a box before the code stream does not end.

    pydicom goes from box to box by their lengths, and with a length of 0 never ends.

    Raises:
      Refused: corrupt.
    """
    at = len(JP2_START) + 4 if data.startswith(JP2_START) else len(data)
    while at < len(data) and data[at + 4 : at + 8] != JP2_STREAM:
        length = int.from_bytes(data[at : at + 4], "big")
        if length < JP2_HEAD:
            raise Refused("corrupt", "a box of the JPEG 2000 file has an impossible length")
        at += length
