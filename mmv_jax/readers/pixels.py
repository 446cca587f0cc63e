"""DICOM frames: one named decoder for each transfer syntax.

"Whatever is installed" would not do, since decoders give different pixels. JPEG baseline by libjpeg
and by GDCM differs by one level in up to 1 % of the samples. In a test with some 40,000 mutated
files a decoder, these never ended the process. GDCM did (0.34 %), and pylibjpeg-rle panicked (14
%).
"""

import numpy as np
from pydicom import encaps
from pydicom.dataset import Dataset
from pydicom.pixels import get_decoder
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from mmv_jax.readers.codestream import END_OF_IMAGE, j2k_frame, jpeg_frame
from mmv_jax.readers.limits import check_size
from mmv_jax.readers.refused import Refused

NATIVE = {
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
}
DECODER = {
    RLELossless: "pydicom",
    JPEG2000Lossless: "pylibjpeg",
    JPEG2000: "pylibjpeg",
    HTJ2KLossless: "pylibjpeg",
    HTJ2KLosslessRPCL: "pylibjpeg",
    HTJ2K: "pylibjpeg",
    JPEGLSLossless: "pyjpegls",
    JPEGLSNearLossless: "pyjpegls",
    JPEGBaseline8Bit: "imagecodecs",
    JPEGExtended12Bit: "imagecodecs",
    JPEGLossless: "imagecodecs",
    JPEGLosslessSV1: "imagecodecs",
}
LOSSY = {JPEG2000, HTJ2K, JPEGLSNearLossless, JPEGBaseline8Bit, JPEGExtended12Bit}


def check_pixels(dataset: Dataset, stored: int) -> tuple[int, int, int]:
    """Shape (frames, rows, columns), if the header describes pixels that can be decoded here.

    Args:
      stored: bytes of the file.
    Raises:
      Refused: no_pixels, unknown_encoding, too_large, truncated, corrupt, colour.
    """
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax not in NATIVE and syntax not in DECODER:
        raise Refused(
            "unknown_encoding",
            "a transfer syntax that is not read here (video, or one of a vendor's own)",
        )
    shape = (
        _whole(dataset, "NumberOfFrames", 1),
        _whole(dataset, "Rows", 0),
        _whole(dataset, "Columns", 0),
    )
    if 0 in shape:
        raise Refused("no_pixels", "the DICOM file has no rows, columns or frames")
    samples, bits = _whole(dataset, "SamplesPerPixel", 1), _whole(dataset, "BitsAllocated", 0)
    if bits not in (8, 16, 32) or samples not in (1, 3):
        raise Refused("unknown_encoding", "1 or 3 samples a pixel of 8, 16 or 32 bits are read")
    # Old files kept overlays in the spare bits. PS3.5 now fixes the place of the value.
    stored_bits = _whole(dataset, "BitsStored", bits)
    if (
        not 1 <= stored_bits <= bits
        or _whole(dataset, "HighBit", stored_bits - 1) != stored_bits - 1
    ):
        raise Refused(
            "unknown_encoding", "HighBit is not BitsStored - 1, as PS3.5 asks: its place is unknown"
        )
    if syntax in NATIVE and dataset.get("PhotometricInterpretation") == "YBR_FULL_422":
        raise Refused("colour", "a DICOM image in subsampled colour")
    # Native pixels are not compressed, so there is no ratio to recognise a bomb by.
    size = check_size(
        (*shape, samples), bits // 8, None if syntax in NATIVE else stored, what="DICOM image"
    )
    if syntax in NATIVE and syntax != DeflatedExplicitVRLittleEndian and stored < size:
        raise Refused("truncated", f"{size} bytes of pixels are declared, the file has {stored}")
    return shape


def is_lossy(dataset: Dataset) -> bool:
    """Whether the pixels are, or once were, in a transfer syntax that may lose information."""
    return (
        dataset.file_meta.get("TransferSyntaxUID") in LOSSY
        # The flag stays when a lossy image is stored again without compression.
        or dataset.get("LossyImageCompression") == "01"
    )


def _whole(dataset: Dataset, keyword: str, default: int) -> int:
    value = dataset.get(keyword)
    try:
        return default if value in (None, "") else int(value)
    except (TypeError, ValueError):
        raise Refused("corrupt", f"{keyword} is not a whole number") from None


