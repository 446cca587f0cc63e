"""What goes into a store comes out of it, or an error does."""

import copy
import os
import pickle
import subprocess
import sys
import tempfile
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted import store_of, study_of

from mmv_jax.errors import UserError
from mmv_jax.store.index import Corrupt
from mmv_jax.store.layout import block_counts, cell_edges
from mmv_jax.store.read import Store

DTYPES = (
    np.bool_,
    np.int8,
    np.uint8,
    np.int16,
    np.uint16,
    np.int32,
    np.uint32,
    np.float32,
    np.float64,
)
GRIDS = st.one_of(
    st.tuples(st.just(1), st.integers(1, 300), st.integers(1, 300)),
    st.tuples(st.integers(2, 70), st.integers(1, 130), st.integers(1, 130)),
)


@st.composite
def studies_and_boxes(draw):
    grid = draw(GRIDS)
    start = tuple(draw(st.integers(0, n - 1)) for n in grid)
    return grid, start, tuple(draw(st.integers(1, n - s)) for n, s in zip(grid, start))


def voxels_of(grid: tuple, dtype: type, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if dtype == np.bool_:
        return rng.integers(0, 2, grid).astype(bool)
    if np.issubdtype(dtype, np.floating):
        return (rng.normal(-3.3, 1000, grid)).astype(dtype)
    info = np.iinfo(dtype)
    low = max(info.min, -40_000 if info.bits > 16 else info.min)
    return rng.integers(low, min(info.max, low + 65_535), grid, endpoint=True, dtype=dtype)


@given(studies_and_boxes(), st.sampled_from(DTYPES), st.integers(0, 2**32))
def test_any_box_equals_the_slice_of_the_source(case, dtype, seed):
    grid, start, shape = case
    box = tuple(slice(s, s + n) for s, n in zip(start, shape))
    voxels = voxels_of(grid, dtype, seed)
    mask = np.random.default_rng(seed).integers(0, 120, grid)
    with tempfile.TemporaryDirectory() as folder:
        before = study_of(voxels_of((grid[0], 5, 7), np.int16, 1))
        store = store_of(
            Path(folder), [before, study_of(voxels)], [{}, {"organ": mask, "other": mask + 1}]
        )
        values = store.read_box(1, start, shape)
        assert values.dtype == np.float32
        # Whole numbers of 16 bits' range are lossless. Other values are at most half a step of
        # 65,535 off; and four float32 roundings, of numbers as large as the range and its ends.
        off = 0.0
        if np.issubdtype(dtype, np.floating):
            width, largest = float(np.ptp(voxels)), float(np.abs(voxels).max())
            off = 0.5 * width / 65_535 + 4 * 2**-24 * (width + largest)
        np.testing.assert_allclose(values, voxels[box].astype(np.float64), rtol=0, atol=off)
        np.testing.assert_array_equal(store.read_box(1, start, shape, mask="other"), mask[box] + 1)
        np.testing.assert_array_equal(store.read_box(1, start, shape, mask="organ"), mask[box])


def test_whole_numbers_in_floats_are_lossless(tmp_path):
    voxels = np.random.default_rng(0).integers(-1024, 3072, (9, 30, 30)).astype(np.float64)
    np.testing.assert_array_equal(
        store_of(tmp_path, [study_of(voxels, "HU")]).read_study(0).voxels, voxels
    )


def test_a_study_comes_back_with_its_geometry(tmp_path):
    voxels = np.arange(60, dtype=np.uint8).reshape(3, 4, 5)
    study = store_of(tmp_path, [study_of(voxels, "HU")]).read_study(0)
    assert (study.spacing_mm, study.ndim, study.unit) == ((2.0, 0.75, 0.75), 3, "HU")
    np.testing.assert_array_equal(study.voxels, voxels)


@pytest.mark.parametrize(
    ("start", "shape"),
    [((-1, 0, 0), (1, 1, 1)), ((0, 0, 0), (4, 1, 1)), ((0, 0, 0), (1, 0, 1))],
    ids=["before", "beyond", "empty"],
)
def test_a_box_outside_of_the_study_is_an_error(tmp_path, start, shape):
    store = store_of(tmp_path, [study_of(np.arange(60).reshape(3, 4, 5))])
    with pytest.raises(ValueError, match="leaves study 0"):
        store.read_box(0, start, shape)


def test_an_unknown_mask_is_an_error(tmp_path):
    store = store_of(
        tmp_path, [study_of(np.arange(60).reshape(3, 4, 5))], [{"organ": np.ones((3, 4, 5), int)}]
    )
    with pytest.raises(ValueError, match="it has: organ"):
        store.read_box(0, (0, 0, 0), (1, 1, 1), mask="lesion")


def array_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("c/*/*/*/*"))


def test_every_flipped_bit_of_the_arrays_is_noticed(tmp_path):
    rng = np.random.default_rng(0)
    # Smooth and constant parts as well: a bit flipped in a run of zeros must be noticed too.
    voxels = np.where(
        np.arange(70)[:, None, None] < 30, 0, rng.integers(-1000, 1000, (70, 100, 100))
    ).astype(np.int16)
    store_of(
        tmp_path,
        [study_of(voxels), study_of(voxels[:1])],
        [{"organ": (voxels > 0).astype(int)}, {}],
    )
    noticed = 0
    for _ in range(40):
        file = array_files(tmp_path)[rng.integers(len(array_files(tmp_path)))]
        whole = file.read_bytes()
        flipped = bytearray(whole)
        flipped[rng.integers(len(whole))] ^= 1 << rng.integers(8)
        file.write_bytes(flipped)
        store = Store.open(tmp_path)
        noticed += not all(store.is_whole(i) for i in range(len(store)))
        file.write_bytes(whole)
    assert noticed == 40
    assert all(Store.open(tmp_path).is_whole(i) for i in range(2))


