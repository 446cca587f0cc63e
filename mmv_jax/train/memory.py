"""What a step keeps on one device, in closed form, by kind of array; checked against the compiler's own count (docs/performance.md).

Axes: b rows of a device, L tokens, F tokens of the prefix, V visible, M masked, S segments, D width, H hidden, K prototypes.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmv_jax.data.tokens import RowShape
from mmv_jax.models.blocks import hidden_width
from mmv_jax.parallel import parameter_axes
from mmv_jax.train.objective import Objective
from mmv_jax.train.state import TrainState

F32 = 4
# Arrays [b, N, K] of scores that the TPU compiler sets aside memory for. Three are alive at the fullest moment (targets, log probabilities, their
# gradient); as much again lies unused between them. Measured on one program, ViT-L on v5p (docs/performance.md, "Preflight").
SCORES = 6


def step_memory(objective: Objective, state: TrainState, shape: RowShape, rows: int, fsdp: int, remat: bool) -> dict[str, int]:
    """Bytes of one device at the moment when most is held: what the forward pass has stored, as the backward pass begins.

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
        "gradients": student,
        "batch": sum(math.prod(x.shape) * np.dtype(x.dtype).itemsize for x in shape.spec(rows).values()),
    }
    return parts | stored_bytes(objective, shape, rows, remat)


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
        parts["student's blocks"] = rows * shape.length * encoder.depth * block_bytes(encoder, encoder.mlp, remat)
    if objective.mae > 0:
        parts["visible blocks"] = rows * shape.visible * encoder.depth * block_bytes(encoder, encoder.mlp, remat)
        parts["decoder's blocks"] = rows * shape.prefix * decoder.depth * block_bytes(decoder, "gelu", remat)
    if objective.dino > 0:
        parts["dino scores"] = SCORES * F32 * rows * shape.segments * objective.dino_head.prototypes
    if objective.ibot > 0:
        parts["ibot scores"] = SCORES * F32 * rows * shape.masked * objective.ibot_head.prototypes
    return parts


def block_bytes(module, mlp: str, remat: bool) -> int:
    """Bytes a token that a block stores: its input in float32; without remat its products and the operands of attention besides."""
    width, hidden = module.width, hidden_width(module.width, mlp) * (2 if mlp == "swiglu" else 1)
    # qkv, rotated queries and keys, what attention found, its way out, both of the MLP.
    products = (3 + 2 + 1 + 1 + 1) * width + hidden
    return F32 * width + (0 if remat else jnp.dtype(module.dtype).itemsize * products)
