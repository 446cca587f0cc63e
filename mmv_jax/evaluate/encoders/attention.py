"""The attention of CLS to the patches of a study, in the last block of a ViT.

Axes: B rows, L tokens, H heads, n patch tokens.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mmv_jax.evaluate.encoders.base import segments
from mmv_jax.evaluate.encoders.trained import TrainedEncoder
from mmv_jax.models.blocks import Project
from mmv_jax.models.encoder import Encoder
from mmv_jax.ops.rotary import TABLES
from mmv_jax.store.read import Store


def cls_attention(
    encoder: TrainedEncoder, store: Store, studies: Int[np.ndarray, " N"]
) -> dict[int, Float[np.ndarray, " n"]]:
    """Of each study, the share of its CLS token's attention that each patch gets, the mean over
    heads.

    The shares of a study add up to less than 1: CLS and registers get the rest.

    Raises:
      ValueError: the network is no ViT of this project.
    """
    if not isinstance(encoder.encoder, Encoder):
        raise ValueError("only the attention of a ViT can be read")
    found = {}
    # The same batches as for features, so that tokens and attention are in the same order.
    for batch in encoder.whole.batches(store, studies):
        inputs = (batch[name] for name in ("patches", "coords_mm", "kinds", "segment_ids"))
        shares = np.asarray(last_attention(encoder.encoder, encoder.params, *inputs))
        for study, row, cls, patches in segments(batch):
            # [H, n] of this study: advanced and plain indices mixed put the heads first.
            found[study] = shares[row, :, cls, patches].mean(axis=1)
    return found


@jax.jit(static_argnums=0)
def last_attention(
    encoder: Encoder,
    params: Any,
    patches: Float[Array, "B L P"],
    coords_mm: Float[Array, "B L 3"],
    kinds: Int[Array, "B L"],
    segment_ids: Int[Array, "B L"],
) -> Float[Array, "B H L L"]:
    """The attention of every token to every token in the last block, 0 outside of its segment.

    The blocks give tokens, not attention, so queries and keys of the last one are computed again.
    """
    inputs = patches, coords_mm, kinds, segment_ids
    out = encoder.apply({"params": params}, *inputs)
    # What the last block reads.
    x = out["blocks"][-2] if encoder.depth > 1 else out["embedded"]
    coords = coords_mm / (1.0 if encoder.positions == "axial" else encoder.scale_mm)
    tables = TABLES[encoder.positions](coords, encoder.width // encoder.heads, encoder.rope_base)
    project = Project(
        encoder.heads,
        encoder.attention_bias,
        encoder.qk_norm,
        encoder.dtype,
        epsilon=encoder.epsilon,
        lora=encoder.lora,
    )
    # Blocks are stacked: the last line of each parameter is the last block's.
    own = jax.tree.map(lambda stacked: stacked[-1], params["blocks"]["stack"]["project"])
    q, k, _ = project.apply({"params": own}, x, tables)
    logits = jnp.einsum("blhk,bmhk->bhlm", q, k).astype(jnp.float32) * q.shape[-1] ** -0.5
    # Padding has the id 0, and must not attend to padding either.
    same = (segment_ids[:, :, None] == segment_ids[:, None, :]) & (segment_ids > 0)[:, None, :]
    return jnp.where(same[:, None], jax.nn.softmax(jnp.where(same[:, None], logits, -1e30)), 0.0)
