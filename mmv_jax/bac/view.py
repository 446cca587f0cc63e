"""Preparation of a mammogram for the model: breast pixels, working grid and normalised brightness.

Axes: Y X pixels of the file, y x pixels of the working grid, r c coarse cells of the working grid.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Shaped
from scipy import ndimage

# Largest pixel of the working grid: a calcification of 0.2 mm covers two by two.
WORKING_MM = 0.1
# Assumed height of a view without a known spacing. It is that of a large film, so that the working
# grid is rather too fine.
NOMINAL_HEIGHT_MM = 240.0
CELL = 16  # pixels of the working grid along a coarse cell
CELL_KEPT = 0.02  # share of breast pixels above which a cell counts as breast
# Percentiles of the coarse image, and the position between them where the breast begins.
AIR, TISSUE, EDGE = 5.0, 95.0, 0.06


def working_factor(spacing_mm: tuple[float, float], shape: tuple[int, ...]) -> int:
    """Number of file pixels along one pixel of the working grid.

    It is the largest that keeps the grid at `WORKING_MM` or finer, and at least one.

    Example:
      >>> [working_factor((mm, mm), (4000, 3000)) for mm in (0.1, 0.07, 0.05, float("nan"))]
      [1, 1, 2, 1]
    """
    # 1e-6 absorbs rounding: a spacing of almost exactly 0.05 must give 2.
    return max(1, math.floor(WORKING_MM / min(nominal(spacing_mm, shape)) + 1e-6))


def nominal(spacing_mm: tuple[float, float], shape: tuple[int, ...]) -> tuple[float, float]:
    """The spacing in mm; if unknown, that of a view `NOMINAL_HEIGHT_MM` high.

    The guess is good enough to look at the view, but not to measure it.
    """
    return (
        spacing_mm if not any(map(math.isnan, spacing_mm)) else (NOMINAL_HEIGHT_MM / shape[0],) * 2
    )


def averaged(values: Shaped[np.ndarray, "Y X"], factor: int) -> Float[np.ndarray, "y x"]:
    """Means of `factor` by `factor` pixels.

    Partial blocks at the lower and right edge repeat the last pixel.
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
    """Breast on a coarse image: the largest bright region, without holes.

    Letters and markers are separate from it, in the air. An image without air (a spot view) is
    breast everywhere except its darkest cells.
    """
    dark, bright = np.percentile(coarse, [AIR, TISSUE])
    if bright <= dark:
        return np.zeros(coarse.shape, bool)
    # Opening cuts off a scratch or the film's edge that touches the breast.
    found = ndimage.binary_opening(coarse > dark + EDGE * (bright - dark), iterations=2)
    labels, count = ndimage.label(found)
    if not count:
        return found
    # Labels start at 1, argmax at 0.
    sizes = ndimage.sum_labels(found, labels, np.arange(1, count + 1))
    return ndimage.binary_fill_holes(labels == 1 + int(np.argmax(sizes)))


@dataclass(frozen=True)
class ViewFrame:
    """Facts about a whole view that its tiles need.

    Attributes:
      factor: see `working_factor`.
      shape: of the working grid.
      breast: [r, c], the coarse cells that contain breast.
      backdrop: [r, c], large-scale brightness of the tissue at the centre of each cell.
      scale: robust standard deviation (1.4826 times the median) of breast pixels from the backdrop.
    """

    factor: int
    shape: tuple[int, int]
    breast: Bool[np.ndarray, "r c"]
    backdrop: Float[np.ndarray, "r c"]
    scale: float

    @classmethod
    def of(cls, voxels: Shaped[np.ndarray, "Y X"], spacing_mm: tuple[float, float]) -> "ViewFrame":
        """Frame of a whole view."""
        factor = working_factor(spacing_mm, voxels.shape)
        values = averaged(voxels, factor)
        coarse = averaged(values, CELL)
        breast = breast_cells(coarse)
        # A smooth mean over breast cells only: air would darken the backdrop of the skin.
        weight = ndimage.gaussian_filter(breast.astype(np.float32), 1.0)
        smooth = ndimage.gaussian_filter(np.where(breast, coarse, 0), 1.0)
        # Far from the breast both sums are about 0: such a cell takes the value of the nearest one.
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
        """Box of the working grid from pixel `start` on, as deviations from the backdrop.

        The unit is the view's `scale`. asinh leaves the texture of tissue unchanged, and keeps
        metal, which is a hundred times as bright, within range.
        """
        return np.arcsinh((values - self._backdrop(start, values.shape)) / self.scale).astype(
            np.float32
        )

    def breast_pixels(
        self, start: tuple[int, int], shape: tuple[int, int]
    ) -> Bool[np.ndarray, "y x"]:
        """Mask of the pixels of a box that belong to the breast, cell by cell."""
        rows, columns = ((s + np.arange(n)) // CELL for s, n in zip(start, shape))
        rows, columns = (
            np.minimum(index, n - 1) for index, n in zip((rows, columns), self.breast.shape)
        )
        return self.breast[np.ix_(rows, columns)]

    def _backdrop(self, start: tuple[int, int], shape: tuple[int, int]) -> Float[np.ndarray, "y x"]:
        (rows, near_rows), (columns, near_columns) = (
            _linear(s + np.arange(n), cells)
            for s, n, cells in zip(start, shape, self.backdrop.shape)
        )
        # Bilinear interpolation is separable: one matrix per direction.
        return (rows @ self.backdrop[near_rows, near_columns] @ columns.T).astype(np.float32)


def _linear(pixels: np.ndarray, cells: int) -> tuple[np.ndarray, slice]:
    """Weights [pixels, cells] of linear interpolation between the centres of coarse cells, and
    which cells they are: those near consecutive pixels, as all others have no weight.
    """
    # Pixel i has its centre at i + 0.5, cell j at (j + 0.5) CELL.
    at = np.clip((pixels + 0.5) / CELL - 0.5, 0, cells - 1)
    near = slice(int(at[0]), math.ceil(at[-1]) + 1)
    return np.maximum(1 - np.abs(at[:, None] - np.arange(near.start, near.stop)), 0), near
