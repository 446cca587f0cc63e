import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmv_jax.data.masked import block_mask, mask_shares

GRIDS = st.tuples(st.integers(1, 4), st.integers(1, 8), st.integers(1, 8))


@given(GRIDS, st.floats(0, 0.6), st.floats(0.1, 1), st.integers(0, 1000))
def test_exactly_the_share_of_the_kept_patches_is_masked(grid, share, density, seed):
    rng = np.random.default_rng(seed)
    kept = rng.random(grid) < density
    masked = block_mask(rng, kept, share)
    assert not (masked & ~kept).any()
    assert masked.sum() == int(share * kept.sum())


@pytest.mark.parametrize("grid", ((1, 14, 14), (6, 8, 8)), ids=("planar", "volumetric"))
def test_masked_patches_lie_together(grid):
    """Of the neighbours along x of a masked patch, more are masked than if each patch were drawn
    alone.
    """
    together = []
    for seed in range(100):
        mask = block_mask(np.random.default_rng(seed), np.ones(grid, bool), 0.3)
        together.append(mask[:, :, 1:][mask[:, :, :-1]].mean())
    assert np.mean(together) > 0.5


def test_every_patch_is_masked_about_as_often():
    masks = np.mean(
        [
            block_mask(np.random.default_rng(seed), np.ones((1, 8, 8), bool), 0.3)
            for seed in range(600)
        ],
        axis=0,
    )
    assert masks.min() > 0.15
    assert masks.max() < 0.45


@given(st.integers(1, 40), st.integers(0, 1000))
def test_half_of_the_crops_are_masked_by_shares_of_a_tenth_to_a_half(crops, seed):
    shares = mask_shares(np.random.default_rng(seed), crops)
    assert len(shares) == crops
    assert crops // 2 <= (shares > 0).sum() <= (crops + 1) // 2
    assert ((shares == 0) | ((shares >= 0.1) & (shares <= 0.5))).all()
