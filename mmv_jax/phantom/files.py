"""Files of phantoms: DICOM (DX, CT, MG), NIfTI, PNG.

Their bytes do not depend on the clock or the machine.
"""

import gzip
import hashlib
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from mmv_jax.phantom.grid import Grid

SOP_CLASS = {
    "DX": "1.2.840.10008.5.1.4.1.1.1.1",
    "CT": "1.2.840.10008.5.1.4.1.1.2",
    "MG": "1.2.840.10008.5.1.4.1.1.1.2",
}


def uid(*names: object) -> UID:
    """UID under 2.25 that depends only on these names."""
    # 127 bits take at most 39 digits: with the root 44 characters, below DICOM's limit of 64.
    digest = hashlib.sha256("/".join(map(str, names)).encode()).digest()
    return UID(f"2.25.{int.from_bytes(digest[:16], 'big') >> 1}")


def write_png(path: Path, image: np.ndarray) -> None:
    """Write uint8 or uint16 [row, column] as a grey PNG."""
    Image.fromarray(image).save(path, "PNG", compress_level=1)


def write_nifti(path: Path, volume: np.ndarray, grid: Grid) -> None:
    """Write [z, y, x] as .nii.gz, with the grid's position in space.

    NIfTI axes point right, to the front and to the head (RAS).
    """
    (sz, sy, sx), (oz, oy, ox) = grid.spacing_mm, grid.origin_mm
    # Our x grows to the left and y to the back; those of NIfTI to the right and the front.
    affine = np.array([[-sx, 0, 0, -ox], [0, -sy, 0, -oy], [0, 0, sz, oz], [0, 0, 0, 1]])
    image = nib.Nifti1Image(np.ascontiguousarray(volume.transpose(2, 1, 0)), affine)
    image.header.set_xyzt_units("mm")
    # A gzip header holds a name and a time: both are left empty, so that the bytes are
    # reproducible.
    with path.open("wb") as raw, gzip.GzipFile("", "wb", 1, raw, mtime=0) as packed:
        packed.write(image.to_bytes())