def decode_frame(dataset: Dataset, index: int) -> np.ndarray:
    """Stored values of one frame, with the bits beyond BitsStored cleared.

    Shapes and errors are those of `_decoded_frame`.

    Source: DICOM PS3.5, 8.1.1: unused bits have no defined value.
    """
    pixels = _decoded_frame(dataset, index)
    # Shifting left drops the unused bits; shifting right restores the value.
    spare = pixels.dtype.itemsize * 8 - int(dataset.BitsStored)
    if pixels.ndim != 2 or pixels.dtype.kind not in "iu" or spare <= 0:
        return pixels
    return (pixels << spare) >> spare  # sign-extends signed values


def _decoded_frame(dataset: Dataset, index: int) -> np.ndarray:
    """Stored values of one frame, not rescaled: `[rows, columns]` or `[rows, columns, 3]` (RGB).

    Raises:
      Refused: no_pixels, truncated, corrupt. The caller converts other exceptions of a decoder.
    """
    if "PixelData" not in dataset or not dataset.PixelData:
        raise Refused("no_pixels", "the DICOM file has no Pixel Data")
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax in NATIVE:
        # Frames follow each other without gaps: frame `index` needs all those before it.
        expected = (
            dataset.Rows
            * dataset.Columns
            * dataset.SamplesPerPixel
            * dataset.BitsAllocated
            // 8
            * (index + 1)
        )
        if len(dataset.PixelData) < expected:
            raise Refused(
                "truncated", "the Pixel Data are shorter than rows, columns and frames say"
            )
        frames = int(dataset.get("NumberOfFrames") or 1)
        if len(dataset.PixelData) >= expected // (index + 1) * (frames + 1):
            raise Refused("contradictory", "there are more frames than NumberOfFrames says")
        return get_decoder(syntax).as_array(dataset, index=index)[0]
    frames = int(dataset.get("NumberOfFrames") or 1)
    if len(encaps.parse_basic_offsets(dataset.PixelData)) > frames:
        raise Refused("contradictory", "there are more frames than NumberOfFrames says")
    data = encaps.get_frame(dataset.PixelData, index, number_of_frames=frames)
    # An RLE frame states no size of its own; pydicom decodes it to the size of the header.
    if syntax != RLELossless:
        check_frame(dataset, data)
    if DECODER[syntax] == "imagecodecs":
        return _jpeg(dataset, data)
    return get_decoder(syntax).as_array(dataset, index=index, decoding_plugin=DECODER[syntax])[0]


def check_frame(dataset: Dataset, data: bytes) -> None:
    """Refuse a compressed frame whose size differs from the DICOM header.

    Without this check the decoder would allocate whatever the frame asks for.

    Raises:
      Refused: corrupt, truncated.
    """
    syntax = dataset.file_meta.TransferSyntaxUID
    is_j2k = syntax in (JPEG2000, JPEG2000Lossless, HTJ2K, HTJ2KLossless, HTJ2KLosslessRPCL)
    frame = j2k_frame(data) if is_j2k else jpeg_frame(data)
    if (frame.rows, frame.columns, frame.components) != (
        dataset.Rows,
        dataset.Columns,
        dataset.SamplesPerPixel,
    ):
        raise Refused("corrupt", "the compressed frame has another size than the DICOM header says")
    # If a scan ends early, CharLS counts to 2**31 (4.7 s) before it fails. Most such scans have
    # lost their end marker too.
    if syntax in (JPEGLSLossless, JPEGLSNearLossless) and not data.rstrip(b"\0").endswith(
        END_OF_IMAGE
    ):
        raise Refused("truncated", "the JPEG-LS frame has no end")


def _jpeg(dataset: Dataset, data: bytes) -> np.ndarray:
    """JPEG baseline, extended or lossless frame, decoded by libjpeg-turbo.

    Signed values are sign-extended from their stored bits.
    """
    from imagecodecs import jpeg8_decode

    if dataset.SamplesPerPixel == 3:
        # A JPEG in DICOM often lacks the marker that names its colours, so the header decides.
        is_rgb = dataset.PhotometricInterpretation == "RGB"
        return jpeg8_decode(data, colorspace="RGB" if is_rgb else "YCBCR", outcolorspace="RGB")
    pixels = jpeg8_decode(data)
    # JPEG decodes to unsigned values; PixelRepresentation 1 means two's complement.
    if not dataset.PixelRepresentation:
        return pixels
    spare = pixels.dtype.itemsize * 8 - dataset.BitsStored
    return (pixels << spare).view(f"i{pixels.dtype.itemsize}") >> spare
