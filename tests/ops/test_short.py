"""Short segments one by one: the same attention as in blocks, and no segment is cut off."""

from functools import partial

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmv_jax.config import load_config
from mmv_jax.ops.attention import segment_attention
from mmv_jax.ops.short import LONGEST, forward, make_segments
from mmv_jax.train.flops import most_visible
from mmv_jax.train.loop import make_views, row_shape

HEADS, WIDTH = 2, 8


@partial(jax.jit, static_argnames=("longest", "backend"))
def with_gradients(q, k, v, ids, g, longest=None, backend="auto"):
    """The output and the gradients of q, k and v where the output's is `g`."""

    def run(*x):
        return segment_attention(*x, ids, backend=backend, longest=longest)

    out, pull = jax.vjp(run, q, k, v)
    return out, *pull(g)


def draw(rows, length, dtype=np.float32):
    rng = np.random.default_rng(0)
    return tuple(rng.normal(size=(rows, length, HEADS, WIDTH)).astype(dtype) for _ in range(4))


def row_of(lengths, total):
    ids = np.repeat(np.arange(1, len(lengths) + 1), lengths)
    return np.pad(ids, (0, total - len(ids))).astype(np.int32)


@st.composite
def layouts(draw_from):
    """Ids [3, 90] of segments of at most 20 tokens, with padding between them too."""
    ids = np.zeros((3, 90), np.int32)
    for row in ids:
        start, name = 0, 0
        while start < len(row):
            name += 1
            size = draw_from(st.integers(1, 20))
            row[start : start + size] = name
            start += size + draw_from(st.sampled_from([0, 0, 0, 7, 90]))
    return ids


@given(layouts())
def test_any_short_segments_have_the_attention_of_the_definition(ids):
    q, k, v, g = draw(*ids.shape)
    found = with_gradients(q, k, v, ids, g, longest=20)
    expected = with_gradients(q, k, v, ids, g, backend="dense")
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=5e-6)


# More segments than are worked on at once, and none at all.
@pytest.mark.parametrize("lengths", [[1] * 300, [3] * 70 + [90], []])
def test_many_segments_and_none(lengths):
    ids = np.stack([row_of(lengths, 300), row_of([], 300)])
    q, k, v, g = draw(*ids.shape)
    found = with_gradients(q, k, v, ids, g, longest=90)
    expected = with_gradients(q, k, v, ids, g, backend="dense")
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=5e-6)
    assert int(jax.jit(make_segments)(ids).real) == len(lengths)


def test_bfloat16_is_as_good_as_its_eight_bits():
    ids = row_of([30, 20, 7], 64)[None]
    q, k, v, g = draw(1, 64, jax.numpy.bfloat16)
    exact = [x.astype(np.float32) for x in (q, k, v)]
    expected = with_gradients(*exact, ids, g.astype(np.float32), backend="dense")
    for ours, theirs in zip(with_gradients(q, k, v, ids, g, longest=30), expected, strict=True):
        assert ours.dtype == jax.numpy.bfloat16
        np.testing.assert_allclose(np.asarray(ours, np.float32), theirs, atol=0.03)


def test_a_segment_longer_than_was_promised_is_not_cut_off_in_silence():
    ids = row_of([5, 11], 20)[None]
    q, k, v, g = draw(1, 20)
    assert all(np.isnan(x).all() for x in with_gradients(q, k, v, ids, g, longest=10))
    assert not any(np.isnan(x).any() for x in with_gradients(q, k, v, ids, g, longest=11))


def test_long_segments_go_in_blocks():
    ids = row_of([LONGEST + 1], 192)[None]
    q, k, v, g = draw(1, 192)
    # The promise of fewer is not read where blocks are faster.
    found = with_gradients(q, k, v, ids, g, longest=LONGEST + 1)
    for ours, theirs in zip(found, with_gradients(q, k, v, ids, g), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert np.isnan(jax.jit(partial(forward, longest=LONGEST))(q, k, v, ids)[0]).all()


@pytest.mark.parametrize(
    "name, longest", [("chest_best", 32 + 2), ("chest_small", 16 + 2), ("vitb_mimic_ctrate", None)]
)
def test_the_longest_visible_segment_follows_from_the_grids(name, longest):
    config = load_config(name)
    assert most_visible(row_shape(config), make_views(config.crops)) == longest
