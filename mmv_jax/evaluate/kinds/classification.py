"""Classification: logistic probes of frozen features, with all tasks and strengths in one solve.

Axes: N studies, M of test, D width, K tasks or draws, S strengths, C = K·S columns.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Array, Bool, Float, Num

from mmv_jax.errors import UserError
from mmv_jax.evaluate.kinds.features import MEMORY, Probed, Standardiser, principal_axes
from mmv_jax.evaluate.kinds.kind import Kind
from mmv_jax.evaluate.tasks.columns import equals, refuse_spellings, unknown_of_two, values_there
from mmv_jax.evaluate.tasks.task import Task
from mmv_jax.metrics.features import knn_probabilities
from mmv_jax.metrics.intervals import Interval, interval
from mmv_jax.metrics.refinement import refined_log_loss
from mmv_jax.metrics.weighted import Weighted

# C of the logistic probe as scikit-learn defines it: the weight of the summed losses.
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


def probe_classes(
    x: Float[np.ndarray, "N D"],
    labels: Float[np.ndarray, "N K"],
    split: np.ndarray,
    strengths: tuple[float, ...] = STRENGTHS,
) -> list[Probed]:
    """Logistic probes of K binary labels (NaN where unknown).

    They are fitted on train, with the strength chosen by the log loss on val, then refitted on
    train and val.

    Args:
      split: "train", "val" or "test" of each study.
    Returns:
      One result a label; `predicted` is the probability of each test study (in the order of `x`),
      whether its label is known or not, and `held_out` is minus the log loss on val.
    """
    train, val, test = (split == name for name in ("train", "val", "test"))
    grid = np.tile(np.asarray(strengths), (labels.shape[1], 1))
    standard = Standardiser.of(x[train])
    weights, bias = fit_logistic(standard(x[train]), labels[train], grid, ~np.isnan(labels[train]))
    logits = np.einsum("nd,dks->nks", standard(x[val]), weights) + bias[None]
    # Unknown labels enter as 0; the mask removes their loss from the sum.
    loss = np.logaddexp(0, logits) - np.nan_to_num(labels[val])[:, :, None] * logits
    known = ~np.isnan(labels[val])
    total = (loss * known[:, :, None]).sum(axis=0)
    # argmin takes the first of equal losses: the smallest C, which is the strongest penalty.
    chosen = np.asarray(strengths)[np.argmin(total, axis=1)]
    held_out = -total.min(axis=1) / np.maximum(known.sum(axis=0), 1)
    best = np.take_along_axis(logits, np.argmin(total, axis=1)[None, :, None], axis=2)[:, :, 0]
    on_val = (1 / (1 + np.exp(-best))).T

    # All choices are made, so val may be fitted on too; test took no part in any of them.
    both = train | val
    standard = Standardiser.of(x[both])
    weights, bias = fit_logistic(
        standard(x[both]), labels[both], chosen[:, None], ~np.isnan(labels[both])
    )
    logits = standard(x[test]) @ weights[:, :, 0] + bias[None, :, 0]
    probabilities = (1 / (1 + np.exp(-logits))).T
    return [
        Probed(p, float(c), float(h), v)
        for p, c, h, v in zip(probabilities, chosen, held_out, on_val)
    ]


class Classification(Kind):
    """A label that is 0 or 1. A study is positive if its column has the value `positive`."""

    metrics: Mapping[str, str | Weighted] = {
        name: name
        for name in ("auroc", "auprc", "auprc_skill", "brier", "calibration", "calibration_slope")
    }
    lower_is_better = frozenset({"brier", "calibration"})
    labels = {
        "auroc": "AUROC",
        "knn_auroc": "kNN AUROC",
        "auprc": "AUPRC",
        "auprc_skill": "AUPRC skill",
        "brier": "Brier",
        "calibration": "calibration error",
        "calibration_slope": "calibration slope",
    }
    has_classes = True
    chance = 0.5
    shares_axis = True

    def read_labels(
        self, values: pd.Series, *, task: str, label: str, positive: Any
    ) -> Float[np.ndarray, " N"]:
        # An empty cell is an unknown label, not a negative one.
        missing, asked_by = unknown_of_two(values), f"config.tasks.{task}"
        if positive is None:
            # Of other values nobody has said that they are negative.
            if not (missing | equals(values, (0, 1), asked_by)).all():
                raise UserError(
                    f"{asked_by}: {label!r} has the values {values_there(values)}. Say which of"
                    " them are positive (`positive`): all others count as negative. Or ask for"
                    " kind 'multiclass'."
                )
            positive = 1
        found = equals(values, positive, f"{asked_by}.positive")
        if not found.any() and not missing.all():
            raise UserError(
                f"{asked_by}.positive is {positive!r}, which no study has. {label!r} has the values"
                f" {values_there(values)}."
            )
        refuse_spellings(values[~missing & ~found], positive, asked_by)
        return np.where(missing, np.nan, found.astype(np.float64))

    def check_split(self, task: Task, split: str) -> None:
        there = task.labels[task.split == split]
        if len(np.unique(there)) < 2:
            which = "positive" if there.any() else "negative"
            raise UserError(
                f"config.tasks.{task.name}: all {len(there)} studies of {task.called(split)} have"
                f" the same label, {which}. Leave the task out, or divide the patients anew."
            )

    def probe(self, x: Float[np.ndarray, "N D"], tasks: Sequence[Task]) -> list[Probed]:
        labels = np.stack([task.labels for task in tasks], axis=1)
        return probe_classes(x, labels, tasks[0].split)

    def more_metrics(self, task: Task, x: Float[np.ndarray, "N D"]) -> dict[str, Interval]:
        """The AUROC of the 20 nearest neighbours among train and val."""
        test = task.split == "test"
        # [1] is the share of votes [M, C]; classes are sorted, so column 1 is the class 1.
        nearest = knn_probabilities(x[~test], task.labels[~test], x[test])[1][:, 1]
        return {"knn_auroc": interval("auroc", task.labels[test], nearest, task.patients[test])}

    def shown_first(self, labels: Float[np.ndarray, " n"]) -> list[Bool[np.ndarray, " n"]]:
        return [labels == label for label in (0, 1)]

    def fit_draws(
        self, x: Float[np.ndarray, "N D"], task: Task, drawn: Bool[np.ndarray, "N K"]
    ) -> Float[np.ndarray, "K M"]:
        """Probabilities; all draws and strengths are one solve over the studies of any draw."""
        return self.fit_known(x, task, task.labels, drawn)

    def fit_known(
        self,
        x: Float[np.ndarray, "N D"],
        task: Task,
        label: Float[np.ndarray, " N"],
        drawn: Bool[np.ndarray, "N K"],
    ) -> Float[np.ndarray, "K M"]:
        """As `fit_draws`, for a label that may be unknown (NaN) in studies that are not drawn."""
        fitted, draws = drawn & (task.split == "train")[:, None], drawn.shape[1]
        used = fitted.any(axis=1)
        labels = np.repeat(label[:, None], draws, axis=1)
        grid = np.tile(np.asarray(STRENGTHS), (draws, 1))
        weights, bias = fit_logistic(x[used], labels[used], grid, fitted[used])
        logits = np.einsum("nd,dks->nks", x, weights) + bias[None]
        val, test = (task.split == "val") & ~np.isnan(label), task.split == "test"
        truth = label[val][:, None, None]
        loss = np.logaddexp(0, logits[val]) - truth * logits[val]
        # Each draw takes the strength with the lowest log loss on its own studies of val.
        loss = (loss * drawn[val][:, :, None]).sum(axis=0)
        return np.stack(
            [1 / (1 + np.exp(-logits[test, k, s])) for k, s in enumerate(loss.argmin(axis=1))]
        )

    def loss(self, out: Array, truth: Array, counted: Array) -> Float[Array, ""]:
        return (jnp.logaddexp(0.0, out) - truth * out).mean()

    def torch_loss(self, out: Any, truth: Any, counted: Any) -> Any:
        from torch.nn.functional import binary_cross_entropy_with_logits

        return binary_cross_entropy_with_logits(out, truth)

    def answer(self, out: Array) -> Array:
        return jax.nn.sigmoid(out)

    def score(self, answers: np.ndarray, truth: np.ndarray, scenes: Sequence[Any]) -> float:
        """Minus the log loss of calibrated predictions, so that over-confidence ends no fit."""
        # A diverged fit predicts NaN.
        return -refined_log_loss(answers, truth) if np.isfinite(answers).all() else float("nan")
