"""DICOM reader: a file, a multi-frame file, or a folder that holds one series.

Order and spacing of slices come from their positions only.
"""

import hashlib
import io
import logging
import struct
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filereader import read_file_meta_info
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
)

from mmv_jax.readers.canvas import Canvas, fitting, is_whole
from mmv_jax.readers.deidentify import allowed_numbers
from mmv_jax.readers.image import Format, Image
from mmv_jax.readers.limits import MAX_DEFLATED_BYTES, check_size, inflated
from mmv_jax.readers.odd_planar import odd_planar
from mmv_jax.readers.odd_series import odd_types
from mmv_jax.readers.pixels import check_pixels, decode_frame, is_lossy
from mmv_jax.readers.refused import Refused
from mmv_jax.readers.said import said_of
from mmv_jax.readers.series import arrange, check_one_series, frame_type, plane_of
from mmv_jax.readers.sources import SERIES_MARK
from mmv_jax.readers.values import Scale, groups_of, planar_spacing, scale_of, true_values
from mmv_jax.readers.writing import Grey, grey_of

# First tags of a data set without a preamble, as (group, element) in little-endian order.
BARE_STARTS = [
    struct.pack("<HH", *tag) for tag in ((2, 0), (8, 0), (8, 1), (8, 5), (8, 8), (8, 0x16))
]
NOT_IMAGES = {
    "SR",
    "PR",
    "KO",
    "RTSTRUCT",
    "RTPLAN",
    "RTDOSE",
    "RTRECORD",
    "REG",
    "SEG",
    "DOC",
    "ECG",
    "AU",
    "PLAN",
    "FID",
    "RWV",
}
DICOM_ENDS = {".dcm", ".dicom", ".ima"}
# Also the beginning of the UIDs of multi-frame captures (…7.1 to …7.4).
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
UNFINISHED = {".part", ".partial", ".crdownload", ".download", ".filepart", ".tmp"}
SIDECARS = {".xml", ".json", ".txt", ".csv", ".md", ".html", ".pdf"}


def is_dicom(head: bytes) -> bool:
    """Whether a file that begins with `head` (at least 132 bytes) is DICOM.

    Both Part 10 files and bare data sets that begin with group 2 or 8 count.
    """
    return head[128:132] == b"DICM" or head[:4] in BARE_STARTS


def is_image(header: Dataset) -> bool:
    """Whether a header belongs to an image, not to a report, plan, segmentation or directory."""
    directory = header.file_meta.get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage
    return not directory and str(header.get("Modality", "")) not in NOT_IMAGES


def read_dicom(path: Path) -> Image:
    """Read one DICOM file, planar or multi-frame.

    Raises:
      Refused: any code of geometry, size or encoding.
    """
    with quiet():
        return _image(path)


def series_name(uid: str) -> str:
    """Name of one series in a folder: a hash that does not reveal its UID."""
    return f"{SERIES_MARK}{hashlib.sha256(uid.encode()).hexdigest()[:12]}"


def read_series(files: Mapping[str, Path], only: str = "") -> Image:
    """Read the only series among some files, slice by slice.

    Args:
      files: path of each file, by its name.
      only: `series_name` of the series to read, if the files are of several.
    Raises:
      Refused: several_series, and any code of geometry, size or encoding.
    """
    with quiet():
        kept = [(n, path) for n, path in sorted(files.items()) if not _is_sidecar(n, path)]
        if any(Path(name).suffix.lower() in UNFINISHED for name, _ in kept):
            raise Refused("truncated", "a file of the folder is a download that has not ended")
        dicoms = [path for name, path in kept if _is_dicom_file(name, path)]
        if kept and not dicoms:
            raise Refused(
                "not_an_image",
                "no file of the folder is DICOM by its content, and a folder stands for one DICOM"
                " series: name one of its files",
            )
        headers = [(path, _load(path, pixels=False)) for path in dicoms]
        headers = [(path, header) for path, header in headers if is_image(header)]
        # Counted before one series is chosen: files of other series are not strays.
        strays = len(kept) - len(headers)
        if only:
            headers = [(p, d) for p, d in headers if series_name(_series_uid(d)) == only]
        if not headers:
            raise Refused("no_pixels", "the folder holds no DICOM image")
        series = {_series_uid(header) for _, header in headers}
        if len(series) > 1:
            raise Refused(
                "several_series",
                f"the folder holds {len(series)} series: move the files of each into a folder of"
                " its own, and give one of these folders, or one file",
            )
        image = _image(headers[0][0]) if len(headers) == 1 else _series(headers)
        if strays:
            what = f"{strays} files of the folder are not DICOM images and were left out"
            return replace(image, told=(*image.told, ("stray_files", what)))
        return image


