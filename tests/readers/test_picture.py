"""PNG and JPEG: grey pictures of 8 and 16 bits; colour, transparency and damage are refused."""

import io
import struct
import zlib

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from mmv_jax.readers.read import read_study
from mmv_jax.readers.refused import Refused

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (9, 7)).astype(np.uint8)
DEEP = RNG.integers(0, 65536, (9, 7)).astype(np.uint16)


def png(picture: Image.Image, **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG", **options)
    return file.getvalue()


def read(path, data: bytes):
    path.write_bytes(data)
    return read_study(path)


def code_of(path, data: bytes) -> str:
    with pytest.raises(Refused) as refused:
        read(path, data)
    return refused.value.code


GREY_PICTURES = {
    "8 bits": (png(Image.fromarray(GREY)), GREY),
    "16 bits": (png(Image.fromarray(DEEP)), DEEP),
    "1 bit": (png(Image.fromarray(GREY > 99)), (GREY > 99).astype(np.uint8)),
    "RGB": (png(Image.fromarray(np.stack([GREY] * 3, axis=-1))), GREY),
    "RGB of 16 bits": (imagecodecs.png_encode(np.stack([DEEP] * 3, axis=-1)), DEEP),
    "opaque RGBA": (
        png(Image.fromarray(np.stack([GREY] * 3 + [np.full_like(GREY, 255)], axis=-1))),
        GREY,
    ),
    "opaque grey": (png(Image.fromarray(np.stack([GREY, np.full_like(GREY, 255)], axis=-1))), GREY),
    "opaque grey of 16 bits": (
        imagecodecs.png_encode(np.stack([DEEP, np.full_like(DEEP, 65535)], axis=-1)),
        DEEP,
    ),
    "grey palette": (png(Image.fromarray(GREY).convert("P")), GREY),
}


@pytest.mark.parametrize("data, expected", GREY_PICTURES.values(), ids=GREY_PICTURES.keys())
def test_a_grey_png_is_exact(tmp_path, data, expected):
    study = read(tmp_path / "x.jpg", data)  # the name lies
    assert np.array_equal(study.voxels[0], expected)
    assert study.voxels.dtype == expected.dtype
    assert (study.ndim, study.unit) == (2, "raw")
    assert np.isnan(study.spacing_mm).all()


def smooth() -> np.ndarray:
    y, x = np.mgrid[:64, :48]
    return (128 + 60 * np.sin(y / 9) + 60 * np.cos(x / 7)).astype(np.uint8)


def jpeg(pixels: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=92, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    "data",
    [jpeg(smooth()), jpeg(smooth(), progressive=True), jpeg(np.stack([smooth()] * 3, axis=-1))],
    ids=["grey", "progressive", "grey kept as colour"],
)
def test_a_grey_jpeg_is_close(tmp_path, data):
    study = read(tmp_path / "x", data)
    assert study.voxels.dtype == np.uint8
    assert np.abs(study.voxels[0].astype(int) - smooth()).max() <= 12


def test_a_jpeg_of_12_bits_keeps_them(tmp_path):
    deep = smooth().astype(np.uint16) * 16
    study = read(tmp_path / "x", imagecodecs.jpeg8_encode(deep, level=98, bitspersample=12))
    assert study.voxels.dtype == np.uint16
    assert np.abs(study.voxels[0].astype(int) - deep).max() < 100


def test_the_picture_is_turned_as_it_is_shown(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees to show it
    assert read(tmp_path / "x", jpeg(smooth(), exif=exif)).voxels.shape == (1, 48, 64)


def coloured() -> np.ndarray:
    pixels = np.stack([smooth()] * 3, axis=-1)
    pixels[:8, :8] = (255, 0, 0)
    return pixels


def cmyk() -> bytes:
    file = io.BytesIO()
    Image.fromarray(coloured()).convert("CMYK").save(file, "JPEG")
    return file.getvalue()


REFUSED = {
    "colour": ("colour", png(Image.fromarray(coloured()))),
    "a coloured palette": ("colour", png(Image.fromarray(coloured()).quantize())),
    "a colour JPEG": ("colour", jpeg(coloured())),
    "a print of four colours": ("colour", cmyk()),
    "transparent": ("colour", png(Image.fromarray(np.stack([GREY] * 4, axis=-1)))),
    "a cut PNG": ("truncated", png(Image.fromarray(smooth()))[:-900]),
    "a PNG that ends in its header": ("truncated", png(Image.fromarray(GREY))[:20]),
    "a cut JPEG": ("truncated", jpeg(smooth())[:-300]),
    "a JPEG that ends in its header": ("truncated", jpeg(smooth())[:60]),
    "all one value": ("constant", png(Image.fromarray(np.full((4, 4), 9, np.uint8)))),
    "an empty file": ("truncated", b""),
    "a text": ("not_an_image", b"a radiograph, allegedly"),
}


@pytest.mark.parametrize("code, data", REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_grey_picture_is_refused(tmp_path, code, data):
    assert code_of(tmp_path / "x.png", data) == code


def test_a_changed_byte_of_a_png_is_noticed(tmp_path):
    data = bytearray(png(Image.fromarray(smooth())))
    data[len(data) // 2] ^= 1
    assert code_of(tmp_path / "x", bytes(data)) in ("corrupt", "truncated")


def test_a_png_bomb_is_refused_by_its_header(tmp_path):
    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    data = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(1 << 20)))
        + chunk(b"IEND", b"")
    )
    assert code_of(tmp_path / "x", data) == "too_large"


def test_the_real_radiographs(real_data):
    study = read_study(real_data / "cxr" / "00001280_004.jpg", spacing_mm=0.672)
    assert study.voxels.shape == (1, 512, 512)
    assert study.spacing_mm[1:] == (0.672, 0.672)
    assert np.array_equal(
        study.voxels[0], np.asarray(Image.open(real_data / "cxr" / "00001280_004.jpg").convert("L"))
    )
