"""`read_study` and `read_mask`: any supported file to a Study, or to a mask on its study's grid.

The format is recognised by content. A file that cannot be used is refused with a code.
"""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from mmv_jax.buckets import place
from mmv_jax.readers.archive import kind_of_archive
from mmv_jax.readers.dicom import DICOM, read_series
from mmv_jax.readers.image import Format, Image, placement, study_of
from mmv_jax.readers.meta_image import META_IMAGE
from mmv_jax.readers.nifti import NIFTI
from mmv_jax.readers.nrrd import NRRD
from mmv_jax.readers.picture import PICTURE
from mmv_jax.readers.refused import Refused
from mmv_jax.readers.sources import source_of
from mmv_jax.registry import Registry
from mmv_jax.study import Study

# Tried in this order; formats of plug-ins come after these.
FORMATS: Registry[Format] = Registry("format")
FORMATS.register("picture", PICTURE)
FORMATS.register("dicom", DICOM)
FORMATS.register("nifti", NIFTI)
FORMATS.register("nrrd", NRRD)
FORMATS.register("meta", META_IMAGE)
HEAD_BYTES = 4096
MAX_LABEL = (1 << 15) - 1
FEW_LABELS = 16
# Of a map of probabilities: neighbours along a row that are compared, and the share of them that
# have the same value.
LEAST_PAIRS, LEAST_ALIKE = 50, 0.7
LEAST_RAMP = 6  # values between background and label that make a ramp
# voxels: how far a mask's first and last voxel may lie from those of the study. Half of one is what
# a tool moves a mask by that takes corners of voxels for their centres.
GRID_TOLERANCE = 0.25


FOR_MASKS = {
    "colour": ". Write the labels of a mask as grey values, or with a palette",
    "not_an_image": ". Convert segmentations and contours to NIfTI or PNG on the study's grid",
    "bad_shape": ". Of a mask with one channel a label, write one map of labels",
}


def read_study(
    path: Path | str,
    *,
    spacing_mm: float | None = None,
    unit: str | None = None,
    burnt_in: str | None = None,
) -> Study:
    """Read one study: a file, or a folder as one DICOM series, also in an archive.

    A file's content decides its format, not its name.

    Args:
      path: DICOM, NIfTI, MHA, NRRD, PNG or JPEG, or what else `source_of` takes: a pattern, or
        `ARCHIVE::MEMBER` of a zip or a tar.
      spacing_mm: mm per pixel in plane, from the manifest. The file's header takes precedence; a
        difference of more than 5 % is refused.
      unit: the manifest's unit. "HU" makes a file without a modality (NIfTI, MHA, NRRD) Hounsfield
        units, if its values allow it. "shape" requires binary voxels. Any other word means "raw".
      burnt_in: what to do about writing in the pixels (legible colour, lines of grey letters, or a
        header that mentions text). "refuse" it, "warn" of it in `told`, or "mask" it. With None,
        colour is refused and the rest gives a warning.
    Returns:
      The Study: `[z, y, x]`, a volume in LPS+ order. Integers stay integers; all else is float32.
    Raises:
      Refused: with a code of `refused.CODES` and a reason that quotes nothing of the file.
    """
    with refusing():
        return study_of(_image(place(path)), spacing_mm, unit, burnt_in)


def read_mask(path: Path | str, *, like: Study) -> np.ndarray:
    """Read a mask on the grid of a study, in the same order of axes.

    Returns:
      int16 `[z, y, x]` with the shape of `like.voxels`.
    Raises:
      Refused: mask_grid (another shape, spacing or position), mask_values (not whole numbers from 0
        to 32767, or a map of probabilities), lossy_mask, and every code that a study of
        the same format may get.
    """
    with refusing():
        image = _mask_image(path, like)
        if image.lossy:
            raise Refused(
                "lossy_mask",
                "a mask may not be compressed with a loss: its labels are smeared. Write it"
                " without loss",
            )
        _check_grid(image, like)
        voxels = image.voxels
        # Shapes and other images of few values may well be their own masks.
        if np.array_equal(voxels, like.voxels) and len(np.unique(voxels)) > FEW_LABELS:
            raise Refused("mask_values", "the mask is the image itself")
        low, high = voxels.min(), voxels.max()
        if not (low >= 0 and high <= MAX_LABEL):  # also where NaN
            raise Refused("mask_values", f"labels must be whole numbers from 0 to {MAX_LABEL}")
        # Safe: the range was checked. Only the fraction can be lost here.
        labels = voxels.astype(np.int16)
        if voxels.dtype.kind == "f" and not np.array_equal(labels, voxels):
            raise Refused("mask_values", f"labels must be whole numbers from 0 to {MAX_LABEL}")
        if is_smeared(labels):
            raise Refused(
                "lossy_mask",
                "the mask has steps between its labels, as resizing leaves them: resize it by the"
                " nearest neighbour",
            )
        if is_soft(labels):
            raise Refused(
                "mask_values",
                "the mask has other values from voxel to voxel, as a map of probabilities has: cut"
                " it at a threshold",
            )
        return labels


