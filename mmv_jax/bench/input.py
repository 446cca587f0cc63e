"""Crops from the block store, against nibabel on a .nii.gz, and from coarser levels.

Both read the same boxes; that their voxels agree is checked.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np

from mmv_jax.bench.run import case, in_turn
from mmv_jax.data.crops import DRAWS, Geometry, View, draw_crops
from mmv_jax.data.resample import read_crop
from mmv_jax.store.layout import FORMAT, STORE_JSON, open_root
from mmv_jax.store.read import Store
from mmv_jax.store.write import PartWriter
from mmv_jax.study import Study

GRID = (200, 512, 512)  # z, y, x
CROP = (64, 128, 128)
CROPS_A_TURN = 8  # from the store; only one from nibabel, which is much slower
PATCH = (8, 16, 16)
VIEWS = [  # of a CT in experiments/vitl_pod.py
    View(name="global", count=2, grid=(64, 160, 160), scale=(0.32, 1.0), is_global=True),
    View(name="local", count=8, grid=(32, 64, 64), scale=(0.05, 0.32), is_global=False),
]


def bench_input(
    grid: tuple[int, int, int] = GRID, crop: tuple[int, int, int] = CROP, turns: int = 5
) -> dict:
    """Seconds a crop at random places of one int16 volume, and seconds of all crops of its views.

    The files are in the system's cache.

    Returns:
      `{"bench": "input", "cases": [...], "notes": [...]}`; cases as `mmv bench --json` prints them.
    """
    with tempfile.TemporaryDirectory() as folder:
        voxels = body(grid)
        path, store = Path(folder) / "volume.nii.gz", write_store(Path(folder) / "store", voxels)
        # NIfTI's order is x, y, z.
        nibabel.save(nibabel.Nifti1Image(voxels.transpose(), np.eye(4)), path)
        readers = {
            "ours": lambda start: store.read_box(0, start, crop),
            "nibabel": lambda start: read_nibabel(path, start, crop),
        }
        # Starts at which the crop lies inside; integers() excludes its upper end.
        room = np.array([size - side + 1 for size, side in zip(grid, crop, strict=True)])
        place = np.random.default_rng(1).integers(0, room)
        # Check first that both read the same voxels: otherwise their speeds mean nothing.
        np.testing.assert_array_equal(readers["ours"](place), readers["nibabel"](place))
        median = in_turn(
            {
                name: _timed(read, room, CROPS_A_TURN if name == "ours" else 1)
                for name, read in readers.items()
            },
            turns,
        )
        size = ", ".join(
            f"{what} {_bytes(where) / 2**20:.0f} MiB"
            for what, where in (("store", Path(folder) / "store"), ("nii.gz", path))
        )
        # The same files without the pyramid in the index, so full resolution is read.
        alone = Store(
            store.path,
            store.index.drop(columns=["level_factors", "level_blocks"]),
            store.key_fingerprint,
        )
        views = in_turn({"levels": _views_of(store), "alone": _views_of(alone)}, turns)
    of_volume = f"of a volume of {' x '.join(map(str, grid))}"
    cases = [
        case(
            f"a crop of {' x '.join(map(str, crop))} voxels {of_volume}",
            median["ours"],
            median["nibabel"],
            "nibabel, .nii.gz",
        ),
        case(
            f"the {sum(view.count for view in VIEWS)} crops of an epoch {of_volume}",
            views["levels"],
            views["alone"],
            "without its coarser levels",
        ),
    ]
    return {"bench": "input", "cases": cases, "notes": [f"On disk: {size}."]}


def body(grid: tuple[int, int, int]) -> np.ndarray:
    """An ellipsoid in air with the noise of a CT, in HU; it compresses like a scan."""
    z, y, x = np.meshgrid(
        *[np.linspace(-1, 1, n, dtype=np.float32) for n in grid], indexing="ij", sparse=True
    )
    inside = (0.4 * z * z + 1.8 * y * y + 1.2 * x * x) < 1
    # One plane of noise for all z saves drawing a volume.
    noise = np.random.default_rng(0).normal(0, 20, grid[1:]).astype(np.int16)
    return (
        np.where(inside, 40 * np.cos(9 * x) + 60 * np.sin(7 * y + 5 * z), -1000).astype(np.int16)
        + np.roll(noise, 7, 0)[None] * inside
    )


def write_store(folder: Path, voxels: np.ndarray) -> Store:
    """Write a store of one volume as `mmv ingest` does."""
    root = open_root(folder)
    part = PartWriter(root, "part-00000-3d", 3)
    known = {
        "study": "0" * 16,
        "patient": "0" * 16,
        "line": 2,
        "manifest": 1,
        "split": "train",
        "modality": "CT",
    }
    part.add(Study(voxels, (1.0, 0.7, 0.7), 3, "HU"), {}, known)
    part.close()
    root.write(
        STORE_JSON, b'{"format": %d, "key_fingerprint": "0", "manifests": []}' % FORMAT
    ).result()
    return Store.open(folder)


def read_nibabel(path: Path, start: np.ndarray, crop: tuple[int, int, int]) -> np.ndarray:
    """The box as nibabel reads it from a compressed file.

    It has to inflate everything before the end of the box.
    """
    # Ours is z, y, x and NIfTI x, y, z: reversed on the way in, transposed on the way out.
    box = tuple(
        slice(low, low + size)
        for low, size in zip(reversed(start.tolist()), reversed(crop), strict=True)
    )
    return np.asarray(nibabel.load(path).dataobj[box], np.float32).transpose()  # type: ignore[attr-defined]


def _timed(read: Callable, room: np.ndarray, crops: int) -> Callable[[], float]:
    # Outside `run`, so that every turn reads other places.
    rng = np.random.default_rng(2)

    def run() -> float:
        places = rng.integers(0, room, (crops, 3))
        start = time.perf_counter()
        for place in places:
            read(place)
        return (time.perf_counter() - start) / crops

    return run


def _views_of(store: Store) -> Callable[[], float]:
    # One seed for both stores: they read the same crops.
    geometry, rng = Geometry.of(store.index), np.random.default_rng(3)

    def run() -> float:
        crops = draw_crops(
            geometry, {3: VIEWS}, PATCH, rng.random((1, sum(view.count for view in VIEWS), DRAWS))
        )
        start = time.perf_counter()
        # Drawing the crops is the same for both and is not timed.
        for crop in range(crops.tokens.shape[1]):
            read_crop(store, geometry, 0, crops[0, crop])
        return time.perf_counter() - start

    return run


def _bytes(path: Path) -> int:
    return (
        sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        if path.is_dir()
        else path.stat().st_size
    )
