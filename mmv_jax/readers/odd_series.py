"""What of the headers of one series is plausible and probably wrong: slices that differ in what a
series has once, and headers that contradict their slices' positions.

A warning names attributes and quotes no value.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset

from mmv_jax.readers.deidentify import number_of

Told = tuple[str, str]  # code, sentence
# Of these a series has one value, by the modules of patient, study, series, frame of reference and
# equipment (DICOM PS3.3, C.7.1 to C.7.5).
OF_A_SERIES = (
    "IssuerOfPatientID", "OtherPatientIDs", "PatientBirthTime", "PatientComments",
    "EthnicGroup", "PatientSpeciesDescription", "PatientIdentityRemoved",
    "DeidentificationMethod", "QualityControlSubject", "ResponsiblePerson", "PatientAge",
    "PatientSize", "PatientWeight", "PatientSexNeutered", "PatientState", "MedicalAlerts",
    "Allergies", "SmokingStatus", "PregnancyStatus", "LastMenstrualDate", "Occupation",
    "AdditionalPatientHistory", "AdmittingDiagnosesDescription", "AdmissionID", "AdmittingDate",
    "ServiceEpisodeID", "StudyDate", "StudyTime", "StudyID", "StudyDescription",
    "AccessionNumber", "ReferringPhysicianName", "PhysiciansOfRecord",
    "NameOfPhysiciansReadingStudy", "RequestingPhysician", "RequestedProcedureDescription",
    "RequestedProcedureID", "ClinicalTrialSubjectID", "ClinicalTrialProtocolID",
    "ClinicalTrialSiteID", "ClinicalTrialTimePointID", "Modality", "SOPClassUID",
    "SeriesNumber", "SeriesDate", "SeriesTime", "SeriesDescription", "Laterality",
    "ProtocolName", "BodyPartExamined", "PatientPosition", "PerformingPhysicianName",
    "OperatorsName", "PerformedProcedureStepID", "PerformedProcedureStepStartDate",
    "PerformedProcedureStepStartTime", "PerformedProcedureStepDescription",
    "AnatomicalOrientationType", "PositionReferenceIndicator", "Manufacturer",
    "ManufacturerModelName", "DeviceSerialNumber", "DeviceUID", "SoftwareVersions",
    "StationName", "GantryID", "InstitutionName", "InstitutionAddress",
    "InstitutionalDepartmentName", "Units", "DecayCorrection", "CorrectedImage", "SeriesType",
)  # fmt: skip
# Of these a volume has one value. With two, it was joined of two scans, one above the other.
OF_A_SCAN = (
    "AcquisitionDate", "ContentDate", "ConvolutionKernel", "KVP", "ReconstructionDiameter",
    "DataCollectionDiameter", "GantryDetectorTilt", "TableHeight", "RotationDirection",
    "SpiralPitchFactor", "ScanOptions", "FilterType", "SliceThickness", "EchoTime",
    "RepetitionTime", "FlipAngle", "MagneticFieldStrength", "DiffusionBValue", "InversionTime",
    "EchoTrainLength", "NumberOfAverages", "PixelBandwidth", "ImagedNucleus", "SequenceName",
    "MRAcquisitionType", "ReceiveCoilName", "ContrastBolusAgent", "ImageLaterality",
    "ViewPosition", "LossyImageCompression", "BurnedInAnnotation", "QualityControlImage",
)  # fmt: skip
NUMBERS = {"DS", "IS", "FD", "FL"}
# Differences of numbers that one scan has: of rounding, and of a heart or breath that triggers it.
SLACK = {"GantryDetectorTilt": 0.5, "TableHeight": 2.0, "RepetitionTime": 500.0}
STEP_TOLERANCE = 0.05  # share by which a stated distance may differ from that of the positions
LEAST_OBLONG = 1.5  # ratio of the sides of a pixel in an axial slice, which scanners make square
# Times the distance of slices: neither overlap nor gap are usually that large.
THICK, THIN = 2.6, 1 / 2.6
LEAST_TILT, UPRIGHT = 2.0, 1.0  # degrees of a stated tilt, and of slices that have none
# Values of ImageType that say what a slice is: original or derived, of a patient or of a report,
# and in which plane. Further values are a vendor's own, but for these words.
IMAGE_TYPES = 3
PROJECTIONS = {
    "MIP", "MINIP", "MIN_IP", "MAX_IP", "MAXIP", "PROJECTION IMAGE", "VRT", "VOLUMERENDERING",
    "THICK_SLAB", "SSD", "VOLREN",
}  # fmt: skip
REFORMATTED = {"MPR", "REFORMATTED", "CSA MPR", "CPR", "RESAMPLED", "AVERAGE", "LOCALIZER"}


def odd_series(headers: Sequence[Dataset]) -> tuple[Told, ...]:
    """Warnings about the headers of one series' slices: mixed_settings, derived, odd_spacing,
    odd_header, fewer_slices.
    """
    told: list[Told] = []
    if mixed := [word for word in (*OF_A_SERIES, *OF_A_SCAN) if _differ(headers, word)]:
        words = ", ".join(mixed)
        told.append(("mixed_settings", f"the slices differ in {words}: were two scans joined?"))
    if len({_name(header) for header in headers}) > 1:
        told.append(("mixed_settings", "the slices have two PatientNames: of one person?"))
    intercepts = {number_of(header, "RescaleIntercept") for header in headers}
    if headers[0].get("Modality") == "CT" and len(intercepts) > 1:
        # Of PET each slice has its own; of CT one of two is wrong, by 1024 as a rule.
        told.append(("mixed_settings", "the slices of a CT have several RescaleIntercepts"))
    told += odd_types([header.get("ImageType") for header in headers])
    rows, columns = (number_of(headers[0], "PixelSpacing", n) for n in range(2))
    if rows and columns and max(rows / columns, columns / rows) > LEAST_OBLONG:
        told.append(("odd_spacing", f"pixels of {rows:.3g} x {columns:.3g} mm are not square"))
    told += _odd_places(headers)
    uids = Counter(str(header.get("SOPInstanceUID") or "") for header in headers)
    uids.pop("", None)
    if (most := max(uids.values(), default=0)) > 1:
        told.append(("odd_header", f"{most} slices have one SOPInstanceUID, as copies have"))
    stated = number_of(headers[0], "NumberOfSeriesRelatedInstances")
    if stated is not None and stated > len(headers):
        what = f"the header speaks of {stated:.0f} images of the series, {len(headers)} are here"
        told.append(("fewer_slices", what))
    return tuple(told)


def _differ(headers: Sequence[Dataset], keyword: str) -> bool:
    """Whether an attribute has several values; one that some slices lack counts as two."""
    texts = {str(header.get(keyword) or "").strip() for header in headers}
    if len(texts) < 2:
        return False
    numbers = [number_of(header, keyword) for header in headers]
    known = [number for number in numbers if number is not None]
    if len(known) < len(headers) or dictionary_VR(keyword) not in NUMBERS:
        return True
    return max(known) - min(known) > SLACK.get(keyword, 1e-3 * abs(max(known)))


def _name(header: Dataset) -> str:
    """The letters of a patient's name in any order and case: "Doe^Jane" is "JANE DOE"."""
    return "".join(sorted(re.sub(r"[\W_]", "", str(header.get("PatientName") or "").casefold())))


