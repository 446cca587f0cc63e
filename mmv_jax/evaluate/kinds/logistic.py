"""Logistic regressions of many labels at many strengths, in one solve.

Axes: N studies, D width, R principal axes, K labels, S strengths, C = K·S columns.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Num

from mmv_jax.evaluate.kinds.features import MEMORY, principal_axes


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

    Each column minimises `sum of log losses + |w|² / (2 C)` with a free intercept, as scikit-learn
    does. The columns share the two large matrix products of an iteration. The features are first
    rotated to their principal axes, where the initial Hessian is diagonal. Its inverse
    preconditions an L-BFGS. The line search needs no product, since logits are linear along a
    direction.

    Args:
      x: features, standardised by the caller.
      y: 0 or 1.
      known: which labels are known; None for all. A study without a label does not count in that
        task.
      tolerance: of the largest component of a column's gradient, of the mean loss.
    Returns:
      Weights and intercepts, in float64.

    Source: Nocedal and Wright, Numerical Optimization, algorithm 7.4.
    """
    # Tasks share the studies, but each has other known labels: a mask selects them.
    known = np.ones(y.shape, bool) if known is None else known
    tasks, per_task = strengths.shape
    # The rotation loses no solution: where `x` has no variance the penalised weight is 0.
    axes, _ = principal_axes(x)
    # An unknown label may be NaN, and NaN times a mask of 0 is NaN: so it is replaced by 0.
    problem = _Logistic.of(
        x @ axes, np.where(known, y, 0), known=known, strengths=strengths, features=x.shape[1]
    )
    beta = _minimise(problem, tolerance, max_iterations).reshape(-1, tasks, per_task)
    # Rotated back to the caller's features; the last row is the intercept, which does not rotate.
    return np.einsum("dr,rks->dks", axes, beta[:-1]), beta[-1]


@dataclass
class _Logistic:
    """Columns that are still being solved.

    The last row of the parameters is the intercept, which is not penalised.
    """

    z: np.ndarray  # [N, R + 1] features on their principal axes, and a column of ones
    y: np.ndarray  # [N, C]
    known: np.ndarray  # [N, C] 1.0 or 0.0
    penalty: np.ndarray  # [R + 1, C]
    curvature: np.ndarray  # [R + 1, C] of the loss at the start

    @classmethod
    def of(cls, z, y, known, strengths, features) -> "_Logistic":
        per_task = strengths.shape[1]
        # With no more studies than features the classes are easily separated and the minimum is
        # flat: in float32 the search would creep to `max_iterations` there.
        exact = np.float64 if len(z) <= features else np.float32
        z = np.concatenate([z, np.ones((len(z), 1))], axis=1).astype(exact)
        # Hessian with every probability at the prevalence p: p (1 - p) Σ z².
        count = np.maximum(known.sum(axis=0), 1)
        prevalence = np.clip(y.sum(axis=0) / count, 0.01, 0.99)
        # count / N reduces the sum over all studies to those with a label.
        variance = np.repeat(prevalence * (1 - prevalence) * count / len(z), per_task)[None]
        # 1 / C for every weight of a column, 0 for the intercept in the last row.
        penalty = np.concatenate(
            [
                np.repeat(1 / strengths.reshape(1, -1), z.shape[1] - 1, axis=0),
                np.zeros((1, strengths.size)),
            ]
        )
        # 1e-9 because `_direction` divides by this.
        curvature = (z.astype(np.float64) ** 2).sum(axis=0)[:, None] * variance + penalty + 1e-9
        return cls(
            z=z,
            # Columns run task by task with the strength fastest;
            # `fit_logistic` reshapes in this order.
            y=np.repeat(y, per_task, axis=1).astype(exact),
            known=np.repeat(known, per_task, axis=1).astype(exact),
            penalty=penalty,
            curvature=curvature,
        )

    def loss(self, logits, beta) -> np.ndarray:
        # log(1 + exp(t)) - y t without overflow: max(t, 0) + log(1 + exp(-|t|)) - y t.
        log_loss = np.maximum(logits, 0) + np.log1p(np.exp(-np.abs(logits))) - self.y * logits
        return (
            # Summed in float64: near the minimum the line search
            # compares losses that are almost equal.
            np.einsum("nc,nc->c", self.known, log_loss, dtype=np.float64)
            + (self.penalty * beta**2).sum(axis=0) / 2
        )

    def gradient(self, logits, beta) -> np.ndarray:
        # exp overflows float32 above 88, so logits are clipped first.
        residual = self.known * (1 / (1 + np.exp(-np.clip(logits, -60, 60))) - self.y)
        return (self.z.T @ residual).astype(np.float64) + self.penalty * beta

    def keep(self, columns) -> "_Logistic":
        return _Logistic(
            self.z,
            self.y[:, columns],
            known=self.known[:, columns],
            penalty=self.penalty[:, columns],
            curvature=self.curvature[:, columns],
        )


