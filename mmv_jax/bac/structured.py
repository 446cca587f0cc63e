"""A woman's areas as a DICOM structured report (TID 1500), which refers to her images and their
segmentations.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from mmv_jax.bac.measure import BreastResult, ViewResult, WomanResult
from mmv_jax.readers.dicom import quiet

SIDES = {"L": codes.SCT.Left, "R": codes.SCT.Right}
SEVERITY_CODES = {
    "zero": codes.SCT.None_,
    "mild": codes.SCT.Mild,
    "moderate": codes.SCT.Moderate,
    "severe": codes.SCT.Severe,
}


@dataclass(frozen=True)
class Measured:
    """A mammogram's file with what was measured on it; `segmentation` is None where nothing is
    calcified.
    """

    view: ViewResult
    source: Path
    segmentation: Path | None


def write_report(
    path: Path, woman: WomanResult, breasts: Sequence[BreastResult], files: Sequence[Measured]
) -> bool:
    """Writes the report: the area of each view that counts, of each breast and of the woman, and
    her severity. Like the mammograms it names the patient, and belongs into the same archive.

    Args:
      files: her DICOM mammograms that count.
    Returns:
      False, and nothing is written, where her area is unknown, or the files lack what a reference
      needs.
    """
    if np.isnan(woman.area_mm2) or not files:
        return False
    import highdicom as hd

    with quiet():
        try:
            images = [pydicom.dcmread(f.source, stop_before_pixels=True, force=True) for f in files]
            masks = [pydicom.dcmread(f.segmentation) if f.segmentation else None for f in files]
            groups = [_view(f, image, mask) for f, image, mask in zip(files, images, masks)]
            for breast in breasts:
                groups.append(_group(f"{breast.side} breast", breast.area_mm2, side=breast.side))
            whole = "both breasts" if len(breasts) > 1 else f"{breasts[0].side} breast alone"
            groups.append(_group(whole, woman.area_mm2, severity=woman.severity))
            report = hd.sr.ComprehensiveSR(
                evidence=[*images, *(mask for mask in masks if mask is not None)],
                content=_content(groups),
                series_number=901,
                series_instance_uid=hd.UID(),
                sop_instance_uid=hd.UID(),
                instance_number=1,
                manufacturer="mmv_jax",
                is_complete=True,
                series_description="Breast arterial calcification",
            )
        # a film scanned as secondary capture may lack a study or a patient's attributes
        except (AttributeError, ValueError, TypeError):
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        report.save_as(path)
    return True


def _content(groups: Sequence[Any]) -> Dataset:
    import highdicom as hd

    device = hd.sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=hd.sr.DeviceObserverIdentifyingAttributes(
            uid=hd.UID(),
            name="mmv bac",
            manufacturer_name="mmv_jax",
            model_name=version("mmv_jax"),
        ),
    )
    return hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(observer_device_context=device),
        procedure_reported=codes.SCT.Mammography,
        imaging_measurements=list(groups),
        title=codes.DCM.ImagingMeasurementReport,
    )[0]


def _view(file: Measured, image: Dataset, mask: Dataset | None) -> Any:
    """The area of a view: of its segmentation where it has one, else of the image."""
    import highdicom as hd

    name = f"{file.view.side} {file.view.view} {file.view.number:04d}"
    if mask is None:
        # With the image itself, so that an area of 0 says of what.
        source = hd.sr.SourceImageForMeasurementGroup(image.SOPClassUID, image.SOPInstanceUID)
        return _group(name, file.view.area_mm2, side=file.view.side, images=[source])
    return hd.sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        referenced_segment=hd.sr.ReferencedSegmentationFrame(
            mask.SOPClassUID,
            mask.SOPInstanceUID,
            frame_number=1,
            segment_number=1,
            source_image=hd.sr.SourceImageForSegmentation(image.SOPClassUID, image.SOPInstanceUID),
        ),
        **_about(name, file.view.area_mm2, file.view.side),
    )


def _group(
    name: str, area_mm2: float, *, side: str = "", severity: str = "", images: Sequence = ()
) -> Any:
    import highdicom as hd

    said = (
        [hd.sr.QualitativeEvaluation(codes.SCT.Severity, SEVERITY_CODES[severity])]
        if severity
        else None
    )
    return hd.sr.MeasurementsAndQualitativeEvaluations(
        qualitative_evaluations=said,
        source_images=list(images) or None,
        **_about(name, area_mm2, side),
    )


def _about(name: str, area_mm2: float, side: str) -> dict:
    """What every group of measurements has."""
    import highdicom as hd

    site = (
        hd.sr.FindingSite(codes.SCT.Breast, laterality=SIDES[side])
        if side
        else hd.sr.FindingSite(codes.SCT.BothBreasts)
    )
    return {
        "tracking_identifier": hd.sr.TrackingIdentifier(hd.UID(), identifier=name),
        "finding_type": codes.SCT.VascularCalcification,
        "finding_sites": [site],
        "measurements": [
            hd.sr.Measurement(codes.SCT.Area, round(area_mm2, 4), codes.UCUM.SquareMillimeter)
        ],
    }
