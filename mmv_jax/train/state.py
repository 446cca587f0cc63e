"""The state of a run: all that a bitwise resume needs, made on its own devices."""

from collections.abc import Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from mmv_jax.parallel import shard_params
from mmv_jax.train.objective import Objective


@flax.struct.dataclass
class TrainState:
    """All arrays of a run as a PyTree, or their shapes.

    Attributes:
      step: int32 [], the number of finished steps.
      teacher: the moving average of the student.
      key: uint32 [2], the data of the key from which every step draws its own.
      averages: moving averages of the student's encoder over shares of the run, by number ("0",
        "1"); empty if the config asks for none.
    """

    step: Any
    student: Any
    teacher: Any
    opt_state: optax.OptState
    key: Any
    averages: Any = flax.struct.field(default_factory=dict)

    @property
    def evaluated(self) -> Any:
        """The encoder for evaluation: the first average, or else the teacher's encoder."""
        return self.averages["0"] if self.averages else self.teacher["encoder"]


def init_state(
    objective: Objective,
    tx: optax.GradientTransformation,
    row_spec: Mapping[str, jax.ShapeDtypeStruct],
    mesh: Mesh,
    seed: int,
    averages: int = 0,
) -> TrainState:
    """Make a fresh state, jitted with its shardings, so that it is never whole on one device."""
    make = state_maker(objective, tx, row_spec, seed, averages=averages)
    return jax.jit(make, out_shardings=shard_params(jax.eval_shape(make), mesh))()


def shapes_of_state(
    objective: Objective,
    tx: optax.GradientTransformation,
    row_spec: Mapping[str, jax.ShapeDtypeStruct],
    mesh: Mesh,
    seed: int,
    averages: int = 0,
) -> TrainState:
    """Shapes of the state of `init_state`, with their shardings, at no memory.

    Compile for them, or restore a checkpoint into them.
    """
    shapes = jax.eval_shape(state_maker(objective, tx, row_spec, seed, averages=averages))
    return jax.tree.map(
        lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
        shapes,
        shard_params(shapes, mesh),
    )


def state_maker(
    objective: Objective,
    tx: optax.GradientTransformation,
    row_spec: Mapping[str, jax.ShapeDtypeStruct],
    seed: int,
    averages: int = 0,
):
    """A function without arguments that makes the state; run it, or evaluate its shapes alone."""

    def make() -> TrainState:
        key = jax.random.key(seed)
        # Parameters do not depend on the batch: one row of zeros has all shapes that modules read.
        batch = {
            name: jnp.zeros((1, *spec.shape[1:]), spec.dtype) for name, spec in row_spec.items()
        }
        # Two streams from one seed: number 0 makes the parameters, number 1 serves the steps.
        student, teacher = objective.init(jax.random.fold_in(key, 0), batch)
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            student=student,
            teacher=teacher,
            opt_state=tx.init(objective.learning.cut(student)),
            # Raw numbers and not a typed key, so that the state is a tree of plain arrays.
            key=jax.random.key_data(jax.random.fold_in(key, 1)),
            averages={str(n): jax.tree.map(jnp.copy, student["encoder"]) for n in range(averages)},
        )

    return make


def split_items(state: TrainState) -> dict[str, Any]:
    """The two array items of a checkpoint: `encoder` for evaluation, and `state`, the rest."""
    rest = {name: value for name, value in state.teacher.items() if name != "encoder"}
    more = {name: value for name, value in state.averages.items() if name != "0"}
    if state.averages:
        # Here the item `encoder` is the first average, so `state` keeps the teacher's own.
        rest["encoder"] = state.teacher["encoder"]
    return {
        "encoder": state.evaluated,
        "state": {
            "step": state.step,
            "student": state.student,
            "teacher": rest,
            "opt_state": state.opt_state,
            "key": state.key,
            # Orbax keeps no empty tree. Without averages a checkpoint has its older form.
            **({"averages": more} if more else {}),
        },
    }


def join_items(items: Mapping[str, Any]) -> TrainState:
    """The inverse of `split_items`."""
    saved = items["state"]
    averaged = "encoder" in saved["teacher"]  # then the item `encoder` is the first average
    return TrainState(
        step=saved["step"],
        student=saved["student"],
        teacher={"encoder": items["encoder"], **saved["teacher"]},
        opt_state=saved["opt_state"],
        key=saved["key"],
        averages={"0": items["encoder"], **saved.get("averages", {})} if averaged else {},
    )
