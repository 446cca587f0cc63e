"""The TPU's own compiler (Mosaic) takes the kernels, without a TPU. Needs libtpu (extra
`preflight`).
"""

import os
import re
from importlib.util import find_spec

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mmv_jax.ops import tpu
from mmv_jax.ops.attention import segment_attention

pytestmark = pytest.mark.skipif(
    find_spec("libtpu") is None, reason="libtpu is not installed (extra `preflight`)"
)
CHIPS = {"v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2", "7x": "tpu7x:2x2x1"}


def devices(chip):
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"  # there is no metadata server to ask
    # no chip is opened, so test processes need not wait for each other
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"
    return np.array(topologies.get_topology_desc(platform="tpu", topology_name=CHIPS[chip]).devices)


def compiled_gradients(q, ids, backend):
    def loss(q, k, v, ids):
        return segment_attention(q, k, v, ids, backend=backend).astype(jnp.float32).sum()

    return jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(q, q, q, ids).compile()


def kernels(compiled):
    return set(
        re.findall(
            r"(?:forward|backward)_kernel",
            " ".join(re.findall(r"%\S+ = .*tpu_custom_call.*", compiled.as_text())),
        )
    )


@pytest.mark.parametrize("length, width", [(4096, 64), (32768, 128)])
@pytest.mark.parametrize("chip", CHIPS)
def test_mosaic_compiles_both_passes(chip, length, width):
    one = NamedSharding(Mesh(devices(chip)[:1], ("data",)), P())
    q = jax.ShapeDtypeStruct((1, length, 2, width), jnp.bfloat16, sharding=one)
    ids = jax.ShapeDtypeStruct((1, length), jnp.int32, sharding=one)
    assert kernels(compiled_gradients(q, ids, "tpu")) == {"forward_kernel", "backward_kernel"}


@pytest.mark.parametrize("length, heads, width", [(1000, 3, 32), (4096, 1, 128), (32768, 2, 64)])
def test_rows_of_any_length_and_heads_of_any_width_compile(length, heads, width):
    one = NamedSharding(Mesh(devices("v5e")[:1], ("data",)), P())
    q = jax.ShapeDtypeStruct((2, length, heads, width), jnp.bfloat16, sharding=one)
    ids = jax.ShapeDtypeStruct((2, length), jnp.int32, sharding=one)
    assert kernels(compiled_gradients(q, ids, "tpu")) == {"forward_kernel", "backward_kernel"}


def test_auto_takes_the_kernels_on_a_mesh_and_needs_no_collective():
    mesh = Mesh(devices("v5e").reshape(2, 2), ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)
    q = jax.ShapeDtypeStruct(
        (4, 1024, 4, 64), jnp.bfloat16, sharding=NamedSharding(mesh, P("data", None, "tensor"))
    )
    ids = jax.ShapeDtypeStruct((4, 1024), jnp.int32, sharding=NamedSharding(mesh, P("data")))
    with jax.set_mesh(mesh), nn.logical_axis_rules((("rows", "data"), ("heads", "tensor"))):
        compiled = compiled_gradients(q, ids, "auto")
    assert kernels(compiled) == {"forward_kernel", "backward_kernel"}
    assert not re.search(
        r"(all-gather|all-to-all|all-reduce|collective-permute)(-start)?\(", compiled.as_text()
    )


@pytest.mark.parametrize("dtype, longest", [(jnp.bfloat16, 32768), (jnp.float32, 24576)])
def test_the_longest_row_of_wide_heads(dtype, longest):
    assert tpu.fits(longest, 8, 128, dtype)
    assert not tpu.fits(2 * longest, 8, 128, dtype)
