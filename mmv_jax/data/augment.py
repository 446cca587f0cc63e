"""Intensities of about [-1, 1] for the encoder, and their augmentation. Axes: z, y, x.

Augmentation changes intensities and mirrors studies, but never what is shown.
"""

from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from mmv_jax.errors import UserError

# From air to dense contrast: lung and soft tissue keep their steps, bone and metal become one.
HU_RANGE = (-1000.0, 400.0)
BACKGROUND = -1.0  # outside a study: as dark as air
# Unknown units are scaled by percentiles, so bright markers and tubes lie above 1. They remain
# distinct up to here.
OVERSHOOT = 1.2
# A volume smaller than this on every side shows no landmark that distinguishes left from right, or
# up from down.
LESION_MM = 100.0

# Axes (z, y, x) along which a study may be mirrored. A mirrored chest has its heart on the right: a
# disease (situs inversus), not a variation, and a target of the anatomy probes. A mirrored breast
# is the other breast. Nothing is turned upside down: organs, fluid levels and the diaphragm obey
# gravity. A modality that is not listed is never mirrored.
MIRRORED = {"MG": (2,)}


@dataclass(frozen=True)
class Augmentation:
    """Strength of the augmentation: the group `augment` of a config.

    A strength of 0 switches a change off. The group `crops` says how crops are cut.

    Attributes:
      window_shift: the middle of the intensity window moves by up to this share of its width.
      window_scale: the width of the intensity window changes by up to this share.
      gamma: the exponent of the intensities is exp(x), with x between minus and plus this value.
      blur_share: share of the crops that are blurred.
      blur_voxels: largest standard deviation of the blur, in voxels; the smallest is 0.4 of it.
      noise_share: share of the crops that get noise.
      noise: largest standard deviation of the noise, for intensities of about [-1, 1].
      mirror_share: share of the studies that are mirrored, for each allowed axis.
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
        """Check all strengths.

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
    """Axes along which a study is mirrored, drawn once per study so that its views agree."""
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
    """Intensities of about [-1, 1] from true intensities.

    Args:
      unit: "HU" (a fixed window: a value means the same in every study), "raw" (between the study's
        own percentiles) or "shape" (0 and 1).
      low, high: percentiles 0.5 and 99.5 of a raw study's foreground.
      rng: jitters the window; None for evaluation. The window of a shape is never jittered.
      strength: of the jitter.
    """
    limit = 1.0
    if unit == "HU":
        low, high = HU_RANGE
    elif unit == "raw":
        limit = OVERSHOOT
    else:
        low, high, rng = 0.0, 1.0, None
    # The floor avoids a division by zero for an image of one value.
    middle, half = (low + high) / 2, max((high - low) / 2, 1e-6)
    if rng is not None:
        shift = 2 * strength.window_shift  # of half the width
        middle += half * rng.uniform(-shift, shift)
        half *= rng.uniform(1 - strength.window_scale, 1 + strength.window_scale)
    return ((values - middle) / half).clip(-limit, limit).astype(np.float32)


def distort(
    x: Float[np.ndarray, "z y x"], rng: np.random.Generator, strength: Augmentation = DEFAULT
) -> Float[np.ndarray, "z y x"]:
    """Crop with gamma always, blur and noise for a share of crops.

    These are the effects of exposure, reconstruction kernel and dose. Input and output are about
    [-1, 1]. By default the blur has a standard deviation of at most one voxel: more would hide what
    a radiologist looks for.
    """
    # Drawn even at a strength of 0, so that blur and noise get the same random numbers.
    gamma = np.float32(np.exp(rng.uniform(-strength.gamma, strength.gamma)))
    if strength.gamma:
        # A power needs a non-negative base: [-1, 1] is mapped to [0, 1] and back. Values above 1
        # stay above it.
        x = 2 * ((x + 1) / 2).clip(0, None) ** gamma - 1
    if rng.random() < strength.blur_share:
        sigma = rng.uniform(0.4 * strength.blur_voxels, strength.blur_voxels)
        # An axis of one slice has no neighbours to blur with.
        x = ndimage.gaussian_filter(
            x, [sigma if side > 1 else 0.0 for side in x.shape], truncate=2.0
        )
    if rng.random() < strength.noise_share:
        grain = rng.standard_normal(x.shape, np.float32)
        x = x + grain * np.float32(rng.uniform(0, strength.noise))
    return x
