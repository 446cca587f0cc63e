"""The pixel floor: principal components of a study at low resolution, or of its patches.

Axes: N studies, V voxels, C components.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from jaxtyping import Float, Int

from mmv_jax.data.augment import BACKGROUND, normalise
from mmv_jax.data.crops import Geometry, Triple
from mmv_jax.data.resample import resample_axis
from mmv_jax.evaluate.kinds.features import principal_axes
from mmv_jax.evaluate.tasks.scenes import Scene
from mmv_jax.store.read import Store

COMPONENTS = 100
GRIDS: Mapping[int, Triple] = {2: (1, 64, 64), 3: (24, 24, 24)}


def read_low(
    store: Store, geometry: Geometry, study: int, grid: Triple, spacing_mm: float | None = None
) -> Float[np.ndarray, "gz gy gx"]:
    """A study on a small grid, in about [-1, 1].

    Without a spacing the whole study is stretched to the grid. With one, it is the box of that size
    around the study's centre.
    """
    voxels, spacing = geometry.voxels[study], geometry.spacing_mm[study]
    extent = voxels * spacing
    step = extent / grid if spacing_mm is None else np.full(3, spacing_mm)
    # mm from the study's corner; a box larger than the study starts below 0.
    start = (extent - step * grid) / 2
    z, y, x = (
        resample_axis(
            float(start[a]),
            float(step[a]),
            count=grid[a],
            spacing_mm=float(spacing[a]),
            voxels=int(voxels[a]),
        )
        for a in range(3)
    )
    # Only the voxels that the three resampled axes reach are read.
    box = store.read_box(study, (z.first, y.first, x.first), (z.read, y.read, x.read))
    for axis, resample in enumerate((z, y, x)):
        # Resampling is separable. tensordot puts the new axis first; moveaxis puts it back.
        box = np.moveaxis(np.tensordot(resample.weights.toarray(), box, axes=(1, axis)), 0, axis)
    line = store.index.iloc[study]
    # A box may extend beyond the study; there it is filled with background.
    inside = z.inside[:, None, None] & y.inside[:, None] & x.inside
    return np.where(
        inside, normalise(box, line["unit"], line["low"], line["high"]), np.float32(BACKGROUND)
    )


def pixel_vectors(
    store: Store,
    geometry: Geometry,
    studies: Int[np.ndarray, " N"],
    grid: Triple | None = None,
    spacing_mm: float | None = None,
) -> Float[np.ndarray, "N V"]:
    """The low-resolution voxels of studies, all planar or all volumetric."""
    chosen: Triple = (
        (grid[0], grid[1], grid[2]) if grid else GRIDS[2 if geometry.planar[studies[0]] else 3]
    )
    return np.stack(
        [
            read_low(store, geometry, study=study, grid=chosen, spacing_mm=spacing_mm).ravel()
            for study in studies.tolist()
        ]
    )


def principal(
    x: Float[np.ndarray, "N V"], fitted_on: np.ndarray, components: int = COMPONENTS
) -> Float[np.ndarray, "N C"]:
    """Scores of all rows on the leading principal components of the chosen rows.

    Labels are not read.
    """
    mean = x[fitted_on].mean(axis=0)
    axes, _ = principal_axes(x[fitted_on] - mean[None], components)
    return ((x - mean[None]) @ axes).astype(np.float32)


def principal_scenes(
    scenes: list[Scene], fitted_on: np.ndarray, components: int = COMPONENTS
) -> list[Scene]:
    """The same scenes, with principal components of their patches' voxels as tokens.

    The components are fitted on the patches of the chosen scenes.
    """
    lengths = np.array([len(scene.tokens) for scene in scenes])
    low = principal(
        np.concatenate([scene.tokens for scene in scenes]),
        # A flag a scene becomes a flag a patch.
        np.repeat(fitted_on, lengths),
        components,
    )
    return [
        replace(s, tokens=part) for part, s in zip(np.split(low, np.cumsum(lengths)[:-1]), scenes)
    ]