@pytest.mark.parametrize("damage", ["delete", "truncate", "zarr.json"])
def test_a_missing_shard_is_an_error_and_not_zeros(tmp_path, damage):
    store_of(tmp_path, [study_of(np.arange(60).reshape(3, 4, 5))])
    file = array_files(tmp_path)[0]
    if damage == "truncate":
        file.write_bytes(file.read_bytes()[:-20])
    elif damage == "delete":
        file.unlink()
    else:
        next(tmp_path.rglob("zarr.json")).unlink()
    with pytest.raises(Corrupt, match="0000000000000000 .* damaged or gone"):
        Store.open(tmp_path).read_box(0, (0, 0, 0), (1, 1, 1))


def test_a_box_touches_only_its_blocks(tmp_path):
    voxels = np.random.default_rng(0).integers(-1000, 1000, (64, 128, 128)).astype(np.int16)
    store_of(tmp_path, [study_of(voxels)])
    [shard] = array_files(tmp_path)
    # The eight blocks lie in the shard in the order in which they were written; all but the last
    # are destroyed.
    content = bytearray(shard.read_bytes())
    entries = np.frombuffer(content[-(128 * 16 + 4) : -4], "<u8").reshape(128, 2)[:8]
    for offset, size in entries[:-1]:
        content[offset : offset + size] = bytes(size)
    shard.write_bytes(content)
    store = Store.open(tmp_path)
    np.testing.assert_array_equal(
        store.read_box(0, (32, 64, 64), (32, 64, 64)), voxels[32:, 64:, 64:]
    )
    with pytest.raises(Corrupt):
        store.read_box(0, (31, 64, 64), (2, 1, 1))


def read_first(store: Store, i: int) -> float:
    return float(store.read_box(i, (0, 0, 0), (1, 1, 1))[0, 0, 0])


def test_a_store_travels_to_other_processes(tmp_path):
    store = store_of(
        tmp_path,
        [
            study_of(np.arange(60).reshape(3, 4, 5) + 7),
            study_of(np.arange(20).reshape(1, 4, 5) + 9),
        ],
    )
    assert (
        read_first(copy.deepcopy(store), 0) == read_first(pickle.loads(pickle.dumps(store)), 0) == 7
    )
    with get_context("spawn").Pool(1) as pool:
        assert pool.starmap(read_first, [(store, 0), (store, 1)]) == [7, 9]


def test_a_part_without_an_index_was_never_there(tmp_path):
    store_of(
        tmp_path,
        [study_of(np.arange(60).reshape(3, 4, 5)), study_of(np.arange(20).reshape(1, 4, 5))],
    )
    next(tmp_path.glob("parts/part-2d/index-*.parquet")).unlink()
    assert Store.open(tmp_path).index["ndim"].tolist() == [3]


def test_every_flipped_bit_of_an_index_is_noticed(tmp_path):
    store_of(tmp_path, [study_of(np.arange(60).reshape(3, 4, 5)) for _ in range(50)])
    [file] = tmp_path.rglob("index-*.parquet")
    whole, rng = file.read_bytes(), np.random.default_rng(0)
    for _ in range(40):
        content = bytearray(whole)
        content[rng.integers(len(whole))] ^= 1 << rng.integers(8)
        file.write_bytes(content)
        with pytest.raises(Corrupt, match="index of part part-3d is damaged"):
            Store.open(tmp_path)


def test_opening_what_is_no_store_says_how_to_make_one(tmp_path):
    with pytest.raises(UserError, match="mmv ingest MANIFEST"):
        Store.open(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_a_store_of_another_format_is_refused(tmp_path):
    store_of(tmp_path, [study_of(np.arange(60).reshape(3, 4, 5))])
    (tmp_path / "store.json").write_text('{"format": 99, "key_fingerprint": "", "manifests": []}')
    with pytest.raises(UserError, match="format 99"):
        Store.open(tmp_path)


@given(st.integers(1, 700), st.sampled_from([8, 16]))
def test_every_voxel_is_in_exactly_one_cell(voxels, cells):
    edges = cell_edges(voxels, cells)
    assert len(edges) == cells + 1
    assert [v for a, b in zip(edges, edges[1:]) for v in range(a, b)] == list(range(voxels))
    assert max(np.diff(edges)) - min(np.diff(edges)) <= 1


@given(st.tuples(*[st.integers(1, 200)] * 3), st.tuples(*[st.integers(1, 64)] * 3))
def test_blocks_cover_the_grid_and_no_more(grid, block):
    counts = block_counts(grid, block)
    assert all((c - 1) * b < n <= c * b for n, b, c in zip(grid, block, counts))


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux only")
def test_reading_a_crop_does_not_read_the_volume(tmp_path):
    # 40 MiB
    store_of(
        tmp_path,
        [study_of(np.random.default_rng(0).integers(-1000, 1000, (80, 512, 512)).astype(np.int16))],
    )
    program = (
        "import resource, sys; from mmv_jax.store.read import Store; store ="
        " Store.open(sys.argv[1]); store.index\npeak = lambda:"
        " resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\nstore.read_box(0, (0, 0, 0), (1, 1,"
        " 1)); before = peak(); store.read_box(0, (10, 100, 100), (32, 128, 128)); print(peak() -"
        " before)"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    ran = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        capture_output=True,
        check=True,
        text=True,
        env=environment,
    )
    # 18 blocks of 256 KiB, in int16 and then in float32, with what TensorStore holds meanwhile
    assert int(ran.stdout) < 20 << 10
