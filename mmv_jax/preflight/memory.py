"""Memory of a step on one device in closed form, by kind of array.

It is checked against the compiler's own count (docs/performance.md).

Axes: b rows of a device, L tokens, F tokens of the prefix, V visible, M masked, S segments, D
width, H hidden, K prototypes.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmv_jax.data.tokens import RowShape
from mmv_jax.models.cost import F32
from mmv_jax.objectives.term import STUDENT, TEACHER, VISIBLE
from mmv_jax.parallel import parameter_axes
from mmv_jax.train.flops import work_of
from mmv_jax.train.objective import Objective
from mmv_jax.train.state import TrainState


def step_memory(
    objective: Objective, state: TrainState, shape: RowShape, rows: int, fsdp: int, remat: bool
) -> dict[str, int]:
    """Bytes of one device, by kind: state, stored arrays, scores, and one block's backward pass.

    It is a sum, although scores and blocks are not in use at the same time. The sum is closer to
    the TPU compiler's figure than the largest moment is.

    Args:
      state: arrays or their shapes.
      rows: of one device.
      fsdp: devices that share one state.
      remat: whether blocks store their input alone.
    """
    student, encoder = sharded_bytes(state.student, fsdp), objective.encoder
    of_encoder = sharded_bytes(state.student["encoder"], fsdp)
    # Each of the student's passes has its own gradient of the encoder; they are added at the end.
    passes = len(objective.needs & {VISIBLE, STUDENT})
    parts = {
        "student": student,
        "teacher": sharded_bytes(state.teacher, fsdp),
        "averages": sharded_bytes(state.averages, fsdp),
        "moments": sharded_bytes(state.opt_state, fsdp),
        "gradients": student + max(passes - 1, 0) * of_encoder,
        "batch": sum(
            math.prod(x.shape) * np.dtype(x.dtype).itemsize for x in shape.spec(rows).values()
        ),
    }
    itemsize = jnp.dtype(encoder.dtype).itemsize
    # Weights are kept in float32, and are cast to the dtype of the products.
    if itemsize < F32:
        parts["copies to compute with"] = (student + parts["teacher"]) * itemsize // F32
    if fsdp > 1:
        whole = encoder.gathered_parameters(state.student["encoder"])
        # The gathered weights of this block and the next, and their gradient.
        parts["a block's weights"] = whole * (2 * itemsize + F32)
    return (
        parts
        | stored_bytes(objective, shape, rows, remat)
        | working_bytes(objective, shape, rows, remat)
    )


def sharded_bytes(tree: Any, fsdp: int) -> int:
    """Bytes of one device's part of parameters, moments or a teacher."""

    # Small parameters are replicated, and so are those whose sides `fsdp` does not divide.
    def of(leaf) -> int:
        parts = fsdp if "parameter" in parameter_axes(leaf.shape, fsdp) else 1
        return math.prod(leaf.shape) * leaf.dtype.itemsize // parts

    return sum(map(of, jax.tree.leaves(tree)))


def stored_bytes(objective: Objective, shape: RowShape, rows: int, remat: bool) -> dict[str, int]:
    """Bytes that the forward pass stores for the backward pass on one device, by kind."""
    needs, work = objective.needs, work_of(shape, rows)
    a_token, parts = objective.encoder.stored_bytes(remat), {}
    if STUDENT in needs:
        parts["student's blocks"] = rows * work.length * a_token
    if VISIBLE in needs:
        parts["visible blocks"] = rows * work.visible * a_token
    for term in objective.terms.values():
        parts |= term.stored_bytes(work, remat)
    return parts


def working_bytes(objective: Objective, shape: RowShape, rows: int, remat: bool) -> dict[str, int]:
    """Bytes of temporary arrays on one device, by kind.

    They are the largest block's backward pass, and arrays that every device gathers for a moment.
    """
    encoder, work = objective.encoder, work_of(shape, rows)
    length = work.length if objective.needs & {TEACHER, STUDENT} else work.visible
    itemsize = jnp.dtype(encoder.dtype).itemsize
    parts = {
        "a block's backward": rows * length * encoder.working_bytes(remat),
        # Patches in the encoder's dtype; the output of the entry, and its gradient.
        "entry": rows * length * (itemsize * math.prod(encoder.patch) + 2 * F32 * encoder.width),
    }
    for term in objective.terms.values():
        for kind, held in term.working_bytes(work, remat).items():
            parts[kind] = max(held, parts.get(kind, 0))
    return parts