def _odd_places(headers: Sequence[Dataset]) -> list[Told]:
    """Warnings about distances, locations, thickness and tilt that the positions contradict."""
    places = [[number_of(h, "ImagePositionPatient", n) for n in range(3)] for h in headers]
    cosines = [number_of(headers[0], "ImageOrientationPatient", n) for n in range(6)]
    known = [[mm for mm in place if mm is not None] for place in places]
    axes = [number for number in cosines if number is not None]
    if len(headers) < 3 or min(map(len, known)) < 3 or len(axes) < 6:
        return []
    normal = np.cross(axes[:3], axes[3:])
    heights = np.array(known) @ normal
    step = float(np.ptp(heights)) / (len(headers) - 1)
    if not step:
        return []
    told = []
    stated = number_of(headers[0], "SpacingBetweenSlices")
    if stated and abs(abs(stated) - step) > STEP_TOLERANCE * step:
        mm = f"{abs(stated):.3g}"
        what = f"SpacingBetweenSlices is {mm} mm, the positions lie {step:.3g} mm apart"
        told.append(("odd_spacing", what))
    thick = number_of(headers[0], "SliceThickness")
    if thick and not THIN <= thick / step <= THICK:
        what = f"slices of {thick:.3g} mm lie {step:.3g} mm apart"
        told.append(("odd_spacing", what))
    locations = [number_of(header, "SliceLocation") for header in headers]
    if _contradict([mm for mm in locations if mm is not None], heights, normal):
        told.append(("odd_header", "SliceLocation is not in the order or the steps of positions"))
    tilt = number_of(headers[0], "GantryDetectorTilt") or 0.0
    # The slices of a tilted gantry lean to the front or the back, by its angle.
    lean = math.degrees(math.acos(min(1.0, abs(float(normal[2])))))
    original = "ORIGINAL" in str(headers[0].get("ImageType") or "").upper()
    if original and abs(tilt) >= LEAST_TILT and lean < UPRIGHT:
        told.append(("odd_header", "GantryDetectorTilt is stated, but the slices are upright"))
    return told


def _contradict(locations: Sequence[float], heights: np.ndarray, normal: np.ndarray) -> bool:
    """Whether the SliceLocations of a series do not rise or fall with its positions.

    Some scanners count along the normal of oblique slices, others along an axis of the body.
    """
    if len(locations) < len(heights):
        return False  # a slice without one says nothing
    found, mean = np.array(locations), heights - heights.mean()
    slope = float(mean @ (found - found.mean()) / (mean @ mean))
    line = found - found.mean() - slope * mean
    step = float(np.ptp(heights)) / (len(heights) - 1)
    least = float(np.abs(normal).max())
    wrong = not least - STEP_TOLERANCE <= abs(slope) <= 1 / least + STEP_TOLERANCE
    return wrong or bool(np.abs(line).max() > 0.5 * step)


def odd_types(types: Sequence[str | Sequence[str] | None]) -> list[Told]:
    """Warnings about ImageType (or FrameType) of the slices of one volume: mixed_settings, derived.

    Source: DICOM PS3.3, C.7.6.1.1.2.
    """
    several = [[kind] if isinstance(kind, str) else list(kind or ()) for kind in types]
    words = [[str(word).strip().upper() for word in kind] for kind in several]
    kinds = {
        (*known[:IMAGE_TYPES], *sorted({*known[IMAGE_TYPES:]} & (PROJECTIONS | REFORMATTED)))
        for known in words
    }
    if len(kinds) > 1:
        what = "the slices differ in ImageType: are derived images among the original ones?"
        return [("mixed_settings", what)]
    if any(PROJECTIONS & set(kind) for kind in kinds):
        return [("derived", "the header says that the slices are projections of thick slabs")]
    return []