def _dataset(modality: str, study: str, patient: str, instance: int = 1) -> Dataset:
    """Attributes that every image has."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = UID(SOP_CLASS[modality]), uid(study, instance)
    ds.StudyInstanceUID, ds.SeriesInstanceUID = uid(study, "study"), uid(study, "series")
    ds.PatientID, ds.PatientName, ds.PatientBirthDate = patient, "Phantom^" + patient, ""
    ds.StudyDate, ds.StudyTime, ds.AccessionNumber, ds.StudyID = "20200101", "120000", "", "1"
    ds.ContentDate, ds.ContentTime, ds.AcquisitionDate, ds.AcquisitionTime = (
        "20200101",
        "120000",
        "20200101",
        "120000",
    )
    ds.ReferringPhysicianName, ds.SeriesNumber, ds.InstanceNumber = "", 1, instance
    ds.Modality, ds.Manufacturer, ds.ManufacturerModelName = modality, "mmv_jax", "phantom"
    ds.BurnedInAnnotation, ds.SamplesPerPixel, ds.SpecificCharacterSet = "NO", 1, "ISO_IR 192"
    return ds


def _pixels(ds: Dataset, image: np.ndarray, bits: int) -> None:
    ds.Rows, ds.Columns = image.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, bits, bits - 1
    ds.PixelRepresentation = int(image.dtype == np.int16)
    # Little endian on every machine, as the transfer syntax requires.
    ds.PixelData = np.ascontiguousarray(image).astype("<" + image.dtype.str[1:]).tobytes()


def _save(ds: Dataset, path: Path) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = (
        ds.SOPClassUID,
        ds.SOPInstanceUID,
    )
    meta.TransferSyntaxUID, meta.ImplementationClassUID = (
        ExplicitVRLittleEndian,
        uid("mmv_jax", "phantom"),
    )
    ds.file_meta = meta
    ds.save_as(path, enforce_file_format=True)


def _projection(ds: Dataset, image: np.ndarray, spacing_mm: float, inverted: bool) -> None:
    """Set what DX and MG share: 12 bits, for presentation, MONOCHROME1 if inverted."""
    ds.ImageType = ["ORIGINAL", "PRIMARY", ""]
    ds.PresentationIntentType, ds.PixelIntensityRelationship, ds.PixelIntensityRelationshipSign = (
        "FOR PRESENTATION",
        "LOG",
        -1 if inverted else 1,
    )
    ds.PhotometricInterpretation = "MONOCHROME1" if inverted else "MONOCHROME2"
    ds.PresentationLUTShape = "INVERSE" if inverted else "IDENTITY"
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = 0, 1, "US"
    ds.WindowCenter, ds.WindowWidth = 2048, 4096
    ds.ImagerPixelSpacing = ds.PixelSpacing = [round(spacing_mm, 6)] * 2
    ds.LossyImageCompression, ds.DetectorType, ds.AnatomicRegionSequence = (
        "00",
        "DIRECT",
        [_code("T-D3000", "SRT", "Chest")],
    )
    _pixels(ds, 4095 - image if inverted else image, 12)


def write_dx(
    path: Path,
    image: np.ndarray,
    spacing_mm: float,
    *,
    study: str,
    patient: str,
    sex: str,
    inverted: bool,
) -> None:
    """Write a chest radiograph as one DX file; `image` is uint16, 12 bits, tissue bright."""
    ds = _dataset("DX", study, patient)
    ds.PatientSex, ds.BodyPartExamined, ds.ViewPosition = sex, "CHEST", "PA"
    ds.PatientOrientation, ds.ImageLaterality, ds.KVP = ["L", "F"], "U", 120
    _projection(ds, image, spacing_mm, inverted)
    _save(ds, path)


def write_ct_series(
    folder: Path, volume: np.ndarray, grid: Grid, *, study: str, patient: str, sex: str
) -> None:
    """Write int16 HU [z, y, x] as one file per slice, numbered from the head as scanners do."""
    folder.mkdir()
    (sz, sy, sx), (oz, oy, ox) = grid.spacing_mm, grid.origin_mm
    for n, k in enumerate(reversed(range(len(volume))), start=1):
        ds = _dataset("CT", study, patient, n)
        ds.PatientSex, ds.BodyPartExamined, ds.PatientPosition, ds.KVP = sex, "CHEST", "HFS", 120
        ds.ImageType, ds.AcquisitionNumber = ["ORIGINAL", "PRIMARY", "AXIAL"], 1
        ds.FrameOfReferenceUID, ds.PositionReferenceIndicator = uid(study, "frame"), ""
        ds.ImagePositionPatient = [round(ox, 4), round(oy, 4), round(oz + k * sz, 4)]
        ds.ImageOrientationPatient, ds.PixelSpacing, ds.SliceThickness = (
            [1, 0, 0, 0, 1, 0],
            [sy, sx],
            sz,
        )
        ds.PhotometricInterpretation, ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = (
            "MONOCHROME2",
            -1024,
            1,
            "HU",
        )
        # HU of -1024 to 3071 as unsigned 12 bits; RescaleIntercept subtracts the 1024 again.
        _pixels(ds, (volume[k] + 1024).astype(np.uint16), 12)
        _save(ds, folder / f"{n:04d}.dcm")


@dataclass(frozen=True)
class MammogramTags:
    """Names, side and view of a mammogram; the four views of a woman share a DICOM study.

    Attributes:
      age: years.
    """

    study_id: str
    patient: str
    side: str
    view: str
    age: int


def write_mg(
    path: Path,
    image: np.ndarray,
    imager_mm: float,
    of: MammogramTags,
    *,
    magnification: float,
    inverted: bool,
) -> None:
    """Write a view of a breast as one MG file.

    Args:
      image: uint16, 12 bits, tissue bright.
      imager_mm: pixel size at the detector.
    """
    number = ["LCC", "RCC", "LMLO", "RMLO"].index(of.side + of.view) + 1
    # The four views of a woman are one study. Its name has no view, but the dials that were
    # changed.
    ds = _dataset("MG", of.study_id.replace(f"-{of.side}{of.view}", ""), of.patient, number)
    ds.PatientSex, ds.PatientAge, ds.BodyPartExamined = "F", f"{of.age:03d}Y", "BREAST"
    ds.ImageLaterality, ds.ViewPosition = of.side, of.view
    ds.PatientOrientation = ["A" if of.side == "L" else "P", "F" if of.view == "MLO" else "L"]
    ds.BreastImplantPresent, ds.PartialView, ds.EstimatedRadiographicMagnificationFactor = (
        "NO",
        "NO",
        magnification,
    )
    ds.ViewCodeSequence = [
        _code(
            *{
                "CC": ("R-10242", "SRT", "cranio-caudal"),
                "MLO": ("R-10226", "SRT", "medio-lateral oblique"),
            }[of.view]
        )
    ]
    ds.KVP, ds.PositionerType, ds.OrganExposed = 29, "MAMMOGRAPHIC", "BREAST"
    _projection(ds, image, imager_mm, inverted)
    ds.AnatomicRegionSequence = [_code("T-04000", "SRT", "Breast")]
    _save(ds, path)


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item
