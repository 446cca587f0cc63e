"""Intensities for the encoder, about [-1, 1], and what training may change about them without
changing what is shown. Axes: z, y, x.
"""

from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from mmv_jax.errors import UserError

# from air to dense contrast: lung and soft tissue keep their steps, bone and metal are one
HU_RANGE = (-1000.0, 400.0)
BACKGROUND = -1.0  # what lies outside a study: as dark as air
# unknown units are scaled by percentiles, so that bright markers and tubes lie beyond 1: keep them
# apart up to here
OVERSHOOT = 1.2
# a volume smaller than this on every side shows no landmark that tells left from right or up from
# down
LESION_MM = 100.0

# Along which axes (z, y, x) a study may be mirrored. A mirrored chest has its heart on the right: a
# disease (situs inversus), not a variation, and a target of the anatomy probes. A mirrored breast
# is the other breast. Nothing is turned upside down: organs, fluid levels and the diaphragm obey
# gravity. A modality that is not named is never mirrored.
MIRRORED = {"MG": (2,)}


@dataclass(frozen=True)
class Augmentation:
    """How strongly training changes what it shows: the group `augment` of a config.

    At 0 a change is left out. How crops are cut is said by the group `crops`.

    Attributes:
      window_shift: the middle of the intensity window moves by up to this share of its width.
      window_scale: the width of the intensity window changes by up to this share.
      gamma: the exponent of the intensities is exp(x), x between minus and plus this.
      blur_share: share of the crops that are blurred.
      blur_voxels: the largest standard deviation of the blur; the smallest is 0.4 of it.
      noise_share: share of the crops that noise is added to.
      noise: the largest standard deviation of the noise, where intensities are about [-1, 1].
      mirror_share: share of the studies that are mirrored along an axis that may be.
    """

    window_shift: float = 0.04
    window_scale: float = 0.1
    gamma: float = 0.25
    blur_share: float = 0.2
    blur_voxels: float = 1.0
    noise_share: float = 0.5
    noise: float = 0.06
    mirror_share: float = 0.5

    def __post_init__(self) -> None:
        """
        Raises:
          UserError: a strength is negative, or a share is above 1.
        """
        for name in (field.name for field in fields(self)):
            value = getattr(self, name)
            most = 1.0 if name.endswith("_share") or name == "window_scale" else np.inf
            if not 0 <= value <= most or (name == "window_scale" and value == 1):
                limit = "" if most == np.inf else " and at most 1"
                limit = " and below 1" if name == "window_scale" else limit
                raise UserError(
                    f"config.augment.{name} is {value!r}, but must be 0 or more{limit}."
                    " 0 leaves this change out."
                )


DEFAULT = Augmentation()


def mirrored_axes(
    rng: np.random.Generator,
    modality: str,
    extent_mm: Float[np.ndarray, "3"],
    strength: Augmentation = DEFAULT,
) -> Bool[np.ndarray, "3"]:
    """Draws along which axes a study is mirrored, as a whole, so that its views agree."""
    small = extent_mm[0] > 0 and extent_mm.max() < LESION_MM  # a planar study has no extent along z
    may = np.isin(np.arange(3), (0, 1, 2) if small else MIRRORED.get(modality, ()))
    return may & (rng.random(3) < strength.mirror_share)


def normalise(
    values: Float[np.ndarray, "z y x"],
    unit: str,
    low: float,
    high: float,
    rng: np.random.Generator | None = None,
    strength: Augmentation = DEFAULT,
) -> Float[np.ndarray, "z y x"]:
    """True intensities to about [-1, 1].

    Args:
      unit: "HU" (a fixed window, so that a value means the same in every study), "raw" (between the
        study's own percentiles), "shape" (0 and 1).
      low, high: 0.5 and 99.5 percentile of a raw study's foreground.
      rng: jitters the window; None for evaluation. A shape has no window.
      strength: by how much.
    """
    limit = 1.0
    if unit == "HU":
        low, high = HU_RANGE
    elif unit == "raw":
        limit = OVERSHOOT
    else:
        low, high, rng = 0.0, 1.0, None
    # The floor keeps an image of one value from a division by zero.
    middle, half = (low + high) / 2, max((high - low) / 2, 1e-6)
    if rng is not None:
        shift = 2 * strength.window_shift  # of half the width
        middle += half * rng.uniform(-shift, shift)
        half *= rng.uniform(1 - strength.window_scale, 1 + strength.window_scale)
    return ((values - middle) / half).clip(-limit, limit).astype(np.float32)


def distort(
    x: Float[np.ndarray, "z y x"], rng: np.random.Generator, strength: Augmentation = DEFAULT
) -> Float[np.ndarray, "z y x"]:
    """Gamma always, blur for a fifth and noise for half of the crops: what exposure, reconstruction
    kernel and dose do to an image.

    In and out: about [-1, 1]. Blur is of a fraction of a voxel: more would hide what a radiologist
    looks for.
    """
    # Drawn at a strength of 0 too, so that blur and noise get the same random numbers.
    gamma = np.float32(np.exp(rng.uniform(-strength.gamma, strength.gamma)))
    if strength.gamma:
        # A power needs a base from 0 on: [-1, 1] is mapped to [0, 1] and back.
        # What lies above 1 stays above it.
        x = 2 * ((x + 1) / 2).clip(0, None) ** gamma - 1
    if rng.random() < strength.blur_share:
        sigma = rng.uniform(0.4 * strength.blur_voxels, strength.blur_voxels)
        # Along an axis of one slice there is nothing to blur with.
        x = ndimage.gaussian_filter(
            x, [sigma if side > 1 else 0.0 for side in x.shape], truncate=2.0
        )
    if rng.random() < strength.noise_share:
        grain = rng.standard_normal(x.shape, np.float32)
        x = x + grain * np.float32(rng.uniform(0, strength.noise))
    return x
