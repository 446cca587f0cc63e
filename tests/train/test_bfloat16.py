"""The reference step in bfloat16 beside float32, each objective apart.

A bfloat16 has 8 bits: a rounding is wrong by 2^-9 of a value at most. The tolerances follow from
that and from the number of roundings on the way from a patch to a loss, with nothing fitted.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nano import nano_config

from mmv_jax.train.loop import make_parts

UNIT = 2.0**-9
NAMES = ("mae", "dino", "ibot", "koleo")
# In a block: norm, qkv, rotation, logits, their product with v, exit, norm, two of the MLP, GELU.
OF_A_BLOCK, OF_THE_ENDS = 10, 8  # entry and last norm; the four layers of a head, or a decoder
PASSES = {"mae": 1, "koleo": 1, "dino": 2, "ibot": 2}  # a teacher's error is one more


def roundings(objective, name: str) -> int:
    decoder = 1 if name == "mae" else 0
    return PASSES[name] * ((objective.encoder.depth + decoder) * OF_A_BLOCK + OF_THE_ENDS)


@pytest.fixture(scope="module")
def both(batch):
    """The objective; losses [terms] and their gradients [terms, parameters] in either dtype."""
    found, batch = {}, jax.tree.map(jnp.asarray, batch)
    for dtype in ("float32", "bfloat16"):
        c = nano_config()
        c.encoder.dtype = dtype
        objective = make_parts(c)[0]
        if not found:
            init = jax.jit(objective.init)
            student, teacher = init(jax.random.key(0), batch)[0], init(jax.random.key(1), batch)[1]

        def losses(student, objective=objective, teacher=teacher):
            _, seen = objective.loss(student, teacher, batch, jax.random.key(5), jnp.int32(0))
            return jnp.stack([seen[name] for name in NAMES])

        def run(student, losses=losses):
            found, back = jax.vjp(losses, student)
            return found, jax.vmap(lambda one: back(one)[0])(jnp.eye(len(NAMES)))

        values, grads = jax.jit(run)(student)
        flat = np.concatenate([np.reshape(x, (len(NAMES), -1)) for x in jax.tree.leaves(grads)], 1)
        found[dtype] = np.asarray(values), flat
    return objective, found


@pytest.mark.full
@pytest.mark.parametrize("name", NAMES)
def test_losses_and_gradients_differ_by_no_more_than_eight_bits_allow(both, name):
    objective, found = both
    t, n = NAMES.index(name), roundings(objective, name)
    (loss, grad), (rounded, rounded_grad) = (
        (found[dtype][0][t], found[dtype][1][t]) for dtype in ("float32", "bfloat16")
    )
    off = np.linalg.norm(rounded_grad - grad) / np.linalg.norm(grad)
    # Roundings have either sign, so they add up as a random walk: two deviations of n steps.
    assert abs(rounded - loss) < 2 * np.sqrt(n) * UNIT * abs(loss)
    # A gradient passes every rounding twice, forward and backward.
    assert off < 2 * np.sqrt(2 * n) * UNIT
    # bfloat16 was used at all: float32 would agree to 1e-5.
    assert off > UNIT / 4
