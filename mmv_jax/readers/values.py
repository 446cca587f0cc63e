"""True values of a DICOM frame, and the size of its pixels in mm.

Slope and intercept are applied once, tissue is bright and padding is dark.
"""

import math
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut

from mmv_jax.readers.canvas import rescaled
from mmv_jax.readers.deidentify import number_of
from mmv_jax.readers.image import NAN
from mmv_jax.readers.refused import Refused
from mmv_jax.readers.writing import grey

AMONG_VALUES = 0.02  # share of pixels on either side of a padding value that is none
MUCH_PADDING = 0.005  # share of pixels; fewer, set to air, are noise
AIR_HU = -1024  # A padded voxel was not measured; outside the reconstructed circle is air.


@dataclass(frozen=True)
class Scale:
    """Slope and intercept from stored to true values, and the unit of these: "HU" or "raw"."""

    slope: float
    intercept: float
    unit: str


def groups_of(dataset: Dataset, index: int) -> tuple[Dataset | None, Dataset | None]:
    """Shared functional groups of an enhanced file and those of frame `index`; None where absent.

    Raises:
      Refused: corrupt.
    """
    shared, own = (
        dataset.get("SharedFunctionalGroupsSequence"),
        dataset.get("PerFrameFunctionalGroupsSequence"),
    )
    if own and len(own) <= index:
        raise Refused("corrupt", "fewer functional groups than frames")
    return (shared[0] if shared else None), (own[index] if own else None)


def scale_of(dataset: Dataset, shared: Dataset | None = None, own: Dataset | None = None) -> Scale:
    """Slope, intercept and unit of a frame.

    The unit is HU if the file says so: RescaleType HU, or a rescaled CT without a RescaleType. The
    values of a localizer are scaled line integrals, whatever its header copies from its series.
    """
    source = dataset
    # The later one wins: a frame's own transformation over the shared one.
    for group in (shared, own):
        if group is not None and group.get("PixelValueTransformationSequence"):
            source = group.PixelValueTransformationSequence[0]
    slope, intercept = number_of(source, "RescaleSlope"), number_of(source, "RescaleIntercept")
    for keyword, number in (("RescaleSlope", slope), ("RescaleIntercept", intercept)):
        if number is None and source.get(keyword) not in (None, "", b""):
            raise Refused("corrupt", f"{keyword} is not a number")
    if slope is None or intercept is None or slope == 0:
        return Scale(1.0, 0.0, "raw")
    kind = str(source.get("RescaleType") or "").strip().upper()
    # PS3.3, CT Image Module: RescaleType may be left out where the unit is HU.
    is_ct = str(dataset.get("Modality", "")).strip().upper() == "CT" and kind == ""
    is_localizer = "LOCALIZER" in (dataset.get("ImageType") or [])
    return Scale(slope, intercept, "HU" if (is_ct or kind == "HU") and not is_localizer else "raw")


def true_values(dataset: Dataset, stored: np.ndarray, scale: Scale) -> np.ndarray:
    """True values `[y, x]` of a decoded frame.

    Raises:
      Refused: colour.
    """
    if stored.ndim == 3 or dataset.PhotometricInterpretation not in ("MONOCHROME1", "MONOCHROME2"):
        if dataset.PhotometricInterpretation == "PALETTE COLOR":
            raise Refused("colour", "a DICOM image in palette colour")
        stored = grey(stored)
    # Before rescaling: PixelPaddingValue is given as a stored value.
    padding = _padding(dataset, stored)
    if dataset.get("ModalityLUTSequence"):
        values = apply_modality_lut(stored, dataset)
    else:
        values = rescaled(stored, scale.slope, scale.intercept)
    if scale.unit == "HU":
        return np.where(padding, AIR_HU, values) if padding is not None else values
    if is_shown_inverted(dataset):
        values = inverted(values, dataset, scale)
    if padding is not None:
        # After the inversion, so that padding is dark in either presentation.
        values[padding] = values[~padding].min()
    return values


def inverted(values: np.ndarray, dataset: Dataset, scale: Scale) -> np.ndarray:
    """Values `[y, x]` reflected in the range of the stored bits, so that tissue is bright.

    MONOCHROME1 shows low values bright.
    """
    bits = int(dataset.BitsStored)
    # The range of the stored bits, not that of the image: equal tissue stays equal across images.
    low = -(1 << bits - 1) if dataset.PixelRepresentation else 0
    ends = rescaled(np.array([low, low + (1 << bits) - 1]), scale.slope, scale.intercept)
    if dataset.get("ModalityLUTSequence"):
        # A table need not be linear; use the range of its own values instead.
        ends = np.array([values.min(), values.max()])
    # With v = a s + b: (a lo + b) + (a hi + b) - v = a (lo + hi - s) + b.
    return ends.sum() - values.astype(ends.dtype)


def is_shown_inverted(dataset: Dataset) -> bool:
    """Whether low values should be shown bright.

    This holds for MONOCHROME1, and for a presentation or VOI table that falls. If the header is
    silent about presentation, it also holds where larger values mean more X-rays, that is air.

    Source: DICOM PS3.3, C.7.6.3.1.2, C.8.11.3.1.2, C.11.2, C.11.6.
    """
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        return True
    if dataset.PhotometricInterpretation != "MONOCHROME2":
        return False
    shape = str(dataset.get("PresentationLUTShape") or "")
    if shape == "INVERSE":
        return True
    tables = dataset.get("VOILUTSequence") or dataset.get("PresentationLUTSequence")
    if tables:
        first, last = _ends_of_table(tables[0])
        return first > last
    if shape and str(dataset.get("PresentationIntentType") or "") != "FOR PROCESSING":
        return False  # the header states the presentation, so the sign does not matter
    return number_of(dataset, "PixelIntensityRelationshipSign") == 1


