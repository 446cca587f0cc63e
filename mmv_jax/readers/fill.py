"""Values that stand for "not measured": found and brought back, since the store has 65,536 steps
over a study's range.
"""

import numpy as np

from mmv_jax.readers.refused import Refused

FAR = 65_536.0  # a range of whole numbers within which no value costs the others a step
SPREAD, SCALE = 1000, 100  # times the spread and the size of the middle half of the values
FEW = 8  # voxels: so few that are far above all others are hot, more are fill
LEAST_VALUES = 4  # different ones, below which nothing is told from fill
LOWEST_HU = -8192  # -1024, -2000 and -3024 are usual padding of scanners; below it nothing is
SAMPLE = 1 << 20  # voxels


def without_fill(voxels: np.ndarray) -> np.ndarray:
    """The voxels, with values that no image has (2**31, 3e38, -1e6, a hot voxel) brought back.

    Judged by the different values of an image, since a fill is one value however many voxels have
    it. What lies far outside their middle half, behind a gap, is no image: PET has a long tail,
    but no gap. A fill takes the lowest value of the others, as DICOM's padding does; a few hot
    voxels take the highest. The same array where there is none.

    Raises:
      Refused: fill_values.
    """
    low, high = float(voxels.min()), float(voxels.max())
    # Integers of 8 or 16 bits span at most 65,536 steps, so a fill costs them no precision.
    if voxels.dtype.itemsize < 4 or (high - low < FAR and _are_whole(voxels)):
        return voxels
    # Different values, not voxels: padding may cover most of an image and is one value here.
    values = np.unique(voxels.reshape(-1)[:: max(1, voxels.size // SAMPLE)].astype(np.float64))
    if len(values) < LEAST_VALUES:
        if high - low >= FAR and max(-low, high) > 1e8:
            raise Refused("fill_values", "beside fill there is nearly no value")
        return voxels
    # The middle half of the sorted values: up to a quarter of them may be fill at either end.
    middle = values[len(values) // 4 : -(len(values) // 4)]
    reach = max(SPREAD * (middle[-1] - middle[0]), min(FAR, SCALE * float(np.abs(middle).max())))
    if low >= middle[0] - reach and high <= middle[-1] + reach:
        return voxels
    is_low, is_high = voxels < middle[0] - reach, voxels > middle[-1] + reach
    rest = voxels[~(is_low | is_high)]
    bottom, top = rest.min(), rest.max()
    # A long tail, as in PET, has no gap. Only values behind a gap of half the reach are fill.
    is_low &= float(bottom) - voxels.max(where=is_low, initial=voxels.min()) > reach / 2
    is_high &= voxels.min(where=is_high, initial=voxels.max()) - float(top) > reach / 2
    if not (is_low.any() or is_high.any()):
        return voxels
    filled = voxels.copy()
    filled[is_low] = bottom
    # Many voxels far above are padding. A few are a hot pixel, which is bright in truth.
    filled[is_high] = bottom if np.count_nonzero(is_high) > FEW else top
    return filled


def without_hu_fill(voxels: np.ndarray) -> np.ndarray:
    """Hounsfield units without a fill such as -32768, which becomes the lowest of the others."""
    if voxels.dtype.kind == "u" or voxels.min() >= LOWEST_HU:
        return voxels
    is_fill = voxels < LOWEST_HU
    if is_fill.all():
        return voxels
    filled = voxels.copy()
    filled[is_fill] = voxels[~is_fill].min()
    return filled


def _are_whole(voxels: np.ndarray) -> bool:
    if voxels.dtype.kind in "iub":
        return True
    sample = voxels.reshape(-1)[:: max(1, voxels.size // SAMPLE)]
    return np.array_equal(sample, np.rint(sample))
