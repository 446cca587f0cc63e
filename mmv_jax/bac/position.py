"""Where in a breast a patch lies: what an auxiliary task has the tokens tell, so that the model
knows where calcium of arteries cannot be (along the skin, at a border).

Axes: r c coarse cells of a view, K patches of a tile.
"""

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from mmv_jax.bac.view import CELL

REACH_MM = 30.0  # distances beyond are the same to an artery


def distances(
    breast: Bool[np.ndarray, "r c"], pixel_mm: tuple[float, float]
) -> Float[np.ndarray, "r c 2"]:
    """Of each coarse cell the distance from the skin and from the image's border, 0 to 1 at
    `REACH_MM`. Neither depends on how a tile is turned.

    Args:
      pixel_mm: of the working grid.
    """
    cell_mm = [CELL * mm for mm in pixel_mm]
    # The breast goes on beyond the image: only air within it makes skin.
    wide = np.pad(breast, 1, mode="edge")
    if wide.all():
        skin = np.full(breast.shape, np.inf)
    else:
        skin = ndimage.distance_transform_edt(wide, cell_mm)[1:-1, 1:-1]
    rows, columns = (
        (np.minimum(np.arange(n), np.arange(n)[::-1]) + 0.5) * mm
        for n, mm in zip(breast.shape, cell_mm)
    )
    border = np.minimum(rows[:, None], columns[None])
    return np.minimum(np.stack([skin, border], axis=-1) / REACH_MM, 1.0).astype(np.float32)


def of_patches(
    places: Float[np.ndarray, "r c 2"],
    start: tuple[int, int],
    grid: tuple[int, int],
    patch: tuple[int, int],
) -> Float[np.ndarray, "down across 2"]:
    """The distances of the patches of a tile that starts at a pixel of the working grid."""
    rows, columns = (
        # The cell of a patch's middle; a tile that was filled up reaches beyond the last one.
        np.minimum((s + (np.arange(n) + 0.5) * p).astype(int) // CELL, cells - 1)
        for s, n, p, cells in zip(start, grid, patch, places.shape)
    )
    return places[np.ix_(rows, columns)]
