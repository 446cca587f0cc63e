"""Where calcium does not count: along the border of the image or of a scanned film, and on and
beside solid metal (letters, markers, clips). Axes: y x pixels of the working grid.
"""

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

# of the largest value: light past a film's border, lead and metal saturate the sensor
SATURATED = 0.97
# half the width of what is solid: the wall of a calcified artery is thinner than twice this
SOLID_MM = 0.35
HALO_MM = 1.0  # around solid metal: blur, and the processing that enhances edges


def left_out(
    values: Float[np.ndarray, "y x"], pixel_mm: tuple[float, float], border_mm: float
) -> Bool[np.ndarray, "y x"]:
    """True where nothing counts: within `border_mm` of the image's border and of light past a
    film's, and within `HALO_MM` of what is solid and saturated.

    The border of a film is where saturated pixels reach the image's border. A film lies aslant, so
    that its border is found pixel by pixel and not as a line. With `border_mm` 0 all counts.
    """
    if border_mm <= 0:
        return np.zeros(values.shape, bool)
    low, high = float(values.min()), float(values.max())
    saturated = values >= low + SATURATED * (high - low)
    # An image of one value, or of two, has no border of its own.
    solid = _solid(saturated, pixel_mm) if high > low else np.zeros(values.shape, bool)
    labels, _ = ndimage.label(solid, np.ones((3, 3)))
    edges = (labels[0], labels[-1], labels[:, 0], labels[:, -1])
    light = np.isin(labels, np.setdiff1d(np.unique(np.concatenate(edges)), [0]))
    # The distance to the image's border is that to the first pixel beyond it.
    rows, columns = (
        np.minimum(np.arange(n), np.arange(n)[::-1]) * mm for n, mm in zip(values.shape, pixel_mm)
    )
    near = np.minimum(rows[:, None], columns[None]) < border_mm
    return near | _within(light, pixel_mm, border_mm) | _within(solid & ~light, pixel_mm, HALO_MM)


def _solid(saturated: np.ndarray, pixel_mm: tuple[float, float]) -> np.ndarray:
    """The saturated pixels of shapes that hold a disc of `SOLID_MM`; beyond the image's border they
    go on, so that a thin strip along it is solid too.
    """
    margin = [int(np.ceil(2 * SOLID_MM / mm)) for mm in pixel_mm]
    wide = np.pad(saturated, [(m, m) for m in margin], mode="edge")
    core = ndimage.distance_transform_edt(wide, pixel_mm) > SOLID_MM
    # Opened again: what is left are discs, and with them their shape.
    grown = _within(core, pixel_mm, SOLID_MM) & wide
    return grown[margin[0] : -margin[0], margin[1] : -margin[1]]


def _within(where: np.ndarray, pixel_mm: tuple[float, float], mm: float) -> np.ndarray:
    if not where.any():
        return np.zeros(where.shape, bool)
    return ndimage.distance_transform_edt(~where, pixel_mm) <= mm
