"""One step: pure, jitted once, and harmless where a loss or a gradient is not finite."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array

from mmv_jax.parallel import replicated
from mmv_jax.train.objective import Objective
from mmv_jax.train.optimizer import Ema
from mmv_jax.train.state import TrainState


def train_step(
    state: TrainState,
    batch: Mapping[str, Array],
    *,
    objective: Objective,
    tx: optax.GradientTransformation,
    ema: Ema,
) -> tuple[TrainState, dict[str, Array]]:
    """(state, batch) -> (state, metrics). A step that is not finite changes nothing but the
    counter, and says so in `skipped`.
    """
    # A resumed run draws what an unbroken one would have drawn.
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
    (loss, seen), grads = jax.value_and_grad(objective.loss, has_aux=True)(
        state.student, teacher=state.teacher, batch=batch, key=key, step=state.step
    )
    # Before clipping. One value anywhere that is not finite makes the norm not finite too.
    norm = optax.tree.norm(grads)
    updates, opt_state = tx.update(grads, state.opt_state, state.student)
    student = optax.apply_updates(state.student, updates)
    # Not all of the student: a decoder, for example, has no moving average.
    followed = {name: student[name] for name in state.teacher}
    teacher = optax.incremental_update(followed, state.teacher, 1 - ema(state.step))
    new = TrainState(
        step=state.step,
        student=student,
        teacher=teacher,
        opt_state=opt_state,
        key=state.key,
        averages={
            name: optax.incremental_update(
                student["encoder"], own, ema.share(int(name), state.step)
            )
            for name, own in state.averages.items()
        },
    )
    kept, skipped = keep_finite(new, state, loss, norm)
    metrics = {
        "loss": loss,
        **seen,
        "grad_norm": norm,
        "skipped": skipped,
        "momentum": ema(state.step),
    }
    metrics["tokens"] = (batch["segment_ids"] > 0).sum()  # that are not padding
    metrics["studies"] = _studies(batch)
    # A skipped step counts too: the next one then draws other numbers and reads other rows.
    return kept.replace(step=state.step + 1), metrics


def _studies(batch: Mapping[str, Array]) -> Array:
    """How many studies the rows show. The global crops of a study follow each other, so that it
    begins where the study changes.
    """
    # Compared with the segment to the left; -1 is no study, and stands left of the first one.
    study = jnp.where(batch["is_global"], batch["study"], -1)
    begins = study != jnp.pad(study, ((0, 0), (1, 0)), constant_values=-1)[:, :-1]
    return (begins & (study >= 0)).sum()


def keep_finite(new: Any, old: Any, loss: Array, norm: Array) -> tuple[Any, Array]:
    """The new state and 0; or the old state and 1 where the loss or its gradient's norm is not
    finite.

    Neither the weights nor a teacher may see such a value: one NaN stays in a moving average for
    ever. Count these steps with `health.Patience`.
    """
    finite = jnp.isfinite(loss) & jnp.isfinite(norm)
    kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), new, old)
    return kept, (~finite).astype(jnp.int32)


def jit_step(
    objective: Objective, tx: optax.GradientTransformation, ema: Ema, state: Any, mesh: Mesh
):
    """`train_step` jitted for a state (arrays, or shapes with shardings), whose memory it takes
    over. Use it inside `on_mesh(mesh)`.

    The new state lies where the old one lay. Metrics are whole on every device, so that every
    process can read them.
    """
    where = jax.tree.map(lambda x: x.sharding, state)
    return jax.jit(
        partial(train_step, objective=objective, tx=tx, ema=ema),
        donate_argnums=0,
        out_shardings=(where, replicated(mesh)),
    )