def files_of_series(files: Mapping[str, Path], only: str) -> list[Path]:
    """Paths of the files of one series among those of several; its `series_name` is given."""
    with quiet():
        return [
            path
            for name, path in sorted(files.items())
            if not _is_sidecar(name, path)
            and _is_dicom_file(name, path)
            and series_name(_series_uid(_load(path, pixels=False))) == only
        ]


@contextmanager
def quiet() -> Iterator[None]:
    """Silence pydicom and its decoders: their messages quote tag values of patients."""
    # Disabled, not set to a level: a handler of the user would still see errors.
    loggers = [logging.getLogger(name) for name in ("pydicom", "openjpeg", "highdicom")]
    before = [logger.disabled for logger in loggers]
    try:
        for logger in loggers:
            logger.disabled = True
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, disabled in zip(loggers, before):
            logger.disabled = disabled


def _series_uid(header: Dataset) -> str:
    return str(header.get("SeriesInstanceUID") or "")


def _is_dicom_file(name: str, path: Path) -> bool:
    """Whether a file in a folder counts as DICOM.

    A truncated file counts, so that a series with a damaged slice is refused.
    """
    if path.exists() and not path.is_file():  # reading a pipe would wait for its writer
        return False
    with path.open("rb") as file:
        head = file.read(132)
    # A file truncated within its preamble has only zeros; it is a lost slice, not a stray.
    return is_dicom(head) or not head.strip(b"\0") or Path(name).suffix.lower() in DICOM_ENDS


def burnt_in(dataset: Dataset) -> tuple[tuple[str, str], ...]:
    """Warning that the header suggests text in the pixels, as ((code, reason),); else ().

    The header has the flag, or names a secondary capture or an ultrasound.

    Source: DICOM PS3.3, C.7.6.1.1.1 and C.8.6.1.
    """
    if str(dataset.get("BurnedInAnnotation") or "").strip().upper() == "YES":
        return (("burnt_in", "the header says that identifying text may be burnt into the pixels"),)
    kind = str(dataset.get("SOPClassUID") or "")
    if kind.startswith(SECONDARY_CAPTURE) or str(dataset.get("Modality")) in ("US", "OT", "SC"):
        return (("burnt_in", "a capture or an ultrasound, which often has text in its pixels"),)
    return ()


def _is_sidecar(name: str, path: Path) -> bool:
    last = Path(name)
    return (
        path.is_dir()
        or last.name.startswith(".")
        or last.name.upper() in ("DICOMDIR", "VERSION", "LICENSE")
        or last.suffix.lower() in SIDECARS
    )


def _load(path: Path, *, pixels: bool = True) -> Dataset:
    with path.open("rb") as file:
        head = file.read(132)
        if not head:
            raise Refused("truncated", "a file of the series is empty")
        if not is_dicom(head):
            raise Refused("not_an_image", "not a DICOM file by its content, whatever its name says")
        meta = read_file_meta_info(path) if head[128:132] == b"DICM" else FileMetaDataset()
        # The meta group is never deflated, so it can be read before the rest.
        if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
            return _load_deflated(file, meta, pixels)
    # force: a bare data set has no preamble, and is_dicom has looked at it.
    dataset = pydicom.dcmread(path, stop_before_pixels=not pixels, force=True)
    if not dataset.file_meta.get("TransferSyntaxUID"):
        # Decoders are chosen by transfer syntax. A bare file states none, so take what pydicom
        # found.
        implicit, little = dataset.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    return dataset


def _load_deflated(file: io.BufferedIOBase, meta: FileMetaDataset, pixels: bool) -> Dataset:
    """Data set of a deflated file, inflated up to a limit.

    pydicom would inflate the whole file, however large the result.
    """
    # Preamble and DICM (132), then the group length element itself: tag 4, VR 2, length 2, value 4.
    file.seek(132 + 12 + meta.FileMetaInformationGroupLength)
    data = b"".join(inflated(file, -15, MAX_DEFLATED_BYTES))
    dataset = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=not pixels, force=True)
    dataset.file_meta = meta
    return dataset


