import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmv_jax.bac.tiles import Blend, Tile, TileShape, pack, tile_starts, tiles_of
from mmv_jax.bac.view import ViewFrame
from mmv_jax.errors import UserError
from mmv_jax.models.kinds import CLS, PATCH

SHAPE = TileShape(tile=32, overlap=8, per_row=3, patch=(1, 8, 8), registers=1)


def everywhere(shape: tuple[int, int]) -> ViewFrame:
    """A frame all of which is breast."""
    cells = (-(-shape[0] // 16), -(-shape[1] // 16))
    return ViewFrame(1, shape, np.ones(cells, bool), np.zeros(cells, np.float32), 1.0)


@given(st.integers(1, 900), st.integers(2, 128), st.data())
def test_tiles_reach_every_pixel_and_overlap_enough(length, tile, data):
    overlap = data.draw(st.integers(0, tile - 1))
    starts = tile_starts(length, tile, overlap)
    assert starts[0] == 0
    if length <= tile:
        assert starts == [0]
        return
    assert starts[-1] == length - tile
    assert all(0 < b - a <= tile - overlap for a, b in zip(starts, starts[1:]))


@settings(max_examples=20)
@given(st.integers(5, 120), st.integers(5, 120), st.integers(0, 2**32 - 1))
def test_tiles_laid_together_again_are_the_view(height, width, seed):
    values = np.random.default_rng(seed).normal(size=(height, width)).astype(np.float32)
    frame = everywhere(values.shape)
    blend = Blend(values.shape, SHAPE)
    for tile in tiles_of(values, frame, (0.1, 0.1), SHAPE):
        blend.add(tile.start, tile.image)
    np.testing.assert_allclose(blend.mean(), np.arcsinh(values), rtol=1e-4, atol=1e-5)


def test_without_overlap_each_pixel_lies_in_one_tile():
    shape = TileShape(tile=32, overlap=0, per_row=1, patch=(1, 8, 8), registers=0)
    seen = np.zeros((96, 64), int)
    for tile in tiles_of(
        np.ones(seen.shape, np.float32), everywhere(seen.shape), (0.1, 0.1), shape
    ):
        seen[tile.start[0] : tile.start[0] + 32, tile.start[1] : tile.start[1] + 32] += 1
    assert (seen == 1).all()


def test_where_tiles_overlap_the_one_that_sees_more_of_the_neighbourhood_counts_more():
    blend = Blend((32, 56), SHAPE)
    blend.add((0, 0), np.zeros((32, 32), np.float32))
    blend.add((0, 24), np.ones((32, 32), np.float32))
    across = blend.mean()[16]
    assert (np.diff(across) >= 0).all()
    assert across[24] < 0.1
    assert across[31] > 0.9
    assert across[:24].max() == 0
    assert across[32:].min() == 1


def test_tiles_of_air_are_dropped():
    frame = everywhere((64, 256))
    frame.breast[:, 4:] = False
    starts = {
        tile.start for tile in tiles_of(np.ones((64, 256), np.float32), frame, (0.1, 0.1), SHAPE)
    }
    assert starts
    assert all(x < 64 for _, x in starts)


def test_a_packed_token_holds_the_pixels_of_its_patch_and_stands_where_they_are():
    rng = np.random.default_rng(0)
    breast = np.zeros((32, 32), bool)
    breast[:16, 8:] = True
    tiles = [
        Tile(rng.normal(size=(32, 32)).astype(np.float32), breast, (40 * n, 7), (0.1, 0.2))
        for n in range(4)
    ]
    batch = pack(tiles, SHAPE, 2)
    for n, tile in enumerate(tiles):
        b, s = divmod(n, 3)
        for k, token in enumerate(batch["places"][b, s]):
            row, column = divmod(k, 4)
            if row >= 2 or column == 0:
                assert token == -1
                continue
            assert batch["kinds"][b, token] == PATCH
            assert batch["segment_ids"][b, token] == s + 1
            np.testing.assert_array_equal(
                batch["patches"][b, token].reshape(8, 8),
                tile.image[8 * row : 8 * row + 8, 8 * column : 8 * column + 8],
            )
            centre = [
                0,
                0.1 * (tile.start[0] + 8 * row + 4),
                0.2 * (tile.start[1] + 8 * column + 4),
            ]
            np.testing.assert_allclose(batch["coords_mm"][b, token], centre, rtol=1e-6)
    assert (batch["kinds"] == CLS).sum() == 4
    assert (batch["places"] >= 0).sum() == 4 * 6
    assert (batch["segment_ids"] > 0).sum() == 4 * (6 + 2)


def test_more_tiles_than_places_are_a_broken_promise():
    tile = Tile(np.zeros((32, 32), np.float32), np.ones((32, 32), bool), (0, 0), (0.1, 0.1))
    with pytest.raises(ValueError, match="do not fit"):
        pack([tile] * 4, SHAPE, 1)


@pytest.mark.parametrize("wrong", [{"tile": 30}, {"overlap": 32}, {"overlap": -1}])
def test_tiles_that_do_not_suit_the_patch_are_refused(wrong):
    with pytest.raises(UserError, match="config.tiles"):
        TileShape(
            **{"tile": 32, "overlap": 8, "per_row": 1, "patch": (1, 8, 8), "registers": 0, **wrong}
        )
