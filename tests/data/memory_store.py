"""A store in memory: what `mmv_jax.data` asks of a store, and nothing else."""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from mmv_jax.data.crops import View
from mmv_jax.data.pipeline import Rows
from mmv_jax.store.layout import CELLS, cell_edges, pack_occupancy

VIEWS = {
    2: [
        View("global", 2, (8, 64, 64), (0.4, 1.0), True),
        View("local", 2, (8, 32, 32), (0.05, 0.4), False),
    ],
    3: [
        View("global", 2, (16, 48, 48), (0.4, 1.0), True),
        View("local", 2, (8, 32, 32), (0.05, 0.4), False),
    ],
}
SHAPE = {"patch": (8, 16, 16), "registers": 2, "length": 256, "prefix": 192, "segments": 16}


@dataclass
class Memory:
    """Studies given as arrays; `occupied` as maps of cells, everything where it is left out."""

    voxels: list[np.ndarray]
    spacing_mm: list[tuple[float, float, float]]
    modality: list[str]
    unit: list[str]
    occupied: list[np.ndarray | None]
    split: list[str]
    masks: dict[int, np.ndarray] = field(default_factory=dict)

    def __post_init__(self):
        ndim = [2 if v.shape[0] == 1 else 3 for v in self.voxels]
        self.occupied = [
            np.ones(CELLS[n], bool) if o is None else _as_stored(o, v.shape)
            for n, o, v in zip(ndim, self.occupied, self.voxels)
        ]
        grids, spacings = np.array([v.shape for v in self.voxels]), np.array(self.spacing_mm, float)
        self.index = pd.DataFrame(
            {
                "study": [f"{i:016x}" for i in range(len(ndim))],
                "patient": [f"{i // 2:016x}" for i in range(len(ndim))],
                "split": self.split,
                "modality": self.modality,
                "ndim": ndim,
                "unit": self.unit,
                "grid_z": grids[:, 0],
                "grid_y": grids[:, 1],
                "grid_x": grids[:, 2],
                "spacing_z": spacings[:, 0],
                "spacing_y": spacings[:, 1],
                "spacing_x": spacings[:, 2],
                "low": [float(v.min()) for v in self.voxels],
                "high": [float(v.max()) for v in self.voxels],
                "occupancy": [pack_occupancy(c) for c in self.occupied],
            }
        )

    def levels(self, i):
        return np.empty((0, 3), np.int64)

    def read_box(self, i, start, shape, *, mask=None, level=0):
        voxels = self.voxels[i] if mask is None else self.masks[i]
        assert all(
            a >= 0 and n > 0 and a + n <= side for a, n, side in zip(start, shape, voxels.shape)
        ), "the box leaves the study"
        box = voxels[tuple(slice(a, a + n) for a, n in zip(start, shape))]
        return box.astype(np.float32) if mask is None else box.astype(np.int32)


def _as_stored(occupied: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A cell without a voxel carries what the cell of the voxel around it carries: the store's
    promise (store.layout.cell_edges).
    """
    for axis, (n, c) in enumerate(zip(shape, occupied.shape)):
        edges = cell_edges(n, c)
        occupied = occupied.take(
            np.searchsorted(edges, edges[:-1].clip(max=n - 1), side="right") - 1, axis
        )
    return occupied


def memory(
    studies: list[tuple],
    *,
    split: list[str] | None = None,
    masks: dict[int, np.ndarray] | None = None,
) -> Memory:
    """A store of (voxels, spacing_mm, modality, unit[, occupied])."""
    voxels, spacing, modality, unit, occupied = zip(*[(*study, None)[:5] for study in studies])
    return Memory(
        list(voxels),
        list(spacing),
        list(modality),
        list(unit),
        list(occupied),
        split or ["train"] * len(studies),
        masks or {},
    )


def random_studies(n: int, seed: int = 0) -> list[tuple]:
    """Planar and volumetric studies in turn, of many sizes and spacings, half of them with empty
    cells.
    """
    rng = np.random.default_rng(seed)
    studies = []
    for i in range(n):
        planar = i % 2 == 0
        side = rng.integers(20, 90, 3) * (1, 1, 1)
        shape = (1, *side[1:]) if planar else (int(rng.integers(3, 40)), *side[1:])
        spacing = (
            (np.nan, *[rng.uniform(0.5, 3)] * 2)
            if planar
            else (rng.uniform(1, 4), *[rng.uniform(0.5, 2)] * 2)
        )
        cells = rng.random(CELLS[2 if planar else 3]) < rng.choice([1.0, 0.6, 0.05])
        voxels = rng.normal(0, 300, shape).astype(np.float32)
        studies.append(
            (
                voxels,
                tuple(map(float, spacing)),
                "CXR" if planar else "CT",
                "raw" if planar else "HU",
                cells,
            )
        )
    return studies


def to_voxels(
    patches: np.ndarray, kept: np.ndarray, patch: tuple[int, int, int], fill: float
) -> np.ndarray:
    """The inverse of `to_patches`, [n, P] to [gz, gy, gx] (a planar crop is as deep as its patch);
    `fill` where no patch was kept.
    """
    tiles = np.full((*kept.shape, *patch), fill, np.float32)
    tiles[kept] = patches.reshape(-1, *patch)
    tz, ty, tx = kept.shape
    return tiles.transpose(0, 3, 1, 4, 2, 5).reshape(tz * patch[0], ty * patch[1], tx * patch[2])


STORE = memory(random_studies(40))
OPTIONS = SHAPE | {
    "views": VIEWS,
    "per_step": 4,
    "seed": 1,
    "visible_share": 0.25,
    "mask_tokens": True,
}


def make(store=STORE, **options):
    return Rows(store, **(OPTIONS | options))
