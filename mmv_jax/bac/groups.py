"""Calcified pixels that lie together: an artery calcifies along its course, a hair on a film or a
speck of noise lies alone. Axes: y x pixels.
"""

import numpy as np
from jaxtyping import Bool, Int
from scipy import ndimage

NEAR_MM = 2.0  # pixels whose neighbourhoods, so far along each axis, meet belong together


def groups(
    mask: Bool[np.ndarray, "y x"], pixel_mm: tuple[float, float]
) -> tuple[Int[np.ndarray, "y x"], int]:
    """The group of each pixel of the mask, from 1 on, 0 elsewhere; and how many groups there
    are.
    """
    near = ndimage.maximum_filter(
        mask, [2 * max(1, round(NEAR_MM / mm)) + 1 for mm in pixel_mm], mode="constant"
    )
    labels, count = ndimage.label(near, np.ones((3, 3)))
    return np.where(mask, labels, 0), int(count)


def without_small(
    mask: Bool[np.ndarray, "y x"], pixel_mm: tuple[float, float], least_mm2: float
) -> Bool[np.ndarray, "y x"]:
    """The mask without the groups that are smaller than `least_mm2`."""
    labels, count = groups(mask, pixel_mm)
    kept = (
        np.bincount(labels.ravel(), minlength=count + 1) * (pixel_mm[0] * pixel_mm[1]) >= least_mm2
    )
    return mask & kept[labels]
