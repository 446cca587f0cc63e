"""Small DICOM files for tests: a CT series of known voxels, or one radiograph, with any attribute
changed.
"""

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    generate_uid,
)

SPACING = (2.5, 0.8, 0.7)  # z, y, x in mm
SERIES = generate_uid(entropy_srcs=["series"])


def ct_slice(stored: np.ndarray, k: int, **changes) -> Dataset:
    """One axial slice, `stored` int16 [rows, columns], at z = k times the spacing, HU = stored -
    1024. A change to None removes an attribute.
    """
    values = {
        "SOPClassUID": CTImageStorage,
        "SOPInstanceUID": generate_uid(entropy_srcs=[str(k), str(stored.sum())]),
        "SeriesInstanceUID": SERIES,
        "Modality": "CT",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "ImagePositionPatient": [-100.0, -50.0, 10.0 + k * SPACING[0]],
        "ImageOrientationPatient": [1.0, 0.0, 0.0, 0.0, 1.0, 0.0],
        "PixelSpacing": [SPACING[1], SPACING[2]],
        "RescaleSlope": 1,
        "RescaleIntercept": -1024,
        "KVP": 120,
    }
    return image(stored, **{**values, **changes})


def radiograph(stored: np.ndarray, **changes) -> Dataset:
    """A chest radiograph of `stored` uint16 [rows, columns], 12 bits."""
    values = {
        "SOPClassUID": DigitalXRayImageStorageForPresentation,
        "SOPInstanceUID": generate_uid(entropy_srcs=[str(stored.sum())]),
        "SeriesInstanceUID": SERIES,
        "Modality": "DX",
        "BitsStored": 12,
        "ImagerPixelSpacing": [0.14, 0.14],
    }
    return image(stored, **{**values, **changes})


def image(stored: np.ndarray, **values) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = values.pop("TransferSyntaxUID", ExplicitVRLittleEndian)
    dataset.file_meta.MediaStorageSOPClassUID = values["SOPClassUID"]
    dataset.file_meta.MediaStorageSOPInstanceUID = values["SOPInstanceUID"]
    bits = stored.dtype.itemsize * 8
    dataset.Rows, dataset.Columns = stored.shape[-2:]
    if stored.ndim == 3:
        dataset.NumberOfFrames = len(stored)
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = bits
    dataset.PixelRepresentation = int(stored.dtype.kind == "i")
    dataset.PixelData = stored.astype(stored.dtype.newbyteorder("<")).tobytes()
    for keyword, value in values.items():
        if value is None:
            dataset.pop(keyword, None)
        else:
            setattr(dataset, keyword, value)
    dataset.HighBit = dataset.BitsStored - 1
    return dataset


def save(dataset: Dataset, path: Path) -> Path:
    dataset.save_as(path, enforce_file_format=True)
    return path


def stored_volume(slices: int = 8, rows: int = 12, columns: int = 10) -> np.ndarray:
    """int16 [z, y, x] stored values: air, tissue, bone, no two slices alike."""
    return np.random.default_rng(0).integers(0, 2000, (slices, rows, columns)).astype(np.int16)


def write_series(folder: Path, stored: np.ndarray, *, names=None, **changes) -> Path:
    """Writes the slices of `stored` into `folder` under `names` (default: by number); `changes` may
    be functions of k.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for k, plane in enumerate(stored):
        own = {
            keyword: value(k) if callable(value) else value for keyword, value in changes.items()
        }
        save(ct_slice(plane, k, **own), folder / (names[k] if names else f"{k:03}.dcm"))
    return folder
