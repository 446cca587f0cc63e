"""One study in memory with the interface of a store: the same 16-bit values, index and levels."""

import numpy as np
import pandas as pd

from mmv_jax.store.intensity import foreground_percentiles, occupancy, to_int16
from mmv_jax.store.layout import pack_occupancy
from mmv_jax.store.levels import coarser, level_factors, level_scale
from mmv_jax.study import Study


class OneStudy:
    """A study as a store would hold it, so that features equal those of `mmv embed` to the last
    bit.

    It is a `data.resample.Boxes`.

    Attributes:
      index: one row, with the columns for geometry and intensities.
    """

    def __init__(self, study: Study, modality: str = ""):
        voxels = study.voxels != 0 if study.unit == "shape" else study.voxels
        # Rounded to 16 bits as in a store, since features depend on that rounding.
        stored = to_int16(voxels)
        occupied = occupancy(stored, study.unit, study.ndim)
        low, high = foreground_percentiles(stored, occupied, (0.5, 99.5))
        line = {"study": "this study", "modality": modality, "ndim": study.ndim, "unit": study.unit}
        line |= dict(zip(("grid_z", "grid_y", "grid_x"), study.voxels.shape))
        line |= dict(zip(("spacing_z", "spacing_y", "spacing_x"), map(float, study.spacing_mm)))
        line |= {"low": low, "high": high, "occupancy": pack_occupancy(occupied)}
        self.index = pd.DataFrame([line])
        self._scales = [(stored.slope, stored.intercept)]
        self._voxels = [stored.voxels]
        # The mean of a shape (0 and 1) is not a shape, so it has no coarser levels.
        factors = [] if study.unit == "shape" else level_factors(voxels.shape, study.spacing_mm)
        self._factors = np.array(factors, np.int64).reshape(-1, 3)
        if factors:
            # Means lie between whole numbers.
            # Where the range is small, the gain keeps fractions of a step.
            gain, offset = level_scale(int(stored.voxels.min()), int(stored.voxels.max()))
            self._scales.append((stored.slope / gain, stored.intercept + offset * stored.slope))
        before = (1, 1, 1)
        for factor in factors:
            finer = self._voxels[-1]
            self._voxels.append(
                coarser(finer, before, factor, voxels.shape, gain=gain, offset=offset)
            )
            before, gain, offset = factor, 1, 0  # later levels come from one that is scaled

    def levels(self, i: int) -> np.ndarray:
        """Downsampling factors, `[levels, 3]`, as in `store.read.Store`."""
        return self._factors

    def read_box(
        self,
        i: int,
        start: tuple[int, int, int],
        shape: tuple[int, int, int],
        *,
        mask: str | None = None,
        level: int = 0,
    ) -> np.ndarray:
        """True intensities of a box, float32 `[z, y, x]`; there are no masks."""
        assert mask is None, "a study by itself has no masks"
        box = tuple(slice(at, at + size) for at, size in zip(start, shape))
        # All coarser levels share one scale: the first is scaled by the gain, the others follow.
        slope, intercept = map(np.float32, self._scales[min(level, 1)])
        values = self._voxels[level][box].astype(np.float32)
        # In float32 and in this order, as `Store.read_box` does, or the last bit differs.
        if (slope, intercept) != (1, 0):
            values *= slope
            values += intercept
        return values
