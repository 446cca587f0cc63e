"""TODO."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def distillation(
    student_logits: Float[Array, "B S K"],
    targets: Float[Array, "B T K"],
    pairs: Bool[Array, "B S T"],
    temperature: float = 0.1,
) -> Float[Array, ""]:
    """DINO: cross-entropy of each student view with the teacher's targets of the other views of its
    study, mean over pairs.

    Args:
      student_logits: scores of CLS tokens of all views.
      targets: distributions over prototypes of the global views, no gradient.
      pairs: which student view learns from which teacher view: the same study, another view.
      temperature: the student's.

    Source: Caron et al., DINO (arXiv 2104.14294), equation 3.
    """
    log_p = jax.nn.log_softmax(student_logits.astype(jnp.float32) / temperature, axis=-1)
    weights = pairs.astype(jnp.float32)
    # Targets are summed a student view first: [B, S, T] x [B, T, K], never [B, S, T, K].
    summed = jnp.einsum("bst,btk->bsk", weights, jax.lax.stop_gradient(targets))
    return -(summed * log_p).sum() / jnp.maximum(weights.sum(), 1.0)


def pairs_of_views(study: Int[Array, "B S"], is_global: Bool[Array, "B S"]) -> Bool[Array, "B S S"]:
    """Which student view (middle axis) learns from which teacher view (last axis): another, global
    view of the same study.
    """
    same = (study[:, :, None] == study[:, None, :]) & (study >= 0)[:, :, None]
    return same & is_global[:, None, :] & ~jnp.eye(study.shape[1], dtype=bool)[None]


def _use_of_prototypes(
    targets: Float[Array, "B S K"], there: Bool[Array, "B S"]
) -> dict[str, Array]:
    """Mean entropy of the teacher's targets (nats), and the share of prototypes that are somebody's
    first choice, of those that could be.
    """
    lines = there.sum()
    entropy = -(targets * jnp.log(targets + 1e-12)).sum(axis=-1)
    chosen = (
        jnp.zeros(targets.shape[-1] + 1, bool)
        .at[jnp.where(there, targets.argmax(axis=-1), targets.shape[-1])]
        .set(True)[:-1]
    )
    return {
        "teacher_entropy": jnp.where(there, entropy, 0.0).sum() / jnp.maximum(lines, 1),
        "prototypes_used": chosen.sum() / jnp.maximum(jnp.minimum(lines, targets.shape[-1]), 1),
    }
