"""Rotary positions: products depend on differences of coordinates alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmv_jax.ops.rotary import apply_rotary, rotary_tables, rotate

places = st.tuples(*[st.floats(-40, 40, width=32)] * 3)


def vectors(seed, head_dim, tokens=4):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(1, tokens, 2, head_dim)).astype(np.float32)


@jax.jit
def products(q, k, coords):
    return jnp.einsum("blhk,bmhk->bhlm", rotate(q, coords), rotate(k, coords))


rotated = jax.jit(rotate, static_argnums=2)


@settings(max_examples=40)
@given(places, st.lists(places, min_size=4, max_size=4), st.sampled_from([12, 32, 64, 80]))
def test_products_depend_on_differences_of_coordinates_alone(shift, coords, head_dim):
    coords = np.array([coords], np.float32)
    q, k = vectors(0, head_dim), vectors(1, head_dim)
    moved = products(q, k, coords + np.array(shift, np.float32))
    # float32 knows an angle of 2π · 80 to 3e-5, in each of K products of about 1
    np.testing.assert_allclose(moved, products(q, k, coords), atol=2e-3 * head_dim**0.5)


def test_rotation_is_the_textbook_one():
    head_dim, base = 32, 100.0
    pairs = head_dim // 6
    x = vectors(2, head_dim, tokens=3)
    coords = np.random.default_rng(3).uniform(0, 20, (1, 3, 3)).astype(np.float32)
    got = np.asarray(rotated(x, coords, base))
    wavelengths = base ** np.linspace(0, 1, pairs)
    for token in range(3):
        for axis in range(3):
            for pair in range(pairs):
                turn = np.exp(2j * np.pi * float(coords[0, token, axis]) / wavelengths[pair])
                i = axis * pairs + pair
                expected = turn * (
                    np.asarray(x)[0, token, :, i] + 1j * np.asarray(x)[0, token, :, i + 3 * pairs]
                )
                np.testing.assert_allclose(
                    got[0, token, :, i] + 1j * got[0, token, :, i + 3 * pairs], expected, atol=2e-5
                )


def test_channels_that_are_left_over_keep_their_values():
    x = vectors(4, 64)
    turned = np.asarray(rotated(x, np.full((1, 4, 3), 0.37, np.float32)))
    np.testing.assert_array_equal(turned[..., 60:], x[..., 60:])


def test_each_axis_turns_channels_of_its_own():
    x = vectors(5, 24)
    changed = []
    for axis in range(3):
        coords = np.zeros((1, 4, 3), np.float32)
        coords[..., axis] = 0.3
        y = np.asarray(rotated(x, coords))
        changed.append(set(np.flatnonzero(np.any(y != x, axis=(0, 1, 2)))))
    assert changed == [
        {0, 1, 2, 3, 12, 13, 14, 15},
        {4, 5, 6, 7, 16, 17, 18, 19},
        {8, 9, 10, 11, 20, 21, 22, 23},
    ]


def test_bfloat16_stays_bfloat16_but_angles_are_float32():
    # bfloat16 would read 100.5: another angle altogether
    coords, x = np.full((1, 4, 3), 100.3, np.float32), vectors(6, 32).astype(jnp.bfloat16)

    @jax.jit
    def turn(x, coords):
        tables = rotary_tables(coords, 32)
        return tables.cos, apply_rotary(x, tables)

    cos, turned = turn(x, coords)
    np.testing.assert_allclose(np.asarray(cos)[0, 0, 0], np.cos(2 * np.pi * 100.3), atol=1e-3)
    assert turned.dtype == jnp.bfloat16


def test_a_head_too_small_for_three_axes_is_refused():
    with pytest.raises(ValueError, match="at least 12"):
        rotary_tables(jnp.zeros((1, 1, 3)), 8)
