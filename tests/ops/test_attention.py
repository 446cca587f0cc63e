"""Every backend against the definition, forward and backward, and no way from one segment to
another.
"""

import re
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from mmv_jax.ops.attention import segment_attention
from mmv_jax.ops.ranges import block_ranges, segment_spans

BACKENDS = ["dense", "blocked", "tpu", "gpu", "auto"]  # "tpu" and "gpu" are interpreted here
LAYOUTS = {
    "equal": [64] * 4,
    "mixed": [5, 120, 49, 1],
    "one token": [1],
    "one segment": [256],
    "all padding": [],
}


def row_of(lengths, total=256):
    ids = np.repeat(np.arange(1, len(lengths) + 1), lengths)
    return np.pad(ids, (0, total - len(ids)))[None].astype(np.int32)


# NumPy's arrays: each operation of jax.numpy outside of a jit is a program of its own.
def draw(shape, n=3, dtype=np.float32):
    rng = np.random.default_rng(0)
    return tuple(rng.normal(size=shape).astype(dtype) for _ in range(n))


@partial(jax.jit, static_argnums=0)
def with_gradients(backend, q, k, v, ids, g):
    """The output and the gradients of q, k and v where the output's is `g`."""
    out, pull = jax.vjp(lambda *x: segment_attention(*x, ids, backend=backend), q, k, v)
    return out, *pull(g)


def computed(backend, *arrays):
    """`with_gradients`, as arrays of NumPy."""
    return jax.device_get(with_gradients(backend, *arrays))


def assert_close(ours, theirs, tolerance):
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(
            np.asarray(a, np.float64), np.asarray(b, np.float64), atol=tolerance
        )


@pytest.mark.parametrize("backend", ["blocked", "tpu", "gpu"])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_backend_equals_dense(backend, layout):
    ids = row_of(layout)
    q, k, v, g = draw((1, 256, 2, 32), 4)
    assert_close(
        with_gradients(backend, q, k, v, ids, g), with_gradients("dense", q, k, v, ids, g), 5e-6
    )


@pytest.mark.parametrize(
    "heads, width",
    [
        (3, 32),
        *(
            pytest.param(*shape, marks=pytest.mark.full)
            for shape in ((1, 64), (1, 128), (3, 64), (4, 96))
        ),
    ],
)
@pytest.mark.parametrize("backend", ["blocked", "tpu", "gpu"])
def test_heads_of_any_width_and_rows_of_any_length(backend, heads, width):
    ids = np.concatenate([row_of([70, 1, 100], 200), row_of([130], 200)])
    q, k, v, g = draw((2, 200, heads, width), 4)
    assert_close(
        with_gradients(backend, q, k, v, ids, g), with_gradients("dense", q, k, v, ids, g), 5e-6
    )


@pytest.mark.parametrize("backend", ["blocked", "tpu", "gpu"])
def test_bfloat16_is_as_good_as_its_eight_bits(backend):
    ids = row_of([100, 60])
    q, k, v, g = draw((1, 256, 2, 64), 4, jnp.bfloat16)
    exact = with_gradients(
        "dense", *(x.astype(np.float32) for x in (q, k, v)), ids, g.astype(np.float32)
    )
    ours = with_gradients(backend, q, k, v, ids, g)
    assert all(x.dtype == jnp.bfloat16 for x in ours)
    assert_close(ours, exact, 0.03)


@st.composite
def layouts(draw_from):
    """Ids of two rows: segments of any lengths, with padding between them too."""
    # few, because each is compiled; around the block's 64
    length = draw_from(st.sampled_from([1, 64, 130]))
    ids = np.zeros((2, length), np.int32)
    for row in ids:
        start, name = 0, 0
        while start < length:
            size, padding = (
                draw_from(st.integers(1, length)),
                draw_from(st.sampled_from([0, 0, 0, 5, length])),
            )
            name += 1
            row[start : start + size] = name
            start += size + padding
    return ids


