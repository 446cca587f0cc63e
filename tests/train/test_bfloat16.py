"""The reference step in bfloat16 beside float32, each objective apart.

A bfloat16 has 8 bits: a rounding is wrong by 2^-9 of a value at most. The tolerances follow from
that and from the number of roundings on the way from a patch to a loss, with nothing fitted.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nano import nano_config

from mmv_jax.train.loop import make_parts, row_shape

UNIT = 2.0**-9
GROUPS = (("mae", "dino", "ibot", "koleo"), ("can", "diet", "latent", "distil"))
TEACHERS = (6, 10)  # features of a token, of two teachers that were computed before
# In a block: norm, qkv, rotation, logits, their product with v, exit, norm, two of the MLP, GELU.
OF_A_BLOCK, OF_THE_ENDS = 10, 8  # entry and last norm; the four layers of a head, or a decoder
# A teacher's error is one more, and so is that of the crop which a contrast compares with.
PASSES = {"mae": 1, "koleo": 1, "dino": 2, "ibot": 2, "can": 2, "diet": 1, "latent": 2, "distil": 1}


def roundings(objective, name: str) -> int:
    decoder = 1 if name in ("mae", "latent") else 0
    return PASSES[name] * ((objective.encoder.depth + decoder) * OF_A_BLOCK + OF_THE_ENDS)


def config_of(names, dtype: str):
    c = nano_config(**dict.fromkeys(names, 1.0))
    c.encoder.dtype = dtype
    if "distil" in names:
        c.objective.update({"can_hidden": 32, "can_width": 16, "diet_classes": 16})
        c.objective.update({"latent_blocks": 2, "distil_widths": TEACHERS})
    return c


def with_targets(batch, c):
    """The rows with features of teachers: any will do, at every place that is no padding."""
    spec, rng = row_shape(c).spec(len(batch["kinds"])), np.random.default_rng(0)
    there = np.broadcast_to((batch["segment_ids"] > 0)[..., None], spec["targets_there"].shape)
    more = {name: rng.normal(size=spec[name].shape) for name in ("targets", "target_cls")}
    more = {name: jnp.asarray(x, spec[name].dtype) for name, x in more.items()}
    return {**batch, **more, "targets_there": jnp.asarray(there)}


def in_both(names, batch):
    """The objective; losses [terms] and their gradients [terms, parameters] in either dtype."""
    found, batch = {}, jax.tree.map(jnp.asarray, batch)
    if "distil" in names:
        batch = with_targets(batch, config_of(names, "float32"))
    for dtype in ("float32", "bfloat16"):
        objective = make_parts(config_of(names, dtype))[0]
        if not found:
            init = jax.jit(objective.init)
            student, teacher = init(jax.random.key(0), batch)[0], init(jax.random.key(1), batch)[1]

        def losses(student, objective=objective, teacher=teacher):
            _, seen = objective.loss(student, teacher, batch, jax.random.key(5), jnp.int32(0))
            return jnp.stack([seen[name] for name in names])

        def run(student, losses=losses):
            found, back = jax.vjp(losses, student)
            return found, jax.vmap(lambda one: back(one)[0])(jnp.eye(len(names)))

        values, grads = jax.jit(run)(student)
        flat = np.concatenate([np.reshape(x, (len(names), -1)) for x in jax.tree.leaves(grads)], 1)
        found[dtype] = np.asarray(values), flat
    return objective, found


@pytest.fixture(scope="module")
def measured(batch):
    """`in_both` of the group of a term, made once."""
    kept = {}

    def of(name: str):
        names = next(group for group in GROUPS if name in group)
        if names not in kept:
            kept[names] = in_both(names, batch)
        return names.index(name), *kept[names]

    return of


@pytest.mark.full
@pytest.mark.parametrize("name", [name for group in GROUPS for name in group])
def test_losses_and_gradients_differ_by_no_more_than_eight_bits_allow(measured, name):
    t, objective, found = measured(name)
    n = roundings(objective, name)
    (loss, grad), (rounded, rounded_grad) = (
        (found[dtype][0][t], found[dtype][1][t]) for dtype in ("float32", "bfloat16")
    )
    off = np.linalg.norm(rounded_grad - grad) / np.linalg.norm(grad)
    print(name, n, abs(rounded / loss - 1), off)  # pytest -s
    # Roundings have either sign, so they add up as a random walk: two deviations of n steps.
    assert abs(rounded - loss) < 2 * np.sqrt(n) * UNIT * abs(loss)
    # A gradient passes every rounding twice, forward and backward.
    assert off < 2 * np.sqrt(2 * n) * UNIT
    # bfloat16 was used at all: float32 would agree to 1e-5.
    assert off > UNIT / 4
