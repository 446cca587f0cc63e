"""One training step: pure, jitted once, and without effect if a loss or gradient is not finite."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float

from mmv_jax.parallel import replicated
from mmv_jax.train.objective import Objective
from mmv_jax.train.optimizer import Ema
from mmv_jax.train.state import TrainState

# (state, batch, limits) -> (state, metrics); the limits may be left out
StepFunction: TypeAlias = Callable[..., tuple[TrainState, dict[str, Array]]]


def train_step(
    state: TrainState,
    batch: Mapping[str, Array],
    limits: Float[Array, "2"] | None = None,
    *,
    objective: Objective,
    tx: optax.GradientTransformation,
    ema: Ema,
) -> tuple[TrainState, dict[str, Array]]:
    """(state, batch) -> (state, metrics). A step that is not finite changes nothing but the
    counter, and says so in `skipped`.

    Args:
      limits: of the loss and of its gradient's norm. A finite step above one of them changes
        nothing but the counter either, and says so in `spike`.
    """
    # A resumed run draws what an unbroken one would have drawn.
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
    learning = objective.learning

    def loss_of(own: Any) -> tuple[Array, dict[str, Array]]:
        student = learning.put(own, state.student)
        return objective.loss(student, state.teacher, batch=batch, key=key, step=state.step)

    # Of what does not learn no gradient is taken, so it needs no memory either.
    own = learning.cut(state.student)
    (loss, seen), grads = jax.value_and_grad(loss_of, has_aux=True)(own)
    # The norm before clipping. It is not finite if any value of a gradient is not.
    norm = optax.tree.norm(grads)
    updates, opt_state = tx.update(grads, state.opt_state, own)
    student = learning.put(optax.apply_updates(own, updates), state.student)

    def follow(old: Any, share: Array) -> Any:
        # Only some modules of the student have a moving average; a decoder, for example, has none.
        both = (learning.cut(tree) for tree in ({name: student[name] for name in old}, old))
        return learning.put(optax.incremental_update(*both, share), old)

    teacher = follow(state.teacher, 1 - ema(state.step))
    new = TrainState(
        step=state.step,
        student=student,
        teacher=teacher,
        opt_state=opt_state,
        key=state.key,
        averages={
            name: follow({"encoder": mean}, ema.share(int(name), state.step))["encoder"]
            for name, mean in state.averages.items()
        },
    )
    kept, skipped = keep_finite(new, state, loss, norm)
    spike = jnp.zeros((), jnp.int32)
    if limits is not None:
        low = (loss <= limits[0]) & (norm <= limits[1])
        kept = jax.tree.map(lambda new, old: jnp.where(low, new, old), kept, state)
        spike = (~low).astype(jnp.int32) * (1 - skipped)
    metrics = {
        "loss": loss,
        **seen,
        "grad_norm": norm,
        "skipped": skipped,
        "spike": spike,
        "momentum": ema(state.step),
    }
    metrics["tokens"] = (batch["segment_ids"] > 0).sum()  # that are not padding
    metrics["studies"] = _studies(batch)
    # A skipped step counts too: the next one then draws other numbers and reads other rows.
    return kept.replace(step=state.step + 1), metrics


def _studies(batch: Mapping[str, Array]) -> Array:
    """The number of studies in the rows.

    The global crops of a study are adjacent, so a study begins wherever its number changes.
    """
    # Each segment is compared with the one before; -1 is no study, and precedes the first.
    study = jnp.where(batch["is_global"], batch["study"], -1)
    begins = study != jnp.pad(study, ((0, 0), (1, 0)), constant_values=-1)[:, :-1]
    return (begins & (study >= 0)).sum()


def keep_finite(new: Any, old: Any, loss: Array, norm: Array) -> tuple[Any, Array]:
    """The new state and 0; or the old state and 1 if the loss or its gradient's norm is not finite.

    Neither the weights nor a teacher may contain such a value: one NaN stays in a moving average
    for ever. Count these steps with `health.Patience`.
    """
    finite = jnp.isfinite(loss) & jnp.isfinite(norm)
    kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), new, old)
    return kept, (~finite).astype(jnp.int32)


def jit_step(
    objective: Objective, tx: optax.GradientTransformation, ema: Ema, state: Any, mesh: Mesh
):
    """`train_step` jitted for a state (arrays, or shapes with shardings); it donates the state's
    memory.

    The new state has the shardings of the old one. Metrics are replicated, so that every process
    can read them. Use it inside `on_mesh(mesh)`.
    """
    where = jax.tree.map(lambda x: x.sharding, state)
    return jax.jit(
        partial(train_step, objective=objective, tx=tx, ema=ema),
        donate_argnums=0,
        out_shardings=(where, replicated(mesh)),
    )
