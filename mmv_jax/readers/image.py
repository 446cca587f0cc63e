"""Checks of an image: claims of file and manifest are compared with each other and with the voxels.

A Study is made only after these checks.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from mmv_jax.readers.canvas import fitting, rescaled
from mmv_jax.readers.fill import without_fill, without_hu_fill, without_raw_fill
from mmv_jax.readers.lettering import text_of
from mmv_jax.readers.odd_slices import odd_slices
from mmv_jax.readers.orient import Orientation
from mmv_jax.readers.refused import Refused
from mmv_jax.readers.writing import settled_writing
from mmv_jax.study import Study

MAX_SPACING_MM = 50.0
MIN_SPACING_MM = 1e-4  # a tenth of a micrometre: below it the unit is metres, or a mistake
SPACING_TOLERANCE = 0.05
MIN_EXTENT_MM, MAX_EXTENT_MM = 1.0, 10_000.0  # of the longest side
PADDED = -1500  # HU: nothing real lies below it
LEAST_SIDE = 8  # pixels of a slice; a smaller slice cannot be judged by its values
OFFSET_HU = 500.0
# Share of a slice's voxels beside its lowest value: in one that was lost, in a full one.
STRAY, FULL = 2e-3, 0.05
LEAST_RANGE_HU = 50.0  # between fat and muscle lie 150 HU; less is a share, or another unit
USUAL_RANGE_HU, CUT_SHARE = 300.0, 0.05  # without air: range, and share with the lowest value
DENSE_HU, LEAST_TISSUE = 600.0, 0.1  # dense bone lies above; share of the voxels that counts
OFFSET_SHARE = 0.2  # of voxels with the values of dense bone, in an image without air
SAMPLE = 1 << 20  # voxels sampled to judge whether values can be Hounsfield units
NAN = float("nan")
OFFSET_UNIT = re.compile(r"HU\+(\d{1,5})")


@dataclass(frozen=True)
class Image:
    """Voxels that a reader found in a file, and the file's own claims.

    Attributes:
      voxels: `[z, y, x]`.
      spacing_mm: (z, y, x) of the header; NaN where the header does not say.
      ndim: 2 or 3.
      unit: "HU" where the file itself says so, otherwise "raw".
      orientation: of a volume; None for a planar image.
      attributes: numbers of the allow-list.
      told: (code, reason) of warnings that are no ground for refusal.
      lossy: whether the voxels may have been compressed with a loss. Acceptable for images, not for
        labels.
      coloured: mask `[y, x]` of coloured pixels in a picture, most likely writing; else None.
      said: see `Study.said`.
    """

    voxels: np.ndarray
    spacing_mm: tuple[float, float, float]
    ndim: int
    unit: str = "raw"
    orientation: Orientation | None = None
    attributes: Mapping[str, float] = field(default_factory=dict)
    lossy: bool = False
    told: tuple[tuple[str, str], ...] = ()
    coloured: np.ndarray | None = None
    said: Mapping[str, str | float] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Format:
    """A file format: how to recognise it and how to read it.

    Attributes:
      matches: whether a file has this format, judged by its first 4,096 bytes, never by its name.
        The path is for compressed files.
      read: returns the Image of a file. For a mask, `grid` is the shape of its study: a declared
        size is checked against it before memory is allocated. It raises Refused; any other
        exception is reported as `unreadable`.
      noun: the modality that a folder's manifest gives to such a file.
    """

    matches: Callable[[bytes, Path], bool]
    read: Callable[[Path, tuple[int, ...] | None], Image]
    noun: str = "volume"


def study_of(
    image: Image, spacing_mm: float | None, unit: str | None, burnt_in: str | None = None
) -> Study:
    """Study of an image, after all claims of file and manifest are checked.

    Args:
      spacing_mm: mm per pixel in plane, from the manifest.
      unit: the manifest's unit, see `settled_unit` and `without_offset`.
      burnt_in: what to do about writing in the pixels, see `settled_writing`.
    Raises:
      Refused: not_finite, constant, bad_spacing, spacing_mismatch, not_hu, rescaled_twice,
        not_binary, bad_slice, fill_values, colour, burnt_in.
    """
    image, unit = without_offset(image, unit)
    check_values(image.voxels)
    spacing = settled_spacing(image.spacing_mm, spacing_mm)
    check_extent(image.voxels.shape, spacing)
    attributes = dict(image.attributes)
    if image.orientation is not None:
        attributes |= placement(image.orientation)
    # Before the search for fill: blanked writing must not count as a value of the image.
    looks = image.ndim == 2 and unit != "shape"  # volumes and shapes have no writing
    letters = text_of(image.voxels[0]) if looks else None
    found, told = settled_writing(
        image.voxels, image.coloured, image.told, burnt_in, letters=letters
    )
    # A shape has 0 and one other value, and neither is fill, however large it is.
    voxels = found if unit == "shape" else without_fill(found)
    kind = settled_unit(voxels, image.unit, unit)
    if kind == "HU":
        voxels = without_hu_fill(voxels)
    elif image.unit == "HU" and not unit and (why := against_hu(voxels)):
        told += ((why[0], f"the header's unit is HU, which is not believed: {why[1]}"),)
    elif not unit and image.ndim == 3 and image.said.get("modality") == "ct":
        told += (("not_hu", "a CT whose header gives no HU (RescaleType, slope, intercept)"),)
    if kind == "HU":
        told += told_of_hu(voxels)
    elif kind == "raw":
        voxels = without_raw_fill(voxels)
    if voxels is not found:
        told += (("fill_values", "values that no tissue has were set to the nearest that one has"),)
    if image.orientation is not None and kind != "shape":
        told += check_slices(voxels, image.orientation.order.index(0), kind)
    return Study(
        voxels=voxels,
        spacing_mm=spacing,
        ndim=image.ndim,
        unit=kind,
        attributes=attributes,
        told=told,
        said=image.said,
    )


def without_offset(image: Image, unit: str | None) -> tuple[Image, str | None]:
    """Image in HU, and the unit "HU", where the manifest's unit is `HU+N`: stored is HU + N.

    DeepLesion's PNG files hold HU + 32768, since PNG has no negative numbers.
    """
    found = OFFSET_UNIT.fullmatch(unit or "")
    if found is None:
        return image, unit
    return replace(image, voxels=fitting(rescaled(image.voxels, 1.0, -float(found[1])))), "HU"


def check_extent(shape: tuple[int, ...], spacing_mm: tuple[float, float, float]) -> None:
    """Refuse an image whose length in mm no body has: its unit of length is wrong.

    Raises:
      Refused: bad_spacing.
    """
    sides = [n * mm for n, mm in zip(shape, spacing_mm) if not math.isnan(mm)]
    if sides and not MIN_EXTENT_MM <= max(sides) <= MAX_EXTENT_MM:
        what = f"the image is {max(sides):.3g} mm long: its unit of length is not what it says"
        raise Refused("bad_spacing", what)


def check_slices(voxels: np.ndarray, axis: int, unit: str) -> tuple[tuple[str, str], ...]:
    """Refuse a volume with a bad slice; warn of slices that are all equal, or do not fit.

    A slice is bad if it alone has one value, or if all its values are shifted against both
    neighbours. The shift is checked in HU only. `odd_slices` warns of the others.

    Args:
      axis: the slice axis of `voxels`.
    Returns:
      Warnings as (code, reason).
    Raises:
      Refused: bad_slice.
    """
    slices = np.moveaxis(voxels, axis, 0)
    if len(slices) < 3 or min(slices.shape[1:]) < LEAST_SIDE:
        return ()
    # Share of each slice that has not its lowest value.
    other = np.array([np.count_nonzero(one != one.min()) / one.size for one in slices])
    flat = other == 0
    # The ends may be empty, as padding. A flat slice between two full neighbours was lost.
    inner = flat[1:-1] & ~flat[:-2] & ~flat[2:]
    # So was one with a few stray voxels.
    inner |= (other[1:-1] <= STRAY) & (other[:-2] >= FULL) & (other[2:] >= FULL)
    if inner.any():
        raise Refused("bad_slice", "a slice between two others has one value nearly everywhere")
    if not flat[0] and all(np.array_equal(slices[0], one) for one in slices[1:]):
        return (("same_slices", "all slices of the volume are the same"),)
    if unit == "HU":
        _check_offsets(slices)
    return odd_slices(slices)


def _check_offsets(slices: np.ndarray) -> None:
    """Refuse a volume in HU of which one slice is shifted by far as a whole.

    Raises:
      Refused: bad_slice.
    """
    # Every second pixel is enough for percentiles, at a quarter of the time.
    steps = [_offset(a, b) for a, b in zip(slices[:-1, ::2, ::2], slices[1:, ::2, ::2])]
    # The first and the last slice have one neighbour; the step beyond it must be small.
    jumps = [(abs(steps[0]), abs(steps[1])), (abs(steps[-1]), abs(steps[-2]))]
    # A shifted slice steps away and back, so its two steps cancel in the sum.
    jumps += [(abs(a), abs(a + b)) for a, b in zip(steps, steps[1:])]
    if any(jump > OFFSET_HU and back < 0.2 * jump for jump, back in jumps):
        raise Refused("bad_slice", "a slice lies as a whole beside the values of its neighbours")


def _offset(one: np.ndarray, other: np.ndarray) -> float:
    """Constant offset of slice `other` above slice `one`; 0 if the difference is not constant."""
    # float32 first: a difference of two int16 can overflow.
    low, median, high = np.percentile(other.astype(np.float32) - one, (25, 50, 75))
    return float(median) if high - low < 0.2 * OFFSET_HU else 0.0


def placement(orientation: Orientation) -> dict[str, float]:
    """Position of a volume in mm, as attributes; its mask must have the same numbers."""
    first = {f"first_{axis}_mm": mm for axis, mm in zip("zyx", orientation.first_mm)}
    last = {f"last_{axis}_mm": mm for axis, mm in zip("zyx", orientation.last_mm)}
    return {**first, **last, "obliquity_deg": orientation.obliquity_deg}


def check_values(voxels: np.ndarray) -> None:
    """Refuse voxels that are not finite, or all equal.

    Raises:
      Refused: not_finite, constant.
    """
    low, high = voxels.min(), voxels.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise Refused("not_finite", "there are voxels that are NaN or infinite")
    if low == high:
        raise Refused("constant", "every voxel has the same value")


def settled_spacing(
    header: tuple[float, float, float], manifest_mm: float | None
) -> tuple[float, float, float]:
    """Spacing (z, y, x) in mm: the header's; in plane the manifest's where the header has none.

    Raises:
      Refused: bad_spacing; spacing_mismatch (header and manifest differ by more than 5 %).
    """
    known = [mm for mm in header if not math.isnan(mm)] + (
        [] if manifest_mm is None else [manifest_mm]
    )
    for mm in known:
        if not MIN_SPACING_MM <= mm <= MAX_SPACING_MM:
            raise Refused(
                "bad_spacing",
                f"a spacing of {mm:g} mm; more than 0 and at most {MAX_SPACING_MM:g} mm is"
                " plausible",
            )
    if manifest_mm is None:
        return header
    z, y, x = header
    for mm in (y, x):
        if abs(mm - manifest_mm) > SPACING_TOLERANCE * manifest_mm:  # False where mm is NaN
            raise Refused(
                "spacing_mismatch",
                f"the file says {mm:g} mm a pixel, the manifest {manifest_mm:g} mm",
            )
    return (z, manifest_mm if math.isnan(y) else y, manifest_mm if math.isnan(x) else x)


def settled_unit(voxels: np.ndarray, header: str, manifest: str | None) -> str:
    """Unit "HU", "raw" or "shape" of the voxels. Nothing is guessed.

    The unit is HU only if file or manifest says so and the voxels allow it. If they do not, a
    manifest's claim is refused and a header's claim gives `raw`. A manifest that names another unit
    than HU gives `raw`, whatever the header says.

    Raises:
      Refused: not_hu, rescaled_twice, not_binary.
    """
    if manifest == "shape":
        check_binary(voxels)
        return "shape"
    if manifest == "HU":
        contradiction = against_hu(voxels)
        if contradiction:
            raise Refused(*contradiction)
        return "HU"
    if manifest or header != "HU" or against_hu(voxels):
        return "raw"
    return "HU"


def check_binary(voxels: np.ndarray) -> None:
    """Refuse a shape that does not have 0 and exactly one other value.

    Raises:
      Refused: not_binary.
    """
    high = voxels.max()
    if voxels.min() != 0 or not ((voxels == 0) | (voxels == high)).all():
        raise Refused("not_binary", "a shape may have the value 0 and one other value, and no more")


def told_of_hu(voxels: np.ndarray) -> tuple[tuple[str, str], ...]:
    """Warning that HU were windowed or scaled, as ((code, reason),); else ()."""
    low, high = float(voxels.min()), float(voxels.max())
    sample = voxels.reshape(-1)[:: max(1, voxels.size // SAMPLE)]
    if low <= -900:  # there is air
        dense, soft = np.mean(sample > DENSE_HU), np.mean((sample > -250) & (sample <= DENSE_HU))
        if dense > LEAST_TISSUE and dense > soft:
            why = "said to be in HU, but there is more bone than soft tissue: another slope?"
            return (("odd_hu", why),)
        if high < -100 and np.mean(sample > -700) > LEAST_TISSUE:
            return (("odd_hu", f"said to be in HU, from {low:g} to {high:g}: another slope?"),)
        return ()
    cut = np.count_nonzero(sample == low) > CUT_SHARE * sample.size
    if high - low >= USUAL_RANGE_HU and not cut:
        return ()
    return (("odd_hu", f"said to be in HU, from {low:g} to {high:g}: windowed, or scaled?"),)


def is_offset(sample: np.ndarray) -> bool:
    """Whether values look like HU + 1000, or like HU with another sign.

    Soft tissue would lie near 1000, where only bone and metal do; and nothing is air.
    """
    dense = np.mean((sample > 850) & (sample < 1250))
    return bool(dense > OFFSET_SHARE and np.mean(sample < -800) < 0.01)


def against_hu(voxels: np.ndarray) -> tuple[str, str] | None:
    """Reason (code, text) why the voxels cannot be Hounsfield units; None if they can.

    Air is -1000 HU, and noise around water goes below 0. So an image without a negative value is
    not in HU: it is windowed to 8 bits, or its intercept was not applied. An intercept of -1024
    applied twice moves air to about -2000, where no tissue lies. Padding may lie there too, but
    padding is one value.
    """
    low, high = float(voxels.min()), float(voxels.max())  # int8 would overflow below
    if low >= 0:
        # A maximum of 255 suggests an 8-bit picture; above it are stored values, usually offset by
        # 1024.
        windowed = (
            "it looks windowed to 8 bits"
            if high <= 255
            else "the intercept seems not to have been applied"
        )
        return (
            "not_hu",
            f"said to be in HU, but the values run from {low:g} to {high:g}: {windowed}",
        )
    if low <= PADDED:
        # The lowest value may be padding, which any CT may have: judge by the next one.
        rest = voxels.min(where=voxels != low, initial=high)
        if rest >= 0:  # only the padding is negative
            return (
                "not_hu",
                f"said to be in HU, but outside the padding the values run from {rest:g} to"
                f" {high:g}: the intercept seems not to have been applied",
            )
    if high <= -500 or high > 100_000 or high - low < LEAST_RANGE_HU:
        return "not_hu", f"said to be in HU, but the values run from {low:g} to {high:g}"
    sample = voxels.reshape(-1)[:: max(1, voxels.size // SAMPLE)]
    if is_offset(sample):
        return (
            "not_hu",
            "said to be in HU, but no air lies near -1000 and much near 1000: an offset of about"
            " 1000 was not taken off, or the values are inverted",
        )
    if low > -1500:
        return None
    # Air after a second intercept of -1024 is near -2024, with some noise around it.
    below = np.rint(sample[(sample < -1500) & (sample > -2300)])
    if below.size:
        _, counts = np.unique(below, return_counts=True)
        # Padding is one value, so the most frequent value is left out of the count.
        if below.size - counts.max() > 0.05 * sample.size:
            return (
                "rescaled_twice",
                (
                    "said to be in HU, but air lies near -2000: slope and intercept seem to have"
                    " been applied twice"
                ),
            )
    return None
