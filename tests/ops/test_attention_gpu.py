"""The GPU's own compiler (Triton, then XLA's for an H100) takes the kernels, without a GPU. Needs
the extra `preflight-h100`.
"""

import re
from importlib.util import find_spec

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mmv_jax.ops import gpu
from mmv_jax.ops.attention import segment_attention
from mmv_jax.preflight.topology import CUDA_PLUGINS, devices_of, parse_topology

compiled = pytest.mark.skipif(
    not any(find_spec(plugin) for plugin in CUDA_PLUGINS),
    reason="JAX's CUDA plugin is not installed (extra `preflight-h100`)",
)
KERNELS = {"forward_kernel", "query_kernel", "key_kernel"}


@compiled
@pytest.mark.parametrize(
    "length, width, dtype",
    [
        (4096, 64, "bfloat16"),
        (32768, 128, "bfloat16"),
        (1000, 80, "bfloat16"),
        (512, 32, "float32"),
    ],
)
def test_auto_compiles_to_the_kernels_for_an_h100(length, width, dtype):
    one = NamedSharding(Mesh(np.array(devices_of(parse_topology("h100:1")))[:1], ("data",)), P())
    q = jax.ShapeDtypeStruct((2, length, 4, width), dtype, sharding=one)
    ids = jax.ShapeDtypeStruct((2, length), jnp.int32, sharding=one)

    def loss(q, k, v, ids):
        return segment_attention(q, k, v, ids).astype(jnp.float32).sum()

    # The tests' own hurry (conftest.py) is for CPUs; what is looked at here is the program that a
    # GPU would get.
    whole = {"xla_backend_optimization_level": 3, "xla_llvm_disable_expensive_passes": False}
    program = (
        jax.jit(jax.grad(loss, argnums=(0, 1, 2)))
        .lower(q, q, q, ids)
        .compile(compiler_options=whole)
    )
    calls = [line for line in program.as_text().splitlines() if "__gpu$xla.gpu.triton" in line]
    assert {
        name for line in calls for name in re.findall(r"(?:forward|query|key)_kernel", line)
    } == KERNELS
    needed = 8 * q.size * jnp.dtype(dtype).itemsize  # q, k, v, out and their gradients
    memory = program.memory_analysis()
    # nothing is padded: beside them there are statistics, and no array that grows with L squared
    if width in (64, 128) and length % gpu.BLOCK == 0:
        assert (
            memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
            < 1.2 * needed
        )


def test_heads_that_are_too_wide_or_of_another_dtype_are_refused_and_auto_takes_blocked():
    x, ids = np.ones((1, 64, 1, 2 * gpu.WIDEST), np.float32), np.ones((1, 64), np.int32)

    def attend(backend):
        return jax.jit(lambda x, ids: segment_attention(x, x, x, ids, backend=backend))

    with pytest.raises(ValueError, match="blocked"):
        attend("gpu")(x, ids)
    np.testing.assert_array_equal(attend("auto")(x, ids), attend("blocked")(x, ids))
    assert not gpu.fits(64, jnp.float16)