def _ends_of_table(table: Dataset) -> tuple[int, int]:
    """First and last entry of a lookup table."""
    data = table.get("LUTData")
    if isinstance(data, bytes):
        # LUTDescriptor: number of entries, first value, bits of an entry (16 where not stated).
        wide = (number_of(table, "LUTDescriptor", 2) or 16) > 8 or len(data) % 2 == 0
        data = np.frombuffer(data, "<u2" if wide else "u1")
    if data is None or not hasattr(data, "__getitem__") or len(data) < 2:
        return 0, 0
    return int(data[0]), int(data[-1])


def _padding(dataset: Dataset, stored: np.ndarray) -> np.ndarray | None:
    """Mask `[y, x]` of the header's padding; None if it covers nothing or everything.

    Raises:
      Refused: contradictory.
    """
    value = number_of(dataset, "PixelPaddingValue")
    if value is None:
        return None
    limit = number_of(dataset, "PixelPaddingRangeLimit")
    value = _as_pixel(dataset, value)
    limit = None if limit is None else _as_pixel(dataset, limit)
    # The limit may lie on either side of the value (PS3.3, C.7.5.1.1.2).
    low, high = sorted((value, value if limit is None else limit))
    padding = (stored >= low) & (stored <= high)
    if not padding.any() or padding.all():
        return None
    # What was not measured has the lowest or the highest value. Else tissue would become air.
    beside = min(np.count_nonzero(stored < low), np.count_nonzero(stored > high))
    covered = np.count_nonzero(padding)
    if beside > AMONG_VALUES * stored.size and covered > MUCH_PADDING * stored.size:
        raise Refused(
            "contradictory",
            "PixelPaddingValue lies among the values of the image, which would become padding",
        )
    return padding


def _as_pixel(dataset: Dataset, value: float) -> float:
    """A padding value in the sign of the pixels: many writers store US where pixels are signed."""
    span = 1 << int(dataset.BitsAllocated)
    if dataset.PixelRepresentation:
        return value - span if value >= span // 2 else value
    return value + span if value < 0 else value


# a contact view is cast 1.0 to 1.1 times as large, a magnification view 1.5 to 2 times
MAGNIFIED = 1.3
MOST_MAGNIFIED = 4.0  # for a breast in front of the detector; above it, a distance is wrong


def planar_spacing(
    dataset: Dataset, shared: Dataset | None = None, own: Dataset | None = None
) -> tuple[float, float, float]:
    """Spacing (NaN, y, x) in mm at the patient; NaN where the file does not say.

    PixelSpacing of a projection is at the patient only if it was calibrated. ImagerPixelSpacing is
    measured at the detector. Tissue is nearer to the source, so it is divided by the magnification:
    the file's own, or for a mammogram that of its distances. NominalScannedPixelSpacing belongs to
    a digitised film.

    Source: DICOM PS3.3, 10.7.1.3 (pixel spacing and calibration).
    """
    for group in (own, shared):
        if group is not None and group.get("PixelMeasuresSequence"):
            return (NAN, *_pair(group.PixelMeasuresSequence[0], "PixelSpacing"))
    pixel, imager, scanned = (
        _pair(dataset, keyword)
        for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
    )
    # If both spacings are equal, they are the detector's; a difference means a calibration.
    is_calibrated = bool(dataset.get("PixelSpacingCalibrationType")) or not math.isclose(
        pixel[0], imager[0], rel_tol=1e-3
    )
    if not math.isnan(pixel[0]) and (math.isnan(imager[0]) or is_calibrated):
        return (NAN, *pixel)
    if not math.isnan(imager[0]):
        factor = _magnification(dataset)
        return (NAN, imager[0] / factor, imager[1] / factor)
    # Neither pixel nor imager spacing: a film scanner, or all NaN.
    return (NAN, *scanned)


def _magnification(dataset: Dataset) -> float:
    """Length at the detector divided by length in the patient; 1 where unknown.

    The factor is optional (PS3.3, C.8.7.1). In mammography the distances give it: the breast lies
    on the support to which DistanceSourceToPatient is measured.
    """
    said = number_of(dataset, "EstimatedRadiographicMagnificationFactor")
    if dataset.get("Modality") == "MG":
        # Magnification = source to detector / source to object, by similar triangles.
        detector = number_of(dataset, "DistanceSourceToDetector")
        patient = number_of(dataset, "DistanceSourceToPatient")
        ratio = detector / patient if detector and patient and 0 < patient < detector else 1.0
        # A factor of 1 beside distances of a magnification view is a default, not a measurement.
        if not said or (said <= 1 and MAGNIFIED <= ratio < MOST_MAGNIFIED):
            said = ratio
    return said if said and 1 <= said < MOST_MAGNIFIED else 1.0


def _pair(dataset: Dataset, keyword: str) -> tuple[float, float]:
    y, x = number_of(dataset, keyword, 0), number_of(dataset, keyword, 1)
    if y is not None and x is None:
        raise Refused("bad_spacing", f"{keyword} has one number, but a pixel has two sides")
    return (NAN, NAN) if y is None or x is None else (y, x)
