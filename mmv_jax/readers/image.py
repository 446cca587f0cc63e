"""What a file and its manifest claim, held against each other and against the voxels, before a
Study is made of it.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mmv_jax.readers.orient import Orientation
from mmv_jax.readers.refused import Refused
from mmv_jax.study import Study

MAX_SPACING_MM = 50.0
MIN_SPACING_MM = 1e-4  # a tenth of a micrometre: below it the unit is metres, or a mistake
SPACING_TOLERANCE = 0.05
SAMPLE = 1 << 20  # voxels that the plausibility of Hounsfield units is judged by
NAN = float("nan")


@dataclass(frozen=True)
class Image:
    """What a reader found in a file: voxels in their final place, and the file's own claims.

    Attributes:
      voxels: `[z, y, x]`.
      spacing_mm: (z, y, x) of the header, NaN where it says nothing.
      ndim: 2 or 3.
      unit: "HU" where the file says so itself, otherwise "raw".
      orientation: of a volume.
      attributes: numbers of the allow-list.
      lossy: whether the voxels were, or may have been, compressed with a loss: good enough to see,
        not for labels.
    """

    voxels: np.ndarray
    spacing_mm: tuple[float, float, float]
    ndim: int
    unit: str = "raw"
    orientation: Orientation | None = None
    attributes: Mapping[str, float] = field(default_factory=dict)
    lossy: bool = False


@dataclass(frozen=True)
class Format:
    """How a format of files is known and read.

    Attributes:
      matches: whether a file is of this format, by its first 4,096 bytes (`head`), never by its
        name; the path is there for what is compressed.
      read: an Image of the file; of a mask, `grid` is the shape of its study, against which a
        declared size is checked before memory is taken. It raises Refused, and what a library
        raises is told as `unreadable`.
      noun: what a manifest of a folder calls such a file's modality.
    """

    matches: Callable[[bytes, Path], bool]
    read: Callable[[Path, tuple[int, ...] | None], Image]
    noun: str = "volume"


def study_of(image: Image, spacing_mm: float | None, unit: str | None) -> Study:
    """The Study of an image, once its claims and the manifest's hold.

    Raises:
      Refused: not_finite, constant, bad_spacing, spacing_mismatch, not_hu, rescaled_twice,
        not_binary.
    """
    check_values(image.voxels)
    spacing = settled_spacing(image.spacing_mm, spacing_mm)
    attributes = dict(image.attributes)
    if image.orientation is not None:
        attributes |= placement(image.orientation)
    return Study(
        image.voxels, spacing, image.ndim, settled_unit(image.voxels, image.unit, unit), attributes
    )


def placement(orientation: Orientation) -> dict[str, float]:
    """Where a volume lies: what a mask must agree with, in numbers."""
    first = {f"first_{axis}_mm": mm for axis, mm in zip("zyx", orientation.first_mm)}
    last = {f"last_{axis}_mm": mm for axis, mm in zip("zyx", orientation.last_mm)}
    return {**first, **last, "obliquity_deg": orientation.obliquity_deg}


def check_values(voxels: np.ndarray) -> None:
    low, high = voxels.min(), voxels.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise Refused("not_finite", "there are voxels that are NaN or infinite")
    if low == high:
        raise Refused("constant", "every voxel has the same value")


def settled_spacing(
    header: tuple[float, float, float], manifest_mm: float | None
) -> tuple[float, float, float]:
    """The header's spacing; in plane the manifest's where the header says nothing. A contradiction
    is refused.

    Raises:
      Refused: bad_spacing, spacing_mismatch.
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
    """HU only where file or manifest says so and the voxels do not contradict it; nothing is
    guessed.

    A manifest's claim that the voxels contradict is refused. A header's claim that they contradict
    is not believed: `raw`. Where the manifest names another unit than HU, the values are `raw`
    whatever the header says.

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
    high = voxels.max()
    if voxels.min() != 0 or not ((voxels == 0) | (voxels == high)).all():
        raise Refused("not_binary", "a shape may have the value 0 and one other value, and no more")


def against_hu(voxels: np.ndarray) -> tuple[str, str] | None:
    """Why the voxels cannot be Hounsfield units, as (code, reason); None where they can.

    Air is -1000 HU and noise around water goes below 0, so an image without a negative value is not
    in HU (8-bit windowed, or stored values without their intercept). An intercept of -1024 applied
    twice moves air to about -2000, which no matter can be; padding lies there too, but padding is
    one value.
    """
    low, high = voxels.min(), voxels.max()
    if low >= 0:
        windowed = (
            "it looks windowed to 8 bits"
            if high <= 255
            else "the intercept seems not to have been applied"
        )
        return (
            "not_hu",
            f"said to be in HU, but the values run from {low:g} to {high:g}: {windowed}",
        )
    if high <= -500 or high > 100_000:
        return "not_hu", f"said to be in HU, but the values run from {low:g} to {high:g}"
    if low > -1500:
        return None
    sample = voxels.reshape(-1)[:: max(1, voxels.size // SAMPLE)]
    below = np.rint(sample[(sample < -1500) & (sample > -2300)])
    if below.size:
        _, counts = np.unique(below, return_counts=True)
        if below.size - counts.max() > 0.05 * sample.size:
            return (
                "rescaled_twice",
                (
                    "said to be in HU, but air lies near -2000: slope and intercept seem to have"
                    " been applied twice"
                ),
            )
    return None
