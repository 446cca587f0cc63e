"""The attentive pooling of a task: learnt queries weight the patch tokens.

Axes: N studies, n tokens, D width, H queries, A width of a key.
"""

from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from mmv_jax.evaluate.finetune.gradient_descent import Recipe, fit, in_batches, init_params
from mmv_jax.evaluate.kinds.table import KINDS
from mmv_jax.evaluate.tasks.task import Task

QUERIES, KEY_WIDTH = 4, 32
WIDTH = 256  # principal axes of tokens: memory does not grow with the number of joined blocks
# A small model: passes over few studies are few steps.
RECIPE = Recipe(epochs=100, patience=20, weight_decay=0.1)


class AttentivePooling(nn.Module):
    """Weighted means of the tokens, one a query, and the output of a linear head on all of them.

    Source: the attentive probe of Chen et al., CAE (arXiv 2202.03026), section 4, without its MLP.
    """

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "N n D"], there: Bool[Array, "N n"]
    ) -> tuple[Float[Array, "N E"], Float[Array, "N"]]:
        # Queries start at 0, where the pooling is the mean; they learn what the mean lacks.
        keys = nn.Dense(KEY_WIDTH, use_bias=False, name="keys")(tokens)
        queries = self.param("queries", nn.initializers.normal(1e-2), (QUERIES, KEY_WIDTH))
        scores = jnp.einsum("bna,ha->bhn", keys, queries)
        # exp(-inf) = 0: padding gets no weight.
        weights = jax.nn.softmax(jnp.where(there[:, None], scores, -jnp.inf), axis=-1)
        pooled = jnp.einsum("bhn,bnd->bhd", weights, tokens).reshape(len(tokens), -1)
        return pooled, nn.Dense(1, name="head")(pooled)[:, 0]


def attentive_vectors(
    tokens: Sequence[np.ndarray], task: Task, seed: int
) -> Float[np.ndarray, "N E"]:
    """The pooled vectors of a task's studies.

    Queries are fitted on train and stopped by val; test labels are not read.

    Args:
      tokens: [n, D] of each study of the task, in its order.
    """
    low, there = _on_principal_axes(tokens, task.split == "train")
    kind = KINDS[task.kind].fitted_to(task.labels[task.split == "train"])
    model = AttentivePooling()
    train, val = task.split == "train", task.split == "val"
    whole = {"tokens": low, "there": there}
    data = {name: array[train] for name, array in whole.items()}
    held = {name: array[val] for name, array in whole.items()}

    def outputs(params, batch) -> tuple[Array, Array]:
        return model.apply({"params": params}, jnp.float32(batch["tokens"]), batch["there"])

    def loss_fn(params, batch: Mapping[str, Array], key: Array) -> Float[Array, ""]:
        out = outputs(params, batch)[1]
        # `counted` is for voxels of masks; here every study counts.
        return kind.loss(out, batch["truth"], jnp.ones_like(out))

    answer = jax.jit(lambda params, batch: kind.answer(outputs(params, batch)[1]))
    pooled = jax.jit(lambda params, batch: outputs(params, batch)[0])

    def score(params) -> float:
        found = in_batches(lambda batch: answer(params, batch), held, RECIPE.batch)
        return kind.score(found, task.labels[val], [])

    params = init_params(model, seed, jnp.float32(low[:1]), jnp.asarray(there[:1]))
    data["truth"] = task.labels[train].astype(np.float32)
    found = fit(params, loss_fn, data=data, score=score, recipe=RECIPE, seed=seed)
    return in_batches(lambda batch: pooled(found.params, batch), whole, RECIPE.batch)


def _on_principal_axes(
    tokens: Sequence[np.ndarray], fitted_on: Bool[np.ndarray, " N"]
) -> tuple[np.ndarray, Bool[np.ndarray, "N n"]]:
    """Tokens [N, n, at most WIDTH] in float16, padded with zeros, and a mask of the tokens.

    They are standardised, then projected on the principal axes of the chosen studies. The result
    has unit variance along the first axis.
    """
    own = [x for x, chosen in zip(tokens, fitted_on) if chosen]
    # Sums run study by study: one joined array would hold all tokens a second time.
    count = sum(map(len, own))
    mean = sum(x.sum(axis=0, dtype=np.float64) for x in own) / count
    variance = sum(np.square(x - mean).sum(axis=0) for x in own) / count
    scale = np.sqrt(np.where(variance > 1e-12, variance, 1.0))
    gram = sum(((x - mean) / scale).T @ ((x - mean) / scale) for x in own) / count
    values, axes = np.linalg.eigh(gram)
    # eigh sorts ascending, hence the reversal. One scale keeps the proportions of the axes.
    turn = axes[:, ::-1][:, :WIDTH] / np.sqrt(max(values[-1], 1e-12))
    most = max(map(len, tokens))
    low = np.zeros((len(tokens), most, turn.shape[1]), np.float16)
    there = np.zeros((len(tokens), most), bool)
    for n, x in enumerate(tokens):
        low[n, : len(x)], there[n, : len(x)] = ((x - mean) / scale) @ turn, True
    return low, there
