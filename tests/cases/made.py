"""Small synthetic files of which something is plausible and wrong: what the tests of cases are made
of.
"""

import csv
import gzip
import struct
import zlib
from pathlib import Path

import imagecodecs
import nibabel as nib
import numpy as np
from dicom_files import ct_slice, save
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless, RLELossless

EYE = np.eye(4)


def body(n: int = 24, seed: int = 0) -> np.ndarray:
    """Stored values of a slice, 12 bits: air 24, a disc of water near 1064, a bone of 1724; HU with
    an intercept of -1024.
    """
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:n, :n]
    disc = (y - n / 2) ** 2 + (x - n / 2) ** 2 < (0.35 * n) ** 2
    stored = np.where(disc, 1064 + rng.integers(-20, 20, (n, n)), 24 + rng.integers(-4, 4, (n, n)))
    stored[n // 2 - n // 16 : n // 2 + n // 16, n // 4 : n // 4 + n // 8] = 1724
    return stored.astype(np.int16)


def outside(n: int = 24) -> np.ndarray:
    """What lies outside of a scanner's round field of view."""
    y, x = np.mgrid[:n, :n]
    return (y - n / 2) ** 2 + (x - n / 2) ** 2 > (0.48 * n) ** 2


def hounsfield(n: int = 24) -> np.ndarray:
    """HU `[i, j, k]`, no two slices alike."""
    return np.stack([body(n, k) - 1024 for k in range(12)], axis=-1).astype(np.int16)


def chest(rows: int = 96, columns: int = 80) -> np.ndarray:
    """A radiograph of 12 bits: dark air, bright tissue in the middle."""
    values = np.full((rows, columns), 200, np.uint16)
    values[rows // 3 : 2 * rows // 3, columns // 4 : 3 * columns // 4] = 3500
    return values + (np.mgrid[:rows, :columns][1] % 7).astype(np.uint16)


def slices(folder: Path, count: int = 6, *, stored=None, **changes) -> Path:
    """A CT series, a file a slice; `stored` and `changes` may be functions of k."""
    folder.mkdir(parents=True)
    for k in range(count):
        plane = body(seed=k) if stored is None else stored(k)
        own = {name: value(k) if callable(value) else value for name, value in changes.items()}
        place = {"ImagePositionPatient": [0, 0, float(k)], "PixelSpacing": [1.0, 1.0]}
        save(ct_slice(plane.astype(np.int16), k, **{**place, **own}), folder / f"{k:02}.dcm")
    return folder


def nifti(path: Path, voxels: np.ndarray, *, sform=EYE, qform=None, units=2, **header) -> Path:
    """A NIfTI file of `voxels [i, j, k]`; `qcode` and `pixdim` replace the header's own."""
    image = nib.Nifti1Image(voxels, sform)
    image.header.set_xyzt_units(units)
    image.set_sform(sform, 1)
    image.set_qform(sform if qform is None else qform, header.get("qcode", 1))
    if "pixdim" in header:
        image.header["pixdim"][1:4] = header["pixdim"]
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return path


def nrrd(path: Path, voxels: np.ndarray, unit: str, mm: float) -> Path:
    """An NRRD file `[i, j, k]` with steps of `mm` in the `unit` that its header names."""
    units = f'space units: "{unit}" "{unit}" "{unit}"\n' if unit else ""
    head = (
        f"NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\n"
        f"sizes: {' '.join(map(str, voxels.shape))}\n"
        f"space directions: ({mm},0,0) (0,{mm},0) (0,0,{mm})\nkinds: domain domain domain\n"
        f"endian: little\nencoding: raw\n{units}space origin: (0,0,0)\n\n"
    )
    path.write_bytes(head.encode() + np.asarray(voxels, "<i2").tobytes(order="F"))
    return path


def meta_image(path: Path, voxels: np.ndarray, extra: str = "", after: bytes = b"") -> Path:
    """A MetaImage file of `voxels [k, j, i]`, with more header lines and bytes behind them."""
    k, j, i = voxels.shape
    head = (
        "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n"
        "CompressedData = False\nTransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 0 0 0\n"
        f"ElementSpacing = 1 1 1\n{extra}DimSize = {i} {j} {k}\nElementType = MET_SHORT\n"
        "ElementDataFile = LOCAL\n"
    )
    path.write_bytes(head.encode() + np.ascontiguousarray(voxels, "<i2").tobytes() + after)
    return path


def png(path: Path, pixels: np.ndarray | None = None, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if pixels is None:
        pixels = np.random.default_rng(seed).integers(0, 255, (64, 64), dtype=np.uint8)
    Image.fromarray(pixels).save(path, "PNG")
    return path


def ramp(rows: int = 64, columns: int = 48) -> np.ndarray:
    """A picture whose rows can be told: grey rises downwards."""
    return (np.mgrid[:rows, :columns][0] * 3).astype(np.uint8)


def labels(rows: int = 64, columns: int = 48) -> np.ndarray:
    """A label map of 0, 1, 2, 3 in rows 5 to 49 and columns 3 to 9."""
    found = np.zeros((rows, columns), np.uint8)
    found[5:15, 3:10], found[20:30, 3:10], found[40:50, 3:10] = 1, 2, 3
    return found


def low_bit_png(path: Path, values: np.ndarray, bits: int) -> Path:
    """A grey PNG of 1, 2 or 4 bits: its samples are the values themselves."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    spread = np.unpackbits(values[..., None], axis=-1)[..., 8 - bits :]
    rows = np.packbits(spread.reshape(len(values), -1), axis=1)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    head = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], bits, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )
    return path


def encoded(dataset: Dataset, stored: np.ndarray, codec: str) -> Dataset:
    """The data set with `stored` in a codec that keeps every bit of 16, used or not."""
    if codec == "native":
        dataset.PixelData = stored.tobytes()
        return dataset
    if codec == "rle":
        dataset.PixelData = stored.tobytes()
        dataset.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
        return dataset
    syntax, data = {
        "jpeg": (
            JPEGLosslessSV1,
            lambda: imagecodecs.jpeg8_encode(stored, lossless=True, predictor=1, bitspersample=16),
        ),
        "j2k": (
            JPEG2000Lossless,
            lambda: imagecodecs.jpeg2k_encode(stored, codecformat="j2k", reversible=True, level=0),
        ),
        "jls": (JPEGLSLossless, lambda: imagecodecs.jpegls_encode(stored)),
    }[codec]
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([data()])
    dataset["PixelData"].is_undefined_length = True
    return dataset


def written_on(grey: np.ndarray, text: str, colour: tuple[int, int, int], size: int) -> np.ndarray:
    """A colour picture `[y, x, 3]` of `grey` with `text` on it."""
    from PIL import ImageDraw, ImageFont

    picture = Image.fromarray(np.stack([grey] * 3, -1))
    font = ImageFont.load_default(size=size)
    ImageDraw.Draw(picture).text((20, 20), text, fill=colour, font=font)
    return np.asarray(picture)


def manifest(folder: Path, rows: list[dict], name: str = "manifest.csv") -> Path:
    """A manifest; each row is a path and what differs from: a patient of its own, train, CT."""
    usual = {"path": "", "split": "train", "modality": "CT"}
    full = [
        {"study_id": f"s{n}", "patient_id": f"p{n}", **usual, **row} for n, row in enumerate(rows)
    ]
    return table(folder / name, full)


def table(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        columns = list(dict.fromkeys(column for row in rows for column in row))
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


def zipped(path: Path, data: bytes) -> Path:
    path.write_bytes(gzip.compress(data))
    return path
