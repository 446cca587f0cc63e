"""What a step keeps on one device, in closed form, by kind of array; checked against the compiler's
own count (docs/performance.md).

Axes: b rows of a device, L tokens, F tokens of the prefix, V visible, M masked, S segments, D
  width, H hidden, K prototypes.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmv_jax.data.tokens import RowShape
from mmv_jax.models.blocks import hidden_width
from mmv_jax.objectives.ibot import scoring_parts
from mmv_jax.parallel import parameter_axes
from mmv_jax.train.objective import Objective
from mmv_jax.train.state import TrainState

F32 = 4
# How many arrays of one kind are there together, read from what the TPU's compiler made of one
# program, ViT-L on v5p (docs/performance.md, "Preflight"): of DINO's scores [b, S, K] the
# teacher's, the student's, the summed targets and a gradient; of the tokens that iBOT scores at a
# time [b, 64, K] scores, targets and a gradient.
DINO_SCORES = 4
IBOT_PARTS = 3


def step_memory(
    objective: Objective, state: TrainState, shape: RowShape, rows: int, fsdp: int, remat: bool
) -> dict[str, int]:
    """Bytes of one device, by kind: what the forward pass has stored, the scores, and what the
    backward pass of one block works with.

    A sum, though scores and blocks are not worked with at the same time: nearer to what the TPU's
    compiler sets aside than the largest moment is.

    Args:
      state: shapes will do.
      rows: of one device.
      fsdp: devices that share one state.
      remat: whether blocks store their input alone.
    """
    student = sharded_bytes(state.student, fsdp)
    parts = {
        "student": student,
        "teacher": sharded_bytes(state.teacher, fsdp),
        "moments": sharded_bytes(state.opt_state, fsdp),
        # Masked reconstruction and self-distillation each sum the encoder's; they meet at the end.
        "gradients": (
            student
            + (
                sharded_bytes(state.student["encoder"], fsdp)
                if objective.mae > 0 and objective.distils
                else 0
            )
        ),
        "batch": sum(
            math.prod(x.shape) * np.dtype(x.dtype).itemsize for x in shape.spec(rows).values()
        ),
    }
    itemsize = jnp.dtype(objective.encoder.dtype).itemsize
    if itemsize < F32:
        parts["copies to compute with"] = (student + parts["teacher"]) * itemsize // F32
    if fsdp > 1:
        whole = (
            sharded_bytes(state.student["encoder"]["blocks"], 1) // F32 // objective.encoder.depth
        )
        # gathered, the next block's too, and their gradient
        parts["a block's weights"] = whole * (2 * itemsize + F32)
    return (
        parts
        | stored_bytes(objective, shape, rows, remat)
        | working_bytes(objective, shape, rows, remat)
    )


def sharded_bytes(tree: Any, fsdp: int) -> int:
    """Bytes of one device's part of parameters, moments or a teacher."""

    def of(leaf) -> int:
        parts = fsdp if "parameter" in parameter_axes(leaf.shape, fsdp) else 1
        return math.prod(leaf.shape) * leaf.dtype.itemsize // parts

    return sum(map(of, jax.tree.leaves(tree)))


def stored_bytes(objective: Objective, shape: RowShape, rows: int, remat: bool) -> dict[str, int]:
    """What the forward pass leaves for the backward pass on one device, by kind."""
    parts, encoder, decoder = {}, objective.encoder, objective.decoder
    if objective.distils:
        parts["student's blocks"] = (
            rows * shape.length * encoder.depth * block_bytes(encoder, encoder.mlp, remat)
        )
    if objective.mae > 0:
        parts["visible blocks"] = (
            rows * shape.visible * encoder.depth * block_bytes(encoder, encoder.mlp, remat)
        )
        parts["decoder's blocks"] = (
            rows * shape.prefix * decoder.depth * block_bytes(decoder, "gelu", remat)
        )
    if objective.dino > 0:
        parts["dino scores"] = (
            DINO_SCORES * F32 * rows * shape.segments * objective.dino_head.prototypes
        )
    if objective.ibot > 0:
        # The targets are there whole; the student's scores are not
        # (objectives.masked_cross_entropy).
        tokens = shape.masked + IBOT_PARTS * scoring_parts(shape.masked)[1]
        parts["ibot scores"] = F32 * rows * tokens * objective.ibot_head.prototypes
    return parts


def working_bytes(objective: Objective, shape: RowShape, rows: int, remat: bool) -> dict[str, int]:
    """What comes and goes on one device: the backward pass of the largest block, and what every
    device has whole for a moment.
    """
    encoder, decoder, parts = objective.encoder, objective.decoder, {}
    length = shape.length if objective.distils else shape.visible
    itemsize = jnp.dtype(encoder.dtype).itemsize
    blocks = [rows * length * backward_bytes(encoder, encoder.mlp, remat)]
    if objective.mae > 0:
        blocks.append(rows * shape.prefix * backward_bytes(decoder, "gelu", remat))
    parts["a block's backward"] = max(blocks)
    # Patches in the encoder's dtype; what leaves the entry, and its gradient.
    parts["entry"] = rows * length * (itemsize * math.prod(encoder.patch) + 2 * F32 * encoder.width)
    if objective.ibot > 0:
        head = objective.ibot_head
        # their gradient, and what is multiplied with
        parts["prototypes"] = head.prototypes * head.bottleneck * (F32 + itemsize)
    return parts


def backward_bytes(module, mlp: str, remat: bool) -> int:
    """Bytes a token that the backward pass of a block holds: gradients of its products and of its
    input, and with remat the products again.
    """
    products = block_bytes(module, mlp, remat=False) - F32 * module.width
    # x, its gradient, a norm; queries and keys five times
    in_float32 = F32 * (3 + (10 if getattr(module, "qk_norm", False) else 0)) * module.width
    return (2 if remat else 1) * products + in_float32


def block_bytes(module, mlp: str, remat: bool) -> int:
    """Bytes a token that a block stores: its input in float32; without remat its products and the
    operands of attention besides.
    """
    width, hidden = module.width, hidden_width(module.width, mlp) * (2 if mlp == "swiglu" else 1)
    # qkv, rotated queries and keys, what attention found, its way out, both of the MLP.
    products = (3 + 2 + 1 + 1 + 1) * width + hidden
    return F32 * width + (0 if remat else jnp.dtype(module.dtype).itemsize * products)