def _minimise(problem: _Logistic, tolerance: float, max_iterations: int) -> np.ndarray:
    """L-BFGS in step over columns; converged columns leave the arrays once they are half."""
    result: np.ndarray = np.zeros(problem.penalty.shape)
    here = np.arange(result.shape[1])  # the columns that the arrays below hold
    beta = result.copy()
    logits = np.zeros_like(problem.y)
    gradient, loss = problem.gradient(logits, beta), problem.loss(logits, beta)
    pairs: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for _ in range(max_iterations):
        # The gradient is of the sum of losses, the tolerance of their mean.
        count = np.maximum(problem.known.sum(axis=0), 1)
        active = np.abs(gradient).max(axis=0) > tolerance * count
        if not active.any():
            break
        # Converged columns still take part in the matrix products. The arrays are
        # copied only when half of the columns can go, which keeps this cheap.
        if active.sum() <= len(here) / 2:
            result[:, here] = beta
            problem, here, beta, logits, gradient, loss = (
                problem.keep(active),
                here[active],
                beta[:, active],
                logits[:, active],
                gradient[:, active],
                loss[active],
            )
            pairs = [(s[:, active], t[:, active], r[active]) for s, t, r in pairs]
            active = np.ones(len(here), bool)
        # Times `active`: a converged column that is still in the arrays must not move.
        direction = _direction(gradient, pairs, problem.curvature) * active[None]
        # The only product before the new gradient: logits are linear in
        # the step, so all trials reuse it.
        along = problem.z @ direction.astype(problem.z.dtype)
        step = _line_search(
            problem,
            logits,
            along=along,
            beta=beta,
            direction=direction,
            loss=loss,
            gradient=gradient,
            active=active,
        )
        moved = step[None] * direction
        beta, logits = beta + moved, logits + (step[None] * along).astype(logits.dtype)
        before, gradient, loss = (
            gradient,
            problem.gradient(logits, beta),
            problem.loss(logits, beta),
        )
        change = gradient - before
        # Curvature condition: a pair needs sᵀy > 0. Otherwise its inverse is 0, which skips it.
        product = (moved * change).sum(axis=0)
        pairs = [
            *pairs[-MEMORY + 1 :],
            (moved, change, np.where(product > 0, 1 / np.maximum(product, 1e-300), 0.0)),
        ]
    result[:, here] = beta
    return result


def _direction(gradient, pairs, curvature) -> np.ndarray:
    """The two-loop recursion; every column has its own memory.

    Pairs whose inverse product is 0 are skipped.
    """
    q, alphas = gradient.copy(), []
    for moved, change, inverse in reversed(pairs):
        alpha = inverse * (moved * q).sum(axis=0)
        q -= alpha[None] * change
        alphas.append(alpha)
    # The initial inverse Hessian is diagonal, since the features lie on their principal axes.
    q /= curvature
    for (moved, change, inverse), alpha in zip(pairs, reversed(alphas)):
        q += (alpha - inverse * (change * q).sum(axis=0))[None] * moved
    return -q


def _line_search(problem, logits, along, beta, direction, loss, gradient, active) -> np.ndarray:
    """Steps that decrease each column's loss enough (Armijo), by halving.

    0 where 20 halvings are not enough, which happens at the limit of float32.
    """
    # Derivative along the direction, negative for a descent. Armijo
    # requires 1e-4 of the decrease that it predicts.
    slope = (gradient * direction).sum(axis=0)
    step, todo = active.astype(np.float64), active.copy()
    for _ in range(20):
        tried = problem.loss(
            logits + (step[None] * along).astype(logits.dtype), beta + step[None] * direction
        )
        # The last term allows for rounding: losses are sums of float32 numbers.
        todo &= tried > loss + 1e-4 * step * slope + 1e-6 * np.abs(loss)
        if not todo.any():
            return step
        step = np.where(todo, step / 2, step)
    return np.where(todo, 0.0, step)
