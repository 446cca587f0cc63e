"""The pectoral muscle on an oblique (MLO) view.

It lies in the upper corner at the chest wall, and its edge is nearly a straight line from
the upper border down to the chest wall. It is found as the line across which brightness falls most
(Karssemeijer, Phys Med Biol 43:365, 1998: a Hough transform over such lines).

Axes: r c coarse cells of a view's working grid (`view.CELL`).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

# Where the edge may meet the upper border and the chest wall, in mm from the corner.
ACROSS_MM, DOWN_MM = (12.0, 90.0), (40.0, 200.0)
STEP_MM = 1.5
# Brightness is compared this far on both sides of a line. A fold of skin is narrower.
BESIDE_MM = 3.0
# Least mean fall across the edge, in standard deviations of the fall along it.
FALL = 1.0


@dataclass(frozen=True)
class Edge:
    """The muscle's edge: a line from the upper border to the chest wall. Lengths in mm.

    Attributes:
      across: where it meets the first row of the breast, from the chest wall.
      down: where it meets the chest wall, from that row.
      top: the first row of the breast.
      mirrored: whether the chest wall is at the last column, not the first.
    """

    across: float
    down: float
    top: float
    mirrored: bool

    def muscle(
        self, shape: tuple[int, int], pixel_mm: tuple[float, float]
    ) -> Bool[np.ndarray, "Y X"]:
        """True on the muscle's side of the edge, on a grid of pixels."""
        y, x = ((np.arange(n) + 0.5) * mm for n, mm in zip(shape, pixel_mm))
        inside = x[None] / self.across + (y[:, None] - self.top) / self.down < 1
        return inside[:, ::-1] if self.mirrored else inside


def muscle_edge(
    coarse: Float[np.ndarray, "r c"],
    breast: Bool[np.ndarray, "r c"],
    cell_mm: tuple[float, float],
) -> Edge | None:
    """The edge on an MLO view; None where brightness falls clearly across no line.

    Args:
      coarse: mean brightness of the cells.
      breast: as of `ViewFrame`, the muscle included.
      cell_mm: (r, c).
    """
    # Mirrored so that the chest wall is column 0: there the breast touches the border most.
    mirrored = int(breast[:, -1].sum()) > int(breast[:, 0].sum())
    shown, tissue = (x[:, ::-1] if mirrored else x for x in (coarse, breast))
    # Films may begin with light or a border: the corner is the first row that shows tissue there.
    rows = np.flatnonzero(tissue[:, : max(1, round(ACROSS_MM[0] / cell_mm[1]))].all(axis=1))
    if not len(rows):
        return None
    top = float(rows[0] * cell_mm[0])
    height, width = (n * mm for n, mm in zip(tissue.shape, cell_mm))
    across = np.arange(ACROSS_MM[0], min(ACROSS_MM[1], width), STEP_MM)
    down = np.arange(DOWN_MM[0], min(DOWN_MM[1], 0.95 * (height - top)), STEP_MM)
    lines = np.stack(np.meshgrid(across, down, indexing="ij"), axis=-1).reshape(-1, 2)
    if not len(lines):
        return None
    smooth = ndimage.gaussian_filter(shown.astype(np.float64), 0.7)
    scores = _falls(smooth, tissue, lines, top=top, cell_mm=cell_mm)
    best = int(np.argmax(scores))
    if not scores[best] >= FALL:
        return None
    return Edge(float(lines[best, 0]), float(lines[best, 1]), top=top, mirrored=mirrored)


def _falls(
    smooth: np.ndarray,
    breast: np.ndarray,
    lines: Float[np.ndarray, "L 2"],
    top: float,
    cell_mm: tuple[float, float],
) -> Float[np.ndarray, " L"]:
    """The mean fall of brightness across each line over its deviation along it; -inf where the line
    leaves the breast.
    """
    a, b = lines[:, :1], lines[:, 1:]
    share = np.linspace(0.05, 0.95, 48)
    # points (y, x) along the line, and the unit normal that points away from the corner
    y, x = top + b * share, a * (1 - share)
    length = np.hypot(a, b)
    normal = (a / length, b / length)
    sides = [
        _sampled(smooth, y + way * BESIDE_MM * normal[0], x + way * BESIDE_MM * normal[1], cell_mm)
        for way in (-1, 1)
    ]
    inside = _sampled(breast.astype(np.float64), y, x, cell_mm) >= 0.5
    fall = sides[0] - sides[1]
    score = fall.mean(axis=1) / (fall.std(axis=1) + 1e-9 + 0.02 * float(np.ptp(smooth)))
    return np.where(inside.mean(axis=1) > 0.8, score, -np.inf)


def _sampled(
    values: np.ndarray, y: np.ndarray, x: np.ndarray, cell_mm: tuple[float, float]
) -> np.ndarray:
    """Values at points in mm from the corner, linear between the cells' middles."""
    at = np.stack([y / cell_mm[0] - 0.5, x / cell_mm[1] - 0.5])
    return ndimage.map_coordinates(values, at, order=1, mode="nearest")
