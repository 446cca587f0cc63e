"""A mammogram made ready for the model: which pixels are breast, on which grid it is looked at, and
how bright a pixel is among its neighbours.

Axes: Y X pixels of the file, y x pixels of the working grid, r c coarse cells of the working grid.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Shaped
from scipy import ndimage

# no pixel of the working grid is coarser: a calcification of 0.2 mm covers two by two
WORKING_MM = 0.1
# of a view whose spacing nobody states: that of a large film, so that its working grid errs on the
# fine side
NOMINAL_HEIGHT_MM = 240.0
CELL = 16  # pixels of the working grid along a coarse cell
CELL_KEPT = 0.02  # share of breast above which a cell counts
# percentiles of the coarse image, and where between them the breast begins
AIR, TISSUE, EDGE = 5.0, 95.0, 0.06


def working_factor(spacing_mm: tuple[float, float], shape: tuple[int, ...]) -> int:
    """How many pixels along each axis are averaged into one of the working grid: as many as keep it
    at `WORKING_MM` or finer, at least one.

    Example:
      >>> [working_factor((mm, mm), (4000, 3000)) for mm in (0.1, 0.07, 0.05, float("nan"))]
      [1, 1, 2, 1]
    """
    # 1e-6 absorbs rounding: a spacing that is 0.05 but for its last digit must give 2.
    return max(1, math.floor(WORKING_MM / min(nominal(spacing_mm, shape)) + 1e-6))


def nominal(spacing_mm: tuple[float, float], shape: tuple[int, ...]) -> tuple[float, float]:
    """The spacing; where it is not known, that of a view which is `NOMINAL_HEIGHT_MM` high: good
    enough to look at it, and no measure.
    """
    return (
        spacing_mm if not any(map(math.isnan, spacing_mm)) else (NOMINAL_HEIGHT_MM / shape[0],) * 2
    )


def averaged(values: Shaped[np.ndarray, "Y X"], factor: int) -> Float[np.ndarray, "y x"]:
    """Means of `factor` by `factor` pixels; what is left over at the lower and right edge repeats
    the last pixel.
    """
    padded = np.pad(values, [(0, -n % factor) for n in values.shape], mode="edge").astype(
        np.float32
    )
    return padded.reshape(
        padded.shape[0] // factor, factor, padded.shape[1] // factor, factor
    ).mean(axis=(1, 3))


def enlarged(
    values: Shaped[np.ndarray, "y x"], factor: int, shape: tuple[int, int]
) -> Shaped[np.ndarray, "Y X"]:
    """Values of the working grid on the file's own grid."""
    return np.repeat(np.repeat(values, factor, 0), factor, 1)[: shape[0], : shape[1]]


def breast_cells(coarse: Float[np.ndarray, "r c"]) -> Bool[np.ndarray, "r c"]:
    """The breast on a coarse image: the largest bright region without holes. Letters and markers
    lie apart from it, in the air.

    An image that holds no air (a spot view) is breast wherever it is not among its darkest.
    """
    dark, bright = np.percentile(coarse, [AIR, TISSUE])
    if bright <= dark:
        return np.zeros(coarse.shape, bool)
    # Opened: a scratch or the film's edge that touches the breast is cut off.
    found = ndimage.binary_opening(coarse > dark + EDGE * (bright - dark), iterations=2)
    labels, count = ndimage.label(found)
    if not count:
        return found
    # Labels begin at 1, argmax at 0.
    sizes = ndimage.sum_labels(found, labels, np.arange(1, count + 1))
    return ndimage.binary_fill_holes(labels == 1 + int(np.argmax(sizes)))


@dataclass(frozen=True)
class ViewFrame:
    """What must be known of a whole view before one of its tiles can be read.

    Attributes:
      factor: see `working_factor`.
      shape: of the working grid.
      breast: [r, c], the coarse cells that hold breast.
      backdrop: [r, c], the brightness of the tissue at large about the centre of each cell.
      scale: the usual (1.4826 times the median) deviation of a breast pixel from the backdrop.
    """

    factor: int
    shape: tuple[int, int]
    breast: Bool[np.ndarray, "r c"]
    backdrop: Float[np.ndarray, "r c"]
    scale: float

    @classmethod
    def of(cls, voxels: Shaped[np.ndarray, "Y X"], spacing_mm: tuple[float, float]) -> "ViewFrame":
        """Looks at the whole view."""
        factor = working_factor(spacing_mm, voxels.shape)
        values = averaged(voxels, factor)
        coarse = averaged(values, CELL)
        breast = breast_cells(coarse)
        # A smooth mean over breast cells alone: air would darken the backdrop of the skin.
        weight = ndimage.gaussian_filter(breast.astype(np.float32), 1.0)
        smooth = ndimage.gaussian_filter(np.where(breast, coarse, 0), 1.0)
        # Far from the breast both sums are about 0: such a cell takes the value of its nearest one.
        nearest = ndimage.distance_transform_edt(
            weight < CELL_KEPT, return_distances=False, return_indices=True
        )
        backdrop = (
            (smooth / np.maximum(weight, CELL_KEPT))[tuple(nearest)] if breast.any() else coarse
        )
        frame = cls(factor=factor, shape=values.shape, breast=breast, backdrop=backdrop, scale=1.0)
        inside = frame.breast_pixels((0, 0), values.shape)
        # 1.4826 times the median is the sd of a normal; calcium and metal hardly move it.
        deviation = np.abs(values - frame._backdrop((0, 0), values.shape))[inside]
        return cls(
            factor=factor,
            shape=values.shape,
            breast=breast,
            backdrop=backdrop,
            scale=max(1.4826 * float(np.median(deviation)), 1e-6) if deviation.size else 1.0,
        )

    def normalised(
        self, values: Float[np.ndarray, "y x"], start: tuple[int, int]
    ) -> Float[np.ndarray, "y x"]:
        """A box of the working grid, from its pixel `start` on, as the model reads it: deviations
        from the backdrop in units of the usual one.

        asinh leaves the texture of tissue as it is and keeps metal, a hundred times as bright,
        within reach.
        """
        return np.arcsinh((values - self._backdrop(start, values.shape)) / self.scale).astype(
            np.float32
        )

    def breast_pixels(
        self, start: tuple[int, int], shape: tuple[int, int]
    ) -> Bool[np.ndarray, "y x"]:
        """Which pixels of a box belong to the breast, cell by cell."""
        rows, columns = ((s + np.arange(n)) // CELL for s, n in zip(start, shape))
        rows, columns = (
            np.minimum(index, n - 1) for index, n in zip((rows, columns), self.breast.shape)
        )
        return self.breast[np.ix_(rows, columns)]

    def _backdrop(self, start: tuple[int, int], shape: tuple[int, int]) -> Float[np.ndarray, "y x"]:
        rows, columns = (
            _linear(s + np.arange(n), cells)
            for s, n, cells in zip(start, shape, self.backdrop.shape)
        )
        # Bilinear interpolation is separable: one matrix a direction.
        return (rows @ self.backdrop @ columns.T).astype(np.float32)


def _linear(pixels: np.ndarray, cells: int) -> np.ndarray:
    """[pixels, cells]: weights of linear interpolation between the centres of coarse cells."""
    # Pixel i has its centre at i + 0.5, cell j at (j + 0.5) CELL.
    at = np.clip((pixels + 0.5) / CELL - 0.5, 0, cells - 1)
    return np.maximum(1 - np.abs(at[:, None] - np.arange(cells)[None]), 0)
