"""Files of results: CSV tables of views, breasts and women, overlays, DICOM segmentations."""

import csv
import io
from collections.abc import Sequence
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from jaxtyping import Bool, Shaped
from PIL import Image
from pydicom.sr.codedict import codes
from scipy import ndimage

from mmv_jax.bac.measure import ViewResult
from mmv_jax.files import write_whole
from mmv_jax.readers.dicom import quiet

COLOUR = (255, 122, 0)
MUSCLE_COLOUR = (0, 150, 255)
# Pixels between calcium and the line around it, so that the calcium stays visible.
GAP = 3
OVERLAY_PIXELS = 2400  # largest length of an overlay's longer side
WINDOW = (1.0, 99.8)  # percentiles of the view that are black and white
VIEW_COLUMNS = (
    "number",
    "woman",
    "side",
    "view",
    "counted",
    "remark",
    "pixel_mm_y",
    "pixel_mm_x",
    "pixels",
    "area_mm2",
)


def write_views(path: Path, views: Sequence[ViewResult]) -> None:
    """Write `views.csv`, a line per mammogram.

    `area_mm2` is empty if the pixel spacing is unknown; `pixels` never is.
    """
    lines = []
    for v in views:
        pixel = [_number(mm, 6) for mm in v.spacing_mm]
        lines.append(
            (
                v.number,
                v.woman,
                v.side,
                v.view,
                "no" if v.remark else "yes",
                v.remark,
                *pixel,
                v.pixels,
                _number(v.area_mm2),
            )
        )
    _write(path, VIEW_COLUMNS, lines)


def write_table(path: Path, results: Sequence[Any], kind: type) -> None:
    """Write results, dataclasses of one `kind`, as a CSV of their fields."""
    names = [field.name for field in fields(kind)]
    _write(
        path,
        names,
        [
            [
                _number(value) if isinstance(value, float) else value
                for value in vars(result).values()
            ]
            for result in results
        ],
    )


def _number(value: float, digits: int = 4) -> str:
    return "" if np.isnan(value) else f"{value:.{digits}f}"


def _write(path: Path, columns: Sequence[str], lines: Sequence[Sequence[object]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(lines)
    write_whole(path, text.getvalue())


def overlay(
    voxels: Shaped[np.ndarray, "Y X"],
    mask: Bool[np.ndarray, "Y X"],
    muscle: Bool[np.ndarray, "Y X"],
) -> Image.Image:
    """The view, and beside it the view with a line around the detected calcification, and one along
    the edge of the pectoral muscle.
    """
    # -(-a // b) rounds up.
    step = max(1, -(-max(voxels.shape) // OVERLAY_PIXELS))
    # Every fourth pixel is enough for percentiles.
    low, high = np.percentile(voxels[::4, ::4], WINDOW)
    grey = np.clip((voxels[::step, ::step] - low) / max(high - low, 1e-6), 0, 1)
    plain = np.repeat((255 * grey).astype(np.uint8)[..., None], 3, axis=2)
    # Subsampling would lose single pixels of the mask: a shown pixel is marked if any of its own
    # is.
    padded = np.pad(mask, [(0, -n % step) for n in mask.shape])
    small = padded.reshape(padded.shape[0] // step, step, padded.shape[1] // step, step).any(
        axis=(1, 3)
    )
    near = ndimage.binary_dilation(small, iterations=GAP)
    marked = plain.copy()
    within = muscle[::step, ::step]
    # Eroded as if it went on beyond the border, so that the image's border gets no line.
    marked[within & ~ndimage.binary_erosion(within, border_value=1)] = MUSCLE_COLOUR
    # A line one pixel wide, `GAP` pixels away from the calcium.
    marked[ndimage.binary_dilation(near) & ~near] = COLOUR
    return Image.fromarray(np.concatenate([plain, marked], axis=1))


def write_segmentation(path: Path, source: Path, mask: Bool[np.ndarray, "Y X"]) -> bool:
    """Write the mask as a DICOM SEG that refers to its mammogram.

    Like the mammogram it names the patient, and belongs in the same archive.

    Returns:
      False, and nothing is written, if the mask is empty (DICOM allows no empty SEG) or the
        mammogram lacks what a reference needs.
    """
    if not mask.any():
        return False
    import highdicom as hd

    with quiet():
        # `force` as in the reader: a file may lack the preamble
        image = pydicom.dcmread(source, force=True)
        described = hd.seg.SegmentDescription(
            segment_number=1,
            segment_label="Breast arterial calcification",
            segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
            segmented_property_type=codes.SCT.VascularCalcification,
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=hd.AlgorithmIdentificationSequence(
                "mmv bac", codes.DCM.ArtificialIntelligence, version("mmv_jax")
            ),
            anatomic_regions=[codes.SCT.Breast],
        )
        try:
            segmentation = hd.seg.Segmentation(
                [image],
                # A segmentation is [frame, row, column], also of a single image.
                mask[None].astype(np.uint8),
                segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
                segment_descriptions=[described],
                series_instance_uid=hd.UID(),
                series_number=900,
                sop_instance_uid=hd.UID(),
                instance_number=1,
                manufacturer="mmv_jax",
                manufacturer_model_name="mmv bac",
                software_versions=version("mmv_jax"),
                device_serial_number="0",
                series_description="Breast arterial calcification",
                pixel_measures=_pixel_measures(image),
            )
        # a film scanned as secondary capture may lack a study, a frame, an orientation
        except (AttributeError, ValueError, TypeError):
            return False
        segmentation.save_as(path)
    return True


def _pixel_measures(image: pydicom.Dataset) -> Any:
    """The mammogram's own spacing.

    A projection has no slices, but without a thickness readers refuse the sequence.
    """
    from highdicom import PixelMeasuresSequence

    spacing = image.get("PixelSpacing") or image.get("ImagerPixelSpacing")
    return PixelMeasuresSequence(pixel_spacing=spacing, slice_thickness=1.0) if spacing else None