def is_soft(labels: np.ndarray) -> bool:
    """Whether many neighbours in a mask `[z, y, x]` have different labels.

    A label covers an area: in maps of organs 97 % of neighbours have one label, in maps of
    probabilities below 30 %.
    """
    before, after = labels[:, :, :-1], labels[:, :, 1:]
    both = (before > 0) & (after > 0)
    pairs = np.count_nonzero(both)
    if pairs < LEAST_PAIRS or len(np.unique(labels)) <= LEAST_RAMP:
        return False
    return bool(np.count_nonzero(both & (before == after)) < LEAST_ALIKE * pairs)


def is_smeared(labels: np.ndarray) -> bool:
    """Whether a mask `[z, y, x]` of one label has a ramp of other values at its border.

    A real label covers some place by itself. Of a ramp no value has neighbours that are all alike.
    """
    top = int(labels.max())
    if top <= LEAST_RAMP:
        return False
    between = (labels > 0) & (labels < top)
    if not between.any() or np.count_nonzero(labels == top) < np.count_nonzero(between):
        return False
    if len(np.unique(labels[between])) < LEAST_RAMP:
        return False
    inner = between[:, 1:-1, 1:-1]
    for y in range(3):
        for x in range(3):
            moved = labels[:, y : labels.shape[1] - 2 + y, x : labels.shape[2] - 2 + x]
            inner = inner & (moved == labels[:, 1:-1, 1:-1])
    return not inner.any()


def import_readers() -> None:
    """Import the libraries that readers load late, so that the first file is not slow."""
    for name in ("nrrd", "pydicom.pixels", "imagecodecs", "highdicom.spatial"):
        importlib.import_module(name)


@contextmanager
def refusing() -> Iterator[None]:
    """Turn any exception of a library into a Refused that quotes nothing of its message.

    Messages of libraries contain tags and paths.
    """
    try:
        yield
    except Refused as why:
        # Without the chain: the original error may quote tags or a path.
        raise why from None
    except OSError as error:
        if isinstance(error, FileNotFoundError | PermissionError | NotADirectoryError):
            raise Refused("not_found", "there is no such file, or no right to read it") from None
        raise Refused("unreadable", f"reading failed with {type(error).__name__}") from None
    except MemoryError:
        raise Refused("too_large", "the file needs more memory than there is") from None
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    # Decoders written in Rust raise PanicException, which is not an Exception.
    except BaseException as error:
        raise Refused(
            "unreadable", f"the format's library failed with {type(error).__name__}"
        ) from None


def format_of(path: Path) -> str | None:
    """Name in FORMATS of the first format that matches the file's content; None if none does."""
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    return next((name for name, form in FORMATS.items() if form.matches(head, path)), None)


def _image(path: Path, *, grid: tuple[int, ...] | None = None) -> Image:
    """Image of a study, or of a mask for a study of shape `grid`."""
    with source_of(path, grid) as source:
        if source.is_series:
            return read_series(source.files, source.series)
        return _image_of_file(next(iter(source.files.values())), grid)


def _mask_image(path: Path | str, like: Study) -> Image:
    """Image of a mask; what is refused says what a mask should be instead."""
    try:
        return _image(place(path), grid=like.voxels.shape)
    except Refused as why:
        raise Refused(why.code, why.reason + FOR_MASKS.get(why.code, "")) from None


def _image_of_file(path: Path, grid: tuple[int, ...] | None) -> Image:
    if path.exists() and not path.is_file():  # reading a pipe would wait for its writer
        raise Refused("not_an_image", "a pipe, a socket or a device, not a file")
    form = format_of(path)
    # An empty file matches no format; a broken download is the usual cause.
    if form is None and path.stat().st_size == 0:
        raise Refused("truncated", "the file is empty")
    if form is None and kind_of_archive(path):
        raise Refused(
            "not_an_image",
            "an archive: name one of its members, ARCHIVE::MEMBER, as mmv manifest folder does",
        )
    if form is None:
        raise Refused(
            "not_an_image",
            f"its content is none of {', '.join(FORMATS)}, whatever its name says",
        )
    return FORMATS[form].read(path, grid)


def _check_grid(image: Image, like: Study) -> None:
    if image.voxels.shape != like.voxels.shape:
        raise Refused(
            "mask_grid",
            f"the mask has the grid {image.voxels.shape}, its study {like.voxels.shape}",
        )
    if like.ndim == 2 and image.orientation is not None and "first_z_mm" not in like.attributes:
        raise Refused(
            "mask_grid",
            "the mask has a position in the patient, but its study is a picture without one:"
            " write the mask as PNG",
        )
    turns = [a.get("exif_orientation", 1.0) for a in (image.attributes, like.attributes)]
    if turns[0] != turns[1]:
        raise Refused(
            "mask_grid",
            "EXIF turns only one of picture and mask: rotate their pixels instead",
        )
    if image.orientation is None or "first_z_mm" not in like.attributes:
        return
    # With equal shapes, a shift, a flip or another spacing moves one of two opposite corners.
    here = placement(image.orientation)
    for end in ("first", "last"):
        for axis, spacing in zip("zyx", like.spacing_mm):
            apart = abs(here[f"{end}_{axis}_mm"] - like.attributes[f"{end}_{axis}_mm"])
            if apart > GRID_TOLERANCE * spacing:
                raise Refused(
                    "mask_grid",
                    f"the mask's {end} voxel lies {apart:.1f} mm from its study's along {axis}",
                )
