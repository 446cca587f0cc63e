"""Packed rows for the models' tests."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

PATCH = (2, 4, 4)


class Rows(NamedTuple):
    """The encoder's inputs, in its order."""

    patches: jax.Array
    coords_mm: jax.Array
    kinds: jax.Array
    segment_ids: jax.Array


def make_rows(
    lengths: list[int], *, length: int = 128, rows: int = 1, registers: int = 1, seed: int = 0
) -> Rows:
    """Rows that all hold segments of these lengths: CLS, registers, patches; the rest is
    padding.
    """
    kinds, ids = np.zeros(length, np.int32), np.zeros(length, np.int32)
    start = 0
    for n, tokens in enumerate(lengths, start=1):
        special = [1, *range(2, 2 + registers)][:tokens]
        kinds[start : start + tokens] = special + [100] * (tokens - len(special))
        ids[start : start + tokens] = n
        start += tokens
    rng = np.random.default_rng(seed)
    patches = (
        rng.normal(size=(rows, length, np.prod(PATCH))).astype(np.float32)
        * (kinds == 100)[None, :, None]
    )
    coords = rng.uniform(0, 300, size=(rows, length, 3)).astype(np.float32)
    made = (patches, coords, np.tile(kinds, (rows, 1)), np.tile(ids, (rows, 1)))
    return Rows(*map(jnp.asarray, made))


@pytest.fixture(scope="session")
def packed():
    return make_rows
