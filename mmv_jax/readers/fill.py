"""Fill values ("not measured"): find them and bring them back into the range of the image.

The store has 65,536 steps over a study's range, so one extreme value would cost precision.
"""

import numpy as np

from mmv_jax.readers.refused import Refused

FAR = 65_536.0  # range of integers that fits into the store's steps: no value costs precision
# multiples of the spread and of the size of the middle half of the values
SPREAD, SCALE = 1000, 100
FEW = 8  # voxels: up to so many far above all others are hot pixels, more are fill
LEAST_VALUES = 4  # distinct values; with fewer, fill cannot be recognised
# -1024, -2000 and -3024 are usual padding of scanners; nothing real is below this
LOWEST_HU = -4096
# HU: metal reaches these values over many steps. One value above a gap of half of it is fill.
HIGHEST_HU = 4096
# Ends of 16-bit types and the usual codes: fill if nothing else lies near (`NEAR` ranges).
CODES = (-32_768, -32_767, 32_767, 65_535, 65_534, -9999, 9999, -99_999, 99_999)
NEAR = 2
LEAST_GREYS = 16  # distinct values of an image beside fill; a label map has fewer
SAMPLE = 1 << 20  # voxels


def without_fill(voxels: np.ndarray) -> np.ndarray:
    """Voxels with fill (2**31, 3e38, -1e6, a hot pixel) brought into the range of the others.

    A value is fill if it lies far outside the middle half of the distinct values, behind a gap.
    Distinct values count, not voxels: a fill is one value in however many voxels. PET has a long
    tail, but no gap. A fill becomes the lowest of the other values, as DICOM's padding does. A few
    hot pixels become the highest.

    Args:
      voxels: `[z, y, x]`, any unit. Returned itself where there is no fill.
    Raises:
      Refused: fill_values.
    """
    low, high = float(voxels.min()), float(voxels.max())
    # Integers of 8 or 16 bits span at most 65,536 steps, so a fill costs them no precision.
    if voxels.dtype.itemsize < 4 or (high - low < FAR and _are_whole(voxels)):
        return _without_codes(voxels, low, high)
    # Distinct values, not voxels: padding may cover most of an image and is one value here.
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
    # A long tail, as in PET, has no gap. Only values beyond a gap of half the reach are fill.
    is_low &= float(bottom) - voxels.max(where=is_low, initial=voxels.min()) > reach / 2
    is_high &= voxels.min(where=is_high, initial=voxels.max()) - float(top) > reach / 2
    if not (is_low.any() or is_high.any()):
        return voxels
    filled = voxels.copy()
    filled[is_low] = bottom
    # Many voxels far above are padding. A few are a hot pixel, which really is bright.
    filled[is_high] = bottom if np.count_nonzero(is_high) > FEW else top
    return filled


def _without_codes(voxels: np.ndarray, low: float, high: float) -> np.ndarray:
    """Voxels of few steps, of which one end is a code for "not measured", far from all others.

    The store would keep its steps, but intensities are scaled by the range of the values.
    """
    if low == high:
        return voxels  # where writing was blanked, nothing else may be left
    for end in (low, high):
        if end not in CODES:
            continue
        is_code = voxels == end
        rest = voxels[~is_code]
        bottom, top = float(rest.min()), float(rest.max())
        gap = bottom - end if end < bottom else end - top
        if np.count_nonzero(is_code) > FEW and gap > NEAR * (top - bottom) > 0:
            filled = voxels.copy()
            filled[is_code] = rest.min()
            return filled
    return voxels


def without_raw_fill(voxels: np.ndarray) -> np.ndarray:
    """Voxels of no known unit; one whole number far beside all others becomes the lowest of them.

    So are -1, -1000 and 9999 in an image of 0 to 1, and -9999 in one of 0 to 4000. What is judged
    is a single value, of more than a few voxels, behind a gap as wide as the range of the others.
    Below 0 one range is enough beside values that are not negative, else two. Above, only images of
    fractions are judged: a saturated marker in whole numbers looks alike.
    """
    if voxels.dtype.kind == "u":
        return voxels
    ends = voxels.min(), voxels.max()
    if ends[0] >= 0 and voxels.dtype.kind != "f":
        return voxels
    # A sample has gaps at least as wide. Most images end here, before a mask of them is made.
    values = np.unique(voxels.reshape(-1)[:: max(1, voxels.size // SAMPLE)])
    values = values[(values != ends[0]) & (values != ends[1])]
    if len(values) < LEAST_GREYS or not any(_apart(ends, values[0], values[-1])):
        return voxels
    # Both ends are left out: beside -1000, a 9999 would count as the range of the others.
    inside = (voxels != ends[0]) & (voxels != ends[1])
    bottom = voxels.min(where=inside, initial=ends[1])
    top = voxels.max(where=inside, initial=ends[0])
    is_low, is_high = _apart(ends, bottom, top)
    is_fill = np.zeros(voxels.shape, bool)
    if is_low:
        is_fill |= _many(voxels, ends[0])
    if is_high and voxels.dtype.kind == "f" and not _are_whole(voxels[inside]):
        is_fill |= _many(voxels, ends[1])
    if not is_fill.any():
        return voxels
    filled = voxels.copy()
    filled[is_fill] = voxels.min(where=~is_fill, initial=ends[1])
    return filled


def _apart(ends: tuple, bottom: np.generic, top: np.generic) -> tuple[bool, bool]:
    """Whether the lowest and the highest value lie far beside all others, from bottom to top."""
    low, high, least, most = (float(value) for value in (*ends, bottom, top))
    spread = most - least
    is_low = low < 0 and least - low >= (1 if least >= 0 else NEAR) * spread > 0
    return is_low, high - most > NEAR * spread > 0


def _many(voxels: np.ndarray, value: np.generic) -> np.ndarray:
    """Where voxels have a whole number, if more than a few have; else nowhere."""
    found = voxels == value
    whole = float(value).is_integer() and np.count_nonzero(found) > FEW
    return found if whole else np.zeros(voxels.shape, bool)


def without_hu_fill(voxels: np.ndarray) -> np.ndarray:
    """Voxels in HU; a fill such as -32768, 9999 or 32767 becomes the lowest of the others."""
    if voxels.dtype.kind == "u":
        return voxels
    low, top = voxels.min(), voxels.max()
    if low >= LOWEST_HU and top <= HIGHEST_HU:
        return voxels
    is_fill = voxels < LOWEST_HU
    if top > HIGHEST_HU:
        is_top = voxels == top
        below = voxels.max(where=~is_top, initial=voxels.min())
        if below < top / 2 and np.count_nonzero(is_top) > FEW:
            is_fill |= is_top
    if is_fill.all() or not is_fill.any():
        return voxels
    filled = voxels.copy()
    filled[is_fill] = voxels[~is_fill].min()
    return filled


def _are_whole(voxels: np.ndarray) -> bool:
    if voxels.dtype.kind in "iub":
        return True
    sample = voxels.reshape(-1)[:: max(1, voxels.size // SAMPLE)]
    return np.array_equal(sample, np.rint(sample))
