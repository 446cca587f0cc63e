"""Intensities for the encoder, about [-1, 1], and what training may change about them without
changing what is shown. Axes: z, y, x.
"""

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

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


def mirrored_axes(
    rng: np.random.Generator, modality: str, extent_mm: Float[np.ndarray, "3"]
) -> Bool[np.ndarray, "3"]:
    """Draws along which axes a study is mirrored, as a whole, so that its views agree."""
    small = extent_mm[0] > 0 and extent_mm.max() < LESION_MM  # a planar study has no extent along z
    may = np.isin(np.arange(3), (0, 1, 2) if small else MIRRORED.get(modality, ()))
    return may & (rng.random(3) < 0.5)


def normalise(
    values: Float[np.ndarray, "z y x"],
    unit: str,
    low: float,
    high: float,
    rng: np.random.Generator | None = None,
) -> Float[np.ndarray, "z y x"]:
    """True intensities to about [-1, 1].

    Args:
      unit: "HU" (a fixed window, so that a value means the same in every study), "raw" (between the
        study's own percentiles), "shape" (0 and 1).
      low, high: 0.5 and 99.5 percentile of a raw study's foreground.
      rng: jitters the window (its middle by up to 4 % of its width, its width by up to 10 %); None
        for evaluation. A shape has none.
    """
    limit = 1.0
    if unit == "HU":
        low, high = HU_RANGE
    elif unit == "raw":
        limit = OVERSHOOT
    else:
        low, high, rng = 0.0, 1.0, None
    middle, half = (low + high) / 2, max((high - low) / 2, 1e-6)
    if rng is not None:
        middle += half * rng.uniform(-0.08, 0.08)
        half *= rng.uniform(0.9, 1.1)
    return ((values - middle) / half).clip(-limit, limit).astype(np.float32)


def distort(x: Float[np.ndarray, "z y x"], rng: np.random.Generator) -> Float[np.ndarray, "z y x"]:
    """Gamma always, blur for a fifth and noise for half of the crops: what exposure, reconstruction
    kernel and dose do to an image.

    In and out: about [-1, 1]. Blur is of a fraction of a voxel: more would hide what a radiologist
    looks for.
    """
    gamma = np.float32(np.exp(rng.uniform(-0.25, 0.25)))
    x = 2 * ((x + 1) / 2).clip(0, None) ** gamma - 1
    if rng.random() < 0.2:
        sigma = rng.uniform(0.4, 1.0)
        x = ndimage.gaussian_filter(
            x, [sigma if side > 1 else 0.0 for side in x.shape], truncate=2.0
        )
    if rng.random() < 0.5:
        x = x + rng.standard_normal(x.shape, np.float32) * np.float32(rng.uniform(0, 0.06))
    return x
