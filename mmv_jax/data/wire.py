"""How a batch travels from a host to its devices: int16 slices, one of a planar patch. Axes: B
rows, L tokens, S slices, P voxels of a patch, A voxels of a slice.

A row of 4,096 tokens is 32 MiB of float32. Seven eighths of a radiograph's part of it are copies of
one slice, which the devices can make themselves.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Int16, Shaped

from mmv_jax.data.tokens import RowShape
from mmv_jax.models.kinds import PATCH

# Intensities are about [-1, 1], and noise and gamma lead beyond: a step of 2^-13 reaches 4. Powers
# of two, so that float32 holds every value exactly.
SCALE = 2**13
# a batch's arrays as the model reads them, and as they travel
FIELDS = {"patches": "slices", "clean_patches": "clean_slices"}
PARTS = 16  # S is a multiple of this share of the most: so many shapes, and programs, at most


def to_steps(x: Float[np.ndarray, "*n"]) -> Int16[np.ndarray, "*n"]:
    """Intensities as whole numbers of steps of 2^-13."""
    return np.rint(x * np.float32(SCALE)).clip(-(2**15), 2**15 - 1).astype(np.int16)


def encode(batch: Mapping[str, np.ndarray], shape: RowShape) -> dict[str, np.ndarray]:
    """A batch as it travels: patches are slices [B, S, A] in the order of their tokens; S is as
    large as the fullest row of the batch needs.
    """
    sent = {name: array for name, array in batch.items() if name not in FIELDS}
    for name, slices in FIELDS.items():
        if name in batch:
            sent[slices] = _slices(batch[name], _depths(np, batch, shape, name), shape)
    return sent


def decode(sent: Mapping[str, Any], shape: RowShape) -> dict[str, Any]:
    """The batch that was encoded, on a device or, of NumPy's arrays, on the host; its patches are
    multiples of 2^-13 (`to_steps`), the same to the last bit in both places.
    """
    xp: Any = np if isinstance(sent["kinds"], np.ndarray) else jnp
    batch = {name: array for name, array in sent.items() if name not in FIELDS.values()}
    for name, slices in FIELDS.items():
        if slices in sent:
            batch[name] = _patches(xp, sent[slices], _depths(xp, sent, shape, name), shape)
    return batch


def _depths(xp: Any, batch: Mapping[str, Any], shape: RowShape, name: str) -> Any:
    """[B, L]: how many slices of each token travel: 0 (no patch), 1 (planar) or the patch's
    depth.
    """
    segment = xp.maximum(batch["segment_ids"] - 1, 0)
    planar = xp.take_along_axis(batch["planar"], segment, axis=1)
    there = batch["kinds"] == PATCH
    if name == "clean_patches":
        # Reconstruction reads global crops alone, which stand in the prefix.
        there = (there & xp.take_along_axis(batch["is_global"], segment, axis=1))[:, : shape.prefix]
        planar = planar[:, : shape.prefix]
    return xp.where(there, xp.where(planar, 1, shape.patch[0]), 0).astype(np.int32)


def _slices(
    patches: Float[np.ndarray, "B L P"], depths: Int[np.ndarray, "B L"], shape: RowShape
) -> Shaped[np.ndarray, "B S A"]:
    deep, area = shape.patch[0], shape.patch[1] * shape.patch[2]
    rows, tokens = depths.shape
    kept: Bool[np.ndarray, "B L D"] = np.arange(deep) < depths[:, :, None]
    own = [to_steps(patches[b].reshape(tokens, deep, area)[kept[b]]) for b in range(rows)]
    part, most = -(-tokens * deep // PARTS), max(1, *map(len, own))
    slices = np.zeros((rows, -(-most // part) * part, area), own[0].dtype)
    for b in range(rows):
        slices[b, : len(own[b])] = own[b]
    return slices


def _patches(xp: Any, slices: Any, depths: Any, shape: RowShape) -> Any:
    """The patches [B, L, P] of slices [B, S, A]."""
    first = xp.cumsum(depths, axis=1) - depths
    # A planar patch takes its one slice for every z.
    z = xp.where(depths[:, :, None] > 1, xp.arange(shape.patch[0]), 0)
    rows, tokens = depths.shape
    # A token without a patch may point behind the end; its values are taken away below.
    index = xp.minimum((first[:, :, None] + z).reshape(rows, -1), slices.shape[1] - 1)
    found = slices[xp.arange(rows)[:, None], index].reshape(rows, tokens, -1)
    values = found.astype(np.float32) / np.float32(SCALE)
    return xp.where(depths[:, :, None] > 0, values, np.float32(0))
