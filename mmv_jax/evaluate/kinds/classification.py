"""Probes of frozen features: every task and strength in one solve. Axes: N studies, D width, K
tasks, S strengths, C = K·S columns.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Num

from mmv_jax.evaluate.kinds.features import MEMORY, Probed, Standardiser, principal_axes

# C of the logistic probe, as scikit-learn defines it: weight of the losses' sum
STRENGTHS = tuple(10.0**e for e in np.arange(-5, 1.5, 0.5))


def fit_logistic(
    x: Float[np.ndarray, "N D"],
    y: Num[np.ndarray, "N K"],
    strengths: Float[np.ndarray, "K S"],
    known: Bool[np.ndarray, "N K"] | None = None,
    *,
    tolerance: float = 1e-5,
    max_iterations: int = 500,
) -> tuple[Float[np.ndarray, "D K S"], Float[np.ndarray, "K S"]]:
    """L2-regularised logistic regression of K labels at S strengths each, all columns in step.

    Each column minimises `sum of log losses + |w|² / (2 C)`, the intercept free, as scikit-learn
    does. The columns share the two large matrix products of an iteration, and the features are
    rotated to their principal axes first, where the Hessian at the start is
    diagonal: its inverse preconditions an L-BFGS whose line search costs no product (logits are
      linear along a direction).

    Args:
      x: features, standardised by the caller.
      y: 0 or 1.
      known: which labels exist; None for all. Studies without a label do not count in that task.
      tolerance: of the largest component of a column's gradient, of the mean loss.
    Returns:
      Weights and intercepts, in float64.

    Source: Nocedal and Wright, Numerical Optimization, algorithm 7.4.
    """
    known = np.ones(y.shape, bool) if known is None else known
    tasks, per_task = strengths.shape
    axes, _ = principal_axes(x)
    problem = _Logistic.of(x @ axes, np.where(known, y, 0), known, strengths)
    beta = _minimise(problem, tolerance, max_iterations).reshape(-1, tasks, per_task)
    return np.einsum("dr,rks->dks", axes, beta[:-1]), beta[-1]


@dataclass
class _Logistic:
    """Columns that are still being solved; the last line of a parameter is the intercept, which is
    not penalised.
    """

    z: np.ndarray  # [N, R + 1] features on their principal axes, and a column of ones
    y: np.ndarray  # [N, C]
    known: np.ndarray  # [N, C] 1.0 or 0.0
    penalty: np.ndarray  # [R + 1, C]
    curvature: np.ndarray  # [R + 1, C] of the loss at the start

    @classmethod
    def of(cls, z, y, known, strengths) -> "_Logistic":
        per_task = strengths.shape[1]
        z = np.concatenate([z, np.ones((len(z), 1))], axis=1).astype(np.float32)
        count = np.maximum(known.sum(axis=0), 1)
        prevalence = np.clip(y.sum(axis=0) / count, 0.01, 0.99)
        variance = np.repeat(prevalence * (1 - prevalence) * count / len(z), per_task)[None]
        penalty = np.concatenate(
            [
                np.repeat(1 / strengths.reshape(1, -1), z.shape[1] - 1, axis=0),
                np.zeros((1, strengths.size)),
            ]
        )
        curvature = (z.astype(np.float64) ** 2).sum(axis=0)[:, None] * variance + penalty + 1e-9
        return cls(
            z,
            np.repeat(y, per_task, axis=1).astype(np.float32),
            np.repeat(known, per_task, axis=1).astype(np.float32),
            penalty,
            curvature,
        )

    def loss(self, logits, beta) -> np.ndarray:
        log_loss = np.maximum(logits, 0) + np.log1p(np.exp(-np.abs(logits))) - self.y * logits
        return (
            np.einsum("nc,nc->c", self.known, log_loss, dtype=np.float64)
            + (self.penalty * beta**2).sum(axis=0) / 2
        )

    def gradient(self, logits, beta) -> np.ndarray:
        residual = self.known * (1 / (1 + np.exp(-np.clip(logits, -60, 60))) - self.y)
        return (self.z.T @ residual).astype(np.float64) + self.penalty * beta

    def keep(self, columns) -> "_Logistic":
        return _Logistic(
            self.z,
            self.y[:, columns],
            self.known[:, columns],
            self.penalty[:, columns],
            self.curvature[:, columns],
        )


def _minimise(problem: _Logistic, tolerance: float, max_iterations: int) -> np.ndarray:
    """L-BFGS in step over columns; those that have converged leave the arrays once they are half of
    them.
    """
    result: np.ndarray = np.zeros(problem.penalty.shape)
    here = np.arange(result.shape[1])  # the columns that the arrays below hold
    beta = result.copy()
    logits = np.zeros(problem.y.shape, np.float32)
    gradient, loss = problem.gradient(logits, beta), problem.loss(logits, beta)
    pairs: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for _ in range(max_iterations):
        count = np.maximum(problem.known.sum(axis=0), 1)
        active = np.abs(gradient).max(axis=0) > tolerance * count
        if not active.any():
            break
        if active.sum() <= len(here) / 2:
            result[:, here] = beta
            problem, here, beta, logits, gradient, loss = (
                problem.keep(active), here[active], beta[:, active], logits[:, active], gradient[:, active], loss[active],
            )  # fmt: skip
            pairs = [(s[:, active], t[:, active], r[active]) for s, t, r in pairs]
            active = np.ones(len(here), bool)
        direction = _direction(gradient, pairs, problem.curvature) * active[None]
        along = problem.z @ direction.astype(np.float32)
        step = _line_search(problem, logits, along, beta, direction, loss, gradient, active)
        moved = step[None] * direction
        beta, logits = beta + moved, logits + (step[None] * along).astype(np.float32)
        before, gradient, loss = (
            gradient,
            problem.gradient(logits, beta),
            problem.loss(logits, beta),
        )
        change = gradient - before
        product = (moved * change).sum(axis=0)
        pairs = [
            *pairs[-MEMORY + 1 :],
            (moved, change, np.where(product > 0, 1 / np.maximum(product, 1e-300), 0.0)),
        ]
    result[:, here] = beta
    return result


def _direction(gradient, pairs, curvature) -> np.ndarray:
    """The two-loop recursion, every column with its own memory; a pair with 0 for its inverse
    product is passed over.
    """
    q, alphas = gradient.copy(), []
    for moved, change, inverse in reversed(pairs):
        alpha = inverse * (moved * q).sum(axis=0)
        q -= alpha[None] * change
        alphas.append(alpha)
    q /= curvature
    for (moved, change, inverse), alpha in zip(pairs, reversed(alphas)):
        q += (alpha - inverse * (change * q).sum(axis=0))[None] * moved
    return -q


def _line_search(problem, logits, along, beta, direction, loss, gradient, active) -> np.ndarray:
    """Steps that decrease each column's loss enough (Armijo), by halving; 0 where 20 halvings do
    not, which float32 reaches at the end.
    """
    slope = (gradient * direction).sum(axis=0)
    step, todo = active.astype(np.float64), active.copy()
    for _ in range(20):
        tried = problem.loss(
            logits + (step[None] * along).astype(np.float32), beta + step[None] * direction
        )
        # the last term: losses are sums of float32 numbers
        todo &= tried > loss + 1e-4 * step * slope + 1e-6 * np.abs(loss)
        if not todo.any():
            return step
        step = np.where(todo, step / 2, step)
    return np.where(todo, 0.0, step)


def probe_classes(
    x: Float[np.ndarray, "N D"],
    labels: Float[np.ndarray, "N K"],
    split: np.ndarray,
    strengths: tuple[float, ...] = STRENGTHS,
) -> list[Probed]:
    """Logistic probes of K binary labels (NaN where unknown): fitted on train, strength by the log
    loss on val, refitted on train and val.

    Args:
      split: "train", "val" or "test" of each study.
    Returns:
      One result a label; `predicted` is the probability of each test study (in the order of `x`),
      whether its label is known or not.
    """
    train, val, test = (split == name for name in ("train", "val", "test"))
    grid = np.tile(np.asarray(strengths), (labels.shape[1], 1))
    standard = Standardiser.of(x[train])
    weights, bias = fit_logistic(standard(x[train]), labels[train], grid, ~np.isnan(labels[train]))
    logits = np.einsum("nd,dks->nks", standard(x[val]), weights) + bias[None]
    loss = np.logaddexp(0, logits) - np.nan_to_num(labels[val])[:, :, None] * logits
    known = ~np.isnan(labels[val])
    chosen = np.asarray(strengths)[np.argmin((loss * known[:, :, None]).sum(axis=0), axis=1)]

    both = train | val
    standard = Standardiser.of(x[both])
    weights, bias = fit_logistic(
        standard(x[both]), labels[both], chosen[:, None], ~np.isnan(labels[both])
    )
    logits = standard(x[test]) @ weights[:, :, 0] + bias[None, :, 0]
    return [Probed(p, float(c)) for p, c in zip((1 / (1 + np.exp(-logits))).T, chosen)]