def _image(path: Path) -> Image:
    """Image of one file: planar if it has one frame, a volume if it has more."""
    dataset = _load(path)
    if not is_image(dataset):
        raise Refused(
            "not_an_image",
            "a DICOM object that is not an image (a report, a plan, a segmentation or the like)",
        )
    frames = check_pixels(dataset, path.stat().st_size)[0]
    if frames > 1:
        return _multi_frame(dataset, frames)
    shared, own = groups_of(dataset, 0)
    scale = scale_of(dataset, shared, own)
    stored = decode_frame(dataset, 0)
    found = (
        grey_of(stored) if dataset.PhotometricInterpretation != "PALETTE COLOR" else Grey(stored)
    )
    values = fitting(true_values(dataset, found.pixels, scale))
    return Image(
        voxels=values[None],
        spacing_mm=planar_spacing(dataset, shared, own),
        ndim=2,
        unit=scale.unit,
        orientation=None,
        attributes=allowed_numbers(dataset),
        lossy=is_lossy(dataset),
        told=(*burnt_in(dataset), *odd_types([dataset.get("ImageType")]), *odd_planar(dataset)),
        coloured=found.coloured,
        said=said_of(dataset),
    )


def _multi_frame(dataset: Dataset, frames: int) -> Image:
    groups = [groups_of(dataset, n) for n in range(frames)]
    if any(own is None for _, own in groups):
        raise Refused(
            "no_position", "frames without their own position (a cine loop?) do not form a volume"
        )
    # Check this before positions: two stacks can interleave on one even grid.
    check_one_stack([own for _, own in groups if own is not None])
    places, orientation = arrange([plane_of(dataset, *pair) for pair in groups])
    types = odd_types([frame_type(dataset, *pair) for pair in groups])
    scales = [scale_of(dataset, *pair) for pair in groups]
    canvas = Canvas(
        (frames, int(dataset.Rows), int(dataset.Columns)), orientation, _first_kind(scales)
    )
    for n, (k, scale) in enumerate(zip(places, scales)):
        canvas.put(k, true_values(dataset, decode_frame(dataset, n), scale))
    return Image(
        voxels=canvas.voxels,
        spacing_mm=orientation.spacing_mm,
        ndim=3,
        unit=_one_unit(scales),
        orientation=orientation,
        attributes=allowed_numbers(dataset),
        lossy=is_lossy(dataset),
        told=(*burnt_in(dataset), *types),
        said=said_of(dataset),
    )


def check_one_stack(groups: list[Dataset]) -> None:
    """Refuse frames of several stacks or time points.

    Raises:
      Refused: several_phases.
    """
    content = [(own.get("FrameContentSequence") or [Dataset()])[0] for own in groups]
    for keyword in ("StackID", "TemporalPositionIndex"):
        if len({str(item.get(keyword) or "") for item in content}) > 1:
            raise Refused(
                "several_phases", f"the frames differ in {keyword}: split the file into volumes"
            )


def _series(headers: list[tuple[Path, Dataset]]) -> Image:
    """Volume of a series of single-frame files.

    All headers are held in memory, which is little. Pixels are read file by file, so memory holds
    the volume and one slice.
    """
    for path, header in headers:
        if check_pixels(header, path.stat().st_size)[0] != 1:
            raise Refused("bad_shape", "a multi-frame file among the files of a series")
    told = check_one_series([header for _, header in headers])
    places, orientation = arrange([plane_of(header) for _, header in headers])
    scales = [scale_of(header) for _, header in headers]
    shape = (len(headers), int(headers[0][1].Rows), int(headers[0][1].Columns))
    # Each file is small enough, but their sum may not be. Assume at least 2 bytes a voxel.
    check_size(shape, 2, what="series")
    canvas = Canvas(shape, orientation, _first_kind(scales))
    for k, (path, _), scale in zip(places, headers, scales):
        dataset = _load(path)
        canvas.put(k, true_values(dataset, decode_frame(dataset, 0), scale))
    lossy = any(is_lossy(header) for _, header in headers)
    return Image(
        voxels=canvas.voxels,
        spacing_mm=orientation.spacing_mm,
        ndim=3,
        unit=_one_unit(scales),
        orientation=orientation,
        attributes=allowed_numbers(headers[0][1]),
        lossy=lossy,
        told=(*_burnt_in_any(headers), *told),
        said=said_of(headers[0][1]),
    )


def _burnt_in_any(headers: list[tuple[Path, Dataset]]) -> tuple[tuple[str, str], ...]:
    return next(filter(None, (burnt_in(header) for _, header in headers)), ())


def _first_kind(scales: list[Scale]) -> type:
    return (
        np.int16 if all(is_whole(scale.slope, scale.intercept) for scale in scales) else np.float32
    )


def _one_unit(scales: list[Scale]) -> str:
    # A volume has one unit: HU in some slices and raw values in others cannot share a window.
    units = {scale.unit for scale in scales}
    if len(units) > 1:
        raise Refused("mixed_unit", "some slices are in HU and others are not")
    return units.pop()


DICOM = Format(lambda head, _: is_dicom(head), lambda path, _: read_dicom(path))
