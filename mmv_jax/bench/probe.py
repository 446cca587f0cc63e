"""The probe sweep, with every task and strength in one solve, and scikit-learn's
LogisticRegression.

Both work on the same grid. Axes: N studies, D width.
"""

import time

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_limits

from mmv_jax.bench.run import case
from mmv_jax.evaluate.kinds.classification import STRENGTHS, fit_logistic
from mmv_jax.evaluate.kinds.features import Standardiser

STUDIES = (800, 4000)  # for training
TASKS = 4


def bench_probe(
    studies: tuple[int, ...] = STUDIES,
    width: int = 384,
    tasks: int = TASKS,
    strengths: tuple[float, ...] = STRENGTHS,
) -> dict:
    """Seconds of a sweep, ours and scikit-learn's in turn; their AUROCs, which must agree.

    The time is processor time of one thread. With two threads, scikit-learn's small products wait
    for each other, and ours would look twenty times faster than it is.

    Returns:
      `{"bench": "probe", "cases": [...], "notes": [...]}`; cases as `mmv bench --json` prints them.
    """
    cases, notes = [], []
    for n in studies:
        # The last 1000 are for testing.
        x, y = correlated(n + 1000, width, tasks)
        train, test = slice(0, n), slice(n, None)
        with threadpool_limits(1):
            start = time.process_time()
            weights, bias = fit_logistic(
                x[train], y[train], np.tile(np.asarray(strengths), (tasks, 1))
            )
            # The right side is evaluated first, before `start` changes.
            ours_s, start = time.process_time() - start, time.process_time()
            theirs = [
                [_sklearn(x[train], y[train, k], strength) for strength in strengths]
                for k in range(tasks)
            ]
            theirs_s = time.process_time() - start
        logits = np.einsum("nd,dks->nks", x[test], weights) + bias[None]
        auroc = np.array(
            [
                [roc_auc_score(y[test, k], logits[:, k, s]) for s in range(len(strengths))]
                for k in range(tasks)
            ]
        )
        peer = np.array(
            [
                [roc_auc_score(y[test, k], model.decision_function(x[test])) for model in theirs[k]]
                for k in range(tasks)
            ]
        )
        name = f"{tasks} tasks x {len(strengths)} strengths, {n} studies x {width}"
        cases.append(case(name, ours_s, theirs_s, "scikit-learn LogisticRegression"))
        mean, peer_mean = float(auroc.mean()), float(peer.mean())
        same = {
            "ours": mean,
            "peer": peer_mean,
            "peer_name": "scikit-learn LogisticRegression",
            "ratio": mean / peer_mean,
        }
        cases.append({"case": f"{name}: mean test AUROC", **same, "unit": "AUROC"})
        notes.append(f"{name}: the AUROCs differ by {np.abs(auroc - peer).max():.5f} at most.")
    return {"bench": "probe", "cases": cases, "notes": notes}


def correlated(n: int, width: int, tasks: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Standardised features [N, D] with a falling spectrum, and noisy labels [N, tasks].

    The spectrum is like that of an encoder.
    """
    rng = np.random.default_rng(seed)
    # Column k shrinks as k^-0.7: a spectrum that falls as a power law.
    mixing = rng.normal(size=(width, width)) * np.arange(1, width + 1)[None] ** -0.7
    x = (rng.normal(size=(n, width)) @ mixing.T).astype(np.float32)
    x = Standardiser.of(x)(x)
    logits = x @ (0.2 * rng.normal(size=(width, tasks))) - 0.5
    return x, (rng.uniform(size=(n, tasks)) < 1 / (1 + np.exp(-logits))).astype(np.float64)


def _sklearn(x: np.ndarray, y: np.ndarray, strength: float) -> LogisticRegression:
    return LogisticRegression(C=strength, max_iter=1000).fit(x, y)
