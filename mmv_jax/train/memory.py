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

# Kinds of arrays of the encoder; all others that depend on the rows are those of loss terms.
ENCODER_BLOCKS = ("student's blocks", "visible blocks")
ENCODER_BACKWARD = ("a block's backward", "entry")


def step_memory(
    objective: Objective,
    state: TrainState,
    shape: RowShape,
    rows: int,
    fsdp: int,
    remat: bool | str,
    *,
    tensor: int = 1,
    sequence: int = 1,
) -> dict[str, int]:
    """Bytes of one device, by kind, at the moment of a step that holds the most.

    State and the blocks' stored arrays are held throughout. Beside them are either the scores of
    the loss terms or, when these are gone, one block's backward pass: the larger of the two is
    given.

    Args:
      state: arrays or their shapes.
      rows: of one device.
      fsdp: devices that have rows of their own and share one state.
      tensor, sequence: devices that have the same rows, and share the state too.
      remat: of the encoder (`config.encoder.remat`).
    """
    encoder, same_rows = objective.encoder, tensor * sequence
    sharing = fsdp * same_rows
    student = sharded_bytes(state.student, sharing)
    learns = objective.learning.shapes(state.student)
    learning, of_encoder = (
        sharded_bytes(tree, sharing) for tree in (learns, learns.get("encoder", {}))
    )
    # Each of the student's passes has its own gradient of the encoder; they are added at the end.
    passes = len(objective.needs & {VISIBLE, STUDENT})
    parts = {
        "student": student,
        "teacher": sharded_bytes(state.teacher, sharing),
        "averages": sharded_bytes(state.averages, sharing),
        "moments": sharded_bytes(state.opt_state, sharing),
        "gradients": learning + max(passes - 1, 0) * of_encoder,
        "batch": sum(
            math.prod(x.shape) * np.dtype(x.dtype).itemsize for x in shape.spec(rows).values()
        ),
    }
    itemsize = jnp.dtype(encoder.dtype).itemsize
    # Weights are kept in float32, and are cast to the dtype of the products.
    if itemsize < F32:
        parts["copies to compute with"] = (student + parts["teacher"]) * itemsize // F32
    if sharing > 1:
        whole = encoder.gathered_parameters(state.student["encoder"])
        # The gathered weights of this block and the next, and their gradient.
        parts["a block's weights"] = whole * (2 * itemsize + F32) // tensor
    if getattr(encoder, "frozen", 0):
        # A scan over some of the stacked blocks reads a slice of their parameters.
        blocks = sharded_bytes(state.student["encoder"]["blocks"], sharing)
        parts["slices of frozen blocks"] = blocks * encoder.frozen // encoder.depth
    if objective.parts > 1:
        parts["tokens of all parts"] = _joined_bytes(objective, shape, rows) // sequence
    of_rows = _largest_moment(
        stored_bytes(objective, shape, rows, remat), working_bytes(objective, shape, rows, remat)
    )
    # Heads, hidden channels, tokens and scores are shared out by those that have the same rows. The
    # input of a block, a tenth of it or less, is whole along `tensor`; that is left out.
    return parts | {kind: held // same_rows for kind, held in of_rows.items()}


def _largest_moment(stored: dict[str, int], working: dict[str, int]) -> dict[str, int]:
    """What a step holds by kind: all along, and at the end of the forward pass or in the encoder's
    backward pass, whichever is more.
    """
    kept = {kind: held for kind, held in stored.items() if kind in ENCODER_BLOCKS}
    backward = {kind: held for kind, held in working.items() if kind in ENCODER_BACKWARD}
    # The terms' own backward passes end before the encoder's begins.
    loss = {
        kind: held
        for kind, held in (stored | working).items()
        if kind not in kept and kind not in backward
    }
    return kept | max(loss, backward, key=lambda moment: sum(moment.values()))


def sharded_bytes(tree: Any, fsdp: int) -> int:
    """Bytes of one device's part of parameters, moments or a teacher."""

    # Small parameters are replicated, and so are those whose sides `fsdp` does not divide.
    def of(leaf) -> int:
        parts = fsdp if "parameter" in parameter_axes(leaf.shape, fsdp) else 1
        return math.prod(leaf.shape) * leaf.dtype.itemsize // parts

    return sum(map(of, jax.tree.leaves(tree)))


def _joined_bytes(objective: Objective, shape: RowShape, rows: int) -> int:
    """Bytes of the tokens that the terms read where the rows pass through the encoder in parts, and
    of their gradients.
    """
    needs, work = objective.needs, work_of(objective, shape, rows)
    lengths = {STUDENT: 2 * work.length, VISIBLE: 2 * work.visible, TEACHER: work.prefix}
    tokens = sum(length for name, length in lengths.items() if name in needs)
    return F32 * rows * tokens * objective.encoder.width


def stored_bytes(
    objective: Objective, shape: RowShape, rows: int, remat: bool | str
) -> dict[str, int]:
    """Bytes that the forward pass stores for the backward pass on one device, by kind."""
    needs, work = objective.needs, work_of(objective, shape, rows)
    a_token, parts = objective.encoder.stored_bytes(remat), {}
    if STUDENT in needs:
        parts["student's blocks"] = rows // work.parts * work.length * a_token
    if VISIBLE in needs:
        parts["visible blocks"] = rows // work.parts * work.visible * a_token
    for term in objective.terms.values():
        parts |= term.stored_bytes(work, remat)
    return parts


def working_bytes(
    objective: Objective, shape: RowShape, rows: int, remat: bool | str
) -> dict[str, int]:
    """Bytes of temporary arrays on one device, by kind.

    They are the largest block's backward pass, and arrays that every device gathers for a moment.
    """
    encoder, work = objective.encoder, work_of(objective, shape, rows)
    length = work.length if objective.needs & {TEACHER, STUDENT} else work.visible
    itemsize, at_once = jnp.dtype(encoder.dtype).itemsize, rows // work.parts
    parts = {
        "a block's backward": at_once * length * encoder.working_bytes(remat),
        # Patches in the encoder's dtype; the output of the entry, and its gradient.
        "entry": at_once * length * (itemsize * math.prod(encoder.patch) + 2 * F32 * encoder.width),
    }
    for term in objective.terms.values():
        for kind, held in term.working_bytes(work, remat).items():
            parts[kind] = max(held, parts.get(kind, 0))
    return parts


def size(held: int) -> str:
    """A number of bytes in words.

    Example:
      >>> size(3 * 2**29), size(2**20)
      ('1.50 GiB', '1.0 MiB')
    """
    return f"{held / 2**30:.2f} GiB" if held >= 2**27 else f"{held / 2**20:.1f} MiB"
