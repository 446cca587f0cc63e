"""A store with as many lines as MIMIC-CXR and CT-RATE train on, in their sizes, for timing.

Few studies are written. The lines of the index share their blocks: every read is a real read of
real blocks, but all of them stay in the system's cache.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mmv_jax.store.layout import FORMAT, STORE_JSON, open_root
from mmv_jax.store.read import Store
from mmv_jax.store.write import PartWriter
from mmv_jax.study import Study

Grid = tuple[int, int, int]  # z, y, x
CT_FIELD_MM, CT_SLICE_MM = 357.0, 1.2  # in plane: 512 pixels of 0.697 mm
FILM_MM = 0.139  # a pixel of a digital radiograph of 43 cm


@dataclass(frozen=True)
class Collection:
    """Studies of one kind.

    Attributes:
      studies, patients: of its training split.
      grids: the share of its studies that has each grid.
    """

    modality: str
    studies: int
    patients: int
    grids: Mapping[Grid, float]

    @property
    def ndim(self) -> int:
        return 3 if self.modality == "CT" else 2


# MIMIC-CXR: 368,960 of 377,110 images are in the split `train`; an image of a digital detector has
# 3,056 x 2,544 pixels, upright or across (Johnson et al., arXiv 1901.07042). CT-RATE: 47,149 of
# 50,188 volumes; 14.3 million slices, so 285 a volume; 512, 768 or 1,024 pixels a side (Hamamci et
# al., arXiv 2403.17834).
PUBLISHED = (
    Collection("CXR", 368_960, 64_586, {(1, 3056, 2544): 0.5, (1, 2544, 3056): 0.5}),
    Collection(
        "CT",
        47_149,
        20_000,
        {(285, 512, 512): 0.654, (285, 768, 768): 0.042, (285, 1024, 1024): 0.304},
    ),
)


def write_published(folder: Path, collections: Sequence[Collection] = PUBLISHED) -> Store:
    """Write one study of each grid, and open them as a store with a line for every study."""
    root = open_root(folder)
    for n, collection in enumerate(collections):
        part = PartWriter(root, f"part-{n:05d}-{collection.ndim}d", collection.ndim)
        for grid in collection.grids:
            part.add(_study(grid, collection.ndim), {}, _known(collection.modality))
        part.close()
    about = b'{"format": %d, "key_fingerprint": "0", "manifests": []}' % FORMAT
    root.write(STORE_JSON, about).result()
    written = Store.open(folder)
    return Store(written.path, _lines(written.index, collections), written.key_fingerprint)


def thinned(store: Store, every: int) -> Store:
    """The store with one of `every` lines: as many of each grid, by their share."""
    index = store.index.iloc[::every].reset_index(drop=True)
    return Store(store.path, index, store.key_fingerprint)


def body(grid: Grid) -> np.ndarray:
    """An ellipsoid in air with the noise of a CT, in HU."""
    z, y, x = np.meshgrid(
        *[np.linspace(-1, 1, n, dtype=np.float32) for n in grid], indexing="ij", sparse=True
    )
    # One plane of noise, moved for each z: drawing a volume takes longer, and a plane repeated
    # would compress too well.
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 20, grid[1:]).astype(np.int16)
    out = np.empty(grid, np.int16)
    for at in range(grid[0]):  # a plane at a time: the largest volume has 300 million voxels
        inside = (0.4 * z[at] ** 2 + 1.8 * y[0] ** 2 + 1.2 * x[0] ** 2) < 1
        tissue = 40 * np.cos(9 * x[0]) + 60 * np.sin(7 * y[0] + 5 * z[at])
        moved = np.roll(noise, rng.integers(0, grid[1:]).tolist(), (0, 1))
        out[at] = np.where(inside, tissue, -1000).astype(np.int16) + moved
    return out


def film(grid: Grid) -> np.ndarray:
    """A bright chest of 12 bits with the noise of a detector, on a dark ground."""
    y, x = (np.linspace(-1, 1, n, dtype=np.float32) for n in grid[1:])
    inside = (y[:, None] ** 2 + x[None] ** 2) < 1
    smooth = 2000 + 900 * np.cos(5 * x)[None] * np.sin(4 * y)[:, None]
    noise = np.random.default_rng(0).normal(0, 12, grid[1:])
    return (np.where(inside, smooth, 200) + noise).astype(np.int16)[None]


def _study(grid: Grid, ndim: int) -> Study:
    if ndim == 3:
        pixel = CT_FIELD_MM / grid[2]
        return Study(body(grid), (CT_SLICE_MM, pixel, pixel), 3, "HU")
    return Study(film(grid), (1.0, FILM_MM, FILM_MM), 2, "raw")


def _known(modality: str) -> dict[str, object]:
    """The columns of a line that do not come from voxels; `_lines` names studies and patients."""
    return {
        "study": "0" * 16,
        "patient": "0" * 16,
        "line": 2,
        "manifest": 1,
        "split": "train",
        "modality": modality,
    }


def _lines(written: pd.DataFrame, collections: Sequence[Collection]) -> pd.DataFrame:
    """The index with a line for every study, each a copy of one that was written."""
    rng, first = np.random.default_rng(0), 0
    chosen, patients = list[np.ndarray](), list[np.ndarray]()
    for collection in collections:
        kinds, shares = len(collection.grids), np.array(list(collection.grids.values()))
        chosen.append(first + rng.choice(kinds, collection.studies, p=shares / shares.sum()))
        patients.append(np.arange(collection.studies) % collection.patients + first * 10**6)
        first += kinds
    index = written.iloc[np.concatenate(chosen)].reset_index(drop=True)
    index["study"] = [f"{n:016x}" for n in range(len(index))]
    index["patient"] = [f"{n:016x}" for n in np.concatenate(patients).tolist()]
    return index