@given(layouts(), st.integers(0, 100))
def test_blocked_equals_dense_in_float64_for_any_layout(ids, seed):
    with jax.enable_x64(True):
        rng = np.random.default_rng(seed)
        q, k, v, g = (rng.normal(size=(*ids.shape, 1, 32)) for _ in range(4))
        assert_close(
            with_gradients("blocked", q, k, v, ids, g),
            with_gradients("dense", q, k, v, ids, g),
            1e-12,
        )


@partial(jax.jit, static_argnums=1)
def ranges(ids, block):
    return block_ranges(*segment_spans(ids), block)


@given(layouts(), st.sampled_from([64, 128]))
def test_a_range_holds_the_blocks_that_share_a_segment(ids, block):
    ids = np.pad(ids, ((0, 0), (0, -ids.shape[1] % block)))
    low, high = jax.device_get(ranges(ids, block))
    for row, row_low, row_high in zip(ids.reshape(len(ids), -1, block), low, high, strict=True):
        for i, queries in enumerate(row):
            sharing = [j for j, keys in enumerate(row) if set(queries[queries > 0]) & set(keys)]
            assert (
                list(range(row_low[i], row_high[i])) == sharing
                or not sharing
                and row_low[i] == row_high[i]
            )


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_segment_is_blind_to_the_others(backend):
    ids = row_of([100, 60])
    g = np.zeros((1, 256, 2, 32), np.float32)
    g[:, :100] = 1
    _, *grads = computed(backend, *draw((1, 256, 2, 32)), ids, g)
    for grad in grads:
        assert np.all(grad[:, 100:] == 0)
        assert np.any(grad[:, :100] != 0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_bit_of_a_segment_depends_on_the_others(backend):
    ids = row_of([30, 100, 60])
    own = (slice(None), slice(30, 130))

    def run(arrays):
        return computed(backend, *arrays[:3], ids, arrays[3])

    before = draw((1, 256, 2, 32), 4)
    changed = tuple(np.where((ids == 2)[..., None, None], x, 50 * x[:, ::-1] + 3) for x in before)
    for a, b in zip(run(before), run(changed), strict=True):
        np.testing.assert_array_equal(a[own], b[own])
        assert not np.array_equal(a, b)


@pytest.mark.parametrize("backend", BACKENDS)
def test_padding_gives_exactly_zero_and_takes_no_gradient(backend):
    ids = row_of([100, 60])
    g = np.ones((1, 256, 2, 32), np.float32)
    found = computed(backend, *draw((1, 256, 2, 32)), ids, g)
    assert all(np.all(x[:, 160:] == 0) and np.all(np.isfinite(x)) for x in found)


@pytest.mark.parametrize("backend", ["blocked", "tpu", "gpu"])
def test_vmap_adds_rows(backend):
    ids = np.stack([row_of([100, 60]), row_of([1, 200])])
    q, k, v, g = draw((2, 1, 256, 2, 32), 4)
    mapped = jax.jit(jax.vmap(lambda *x: with_gradients(backend, *x)))(q, k, v, ids, g)
    alone = [computed(backend, *(x[row] for x in (q, k, v, ids, g))) for row in (0, 1)]
    assert_close(mapped, [np.stack(x) for x in zip(*alone, strict=True)], 1e-6)


def test_remat_and_scan_change_nothing():
    ids = row_of([100, 60])
    x, ids = draw((1, 256, 2, 32))[0], jnp.asarray(ids)

    def layer(x, _):
        return x + segment_attention(x, x, x, ids, backend="blocked"), None

    def plain(x):
        return layer(layer(x, None)[0], None)[0].sum()

    def stacked(x):
        return jax.lax.scan(jax.checkpoint(layer), x, length=2)[0].sum()

    one, other = jax.jit(lambda x: (jax.grad(plain)(x), jax.grad(stacked)(x)))(x)
    np.testing.assert_allclose(one, other, atol=1e-6)


def mesh_of_eight():
    return jax.make_mesh((4, 2), ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)


def collectives(compiled):
    return set(
        re.findall(
            r"(all-gather|all-to-all|all-reduce|collective-permute)(?:-start)?\(",
            compiled.as_text(),
        )
    )


@pytest.mark.parametrize(
    "spec",
    [
        P("data", None, "tensor"),
        *(pytest.param(x, marks=pytest.mark.full) for x in (P("data"), P(("data", "tensor")))),
    ],
    ids=str,
)
def test_a_mesh_splits_rows_and_heads_without_a_word(spec):
    ids = np.tile(np.concatenate([row_of([20, 40], 64), row_of([64], 64)]), (4, 1))
    arrays = draw((8, 64, 4, 32), 4)
    run = jax.jit(lambda q, k, v, g, ids: with_gradients("auto", q, k, v, ids, g))
    mesh = mesh_of_eight()
    placed = [jax.device_put(x, NamedSharding(mesh, spec)) for x in arrays]
    placed.append(jax.device_put(ids, NamedSharding(mesh, P(spec[0]))))
    compiled = run.lower(*placed).compile()
    assert collectives(compiled) == set()
    found = compiled(*placed)
    assert all(x.sharding.is_equivalent_to(placed[0].sharding, 4) for x in found)
    assert_close(found, run(*arrays, ids), 1e-6)


def test_a_mesh_with_axis_rules_splits_by_them():
    ids, arrays = jnp.asarray(np.tile(row_of([20, 40], 64), (8, 1))), draw((8, 64, 4, 32), 4)
    mesh = mesh_of_eight()
    with jax.set_mesh(mesh), nn.logical_axis_rules((("rows", "data"), ("heads", "tensor"))):
        placed = [jax.device_put(x, NamedSharding(mesh, P("data", None, "tensor"))) for x in arrays]
        run = jax.jit(lambda q, k, v, g: with_gradients("blocked", q, k, v, ids, g))
        compiled = run.lower(*placed).compile()
        assert collectives(compiled) == set()
        assert_close(
            compiled(*placed), with_gradients("blocked", *arrays[:3], ids, arrays[3]), 1e-6
        )


def test_inside_a_shard_map_it_is_local():
    ids, arrays = np.tile(row_of([20, 40], 64), (8, 1)), draw((8, 64, 4, 32), 4)
    split = P("data", None, "tensor")
    run = jax.shard_map(
        lambda q, k, v, g, ids: with_gradients("blocked", q, k, v, ids, g),
        mesh=mesh_of_eight(),
        in_specs=(split,) * 4 + (P("data"),),
        out_specs=(split,) * 4,
    )
    assert_close(
        jax.jit(run)(*arrays, ids), with_gradients("blocked", *arrays[:3], ids, arrays[3]), 1e-6
    )


def test_rows_that_a_mesh_does_not_divide_stay_whole():
    ids, arrays = jnp.asarray(np.tile(row_of([20, 40], 64), (3, 1))), draw((3, 64, 1, 32))
    with (
        jax.set_mesh(mesh_of_eight()),
        nn.logical_axis_rules((("rows", "data"), ("heads", "tensor"))),
    ):
        found = jax.jit(lambda *x: segment_attention(*x, ids, backend="blocked"))(*arrays)
        whole = jax.jit(lambda *x: segment_attention(*x, ids, backend="dense"))(*arrays)
    assert_close([found], [whole], 5e-6)


def test_an_unknown_backend_is_refused_with_the_names_of_the_known():
    def attend(*x):
        return segment_attention(*x, backend="flash")

    with pytest.raises(ValueError, match="no attention backend 'flash'; there are dense, blocked"):
        jax.eval_shape(attend, *draw((1, 8, 1, 32)), row_of([8], 8))


def test_a_row_without_room_on_a_tpu_is_refused():
    q = jax.ShapeDtypeStruct((1, 2**17, 1, 128), jnp.bfloat16)
    ids = jax.ShapeDtypeStruct((1, 2**17), jnp.int32)
    with pytest.raises(ValueError, match="do not fit a TPU; use backend='blocked'"):
        jax.eval_shape(lambda q, ids: segment_attention(q, q, q, ids, backend="tpu"), q, ids)
