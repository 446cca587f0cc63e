"""The probe sweep, with every task and strength in one solve, and scikit-learn's
LogisticRegression.

Both work on the same grid. Axes: N studies, D width.
"""

import time
from collections.abc import Iterable
from importlib.util import find_spec

import numpy as np
from threadpoolctl import threadpool_limits

from mmv_jax.bench.run import case
from mmv_jax.evaluate.kinds.classification import STRENGTHS
from mmv_jax.evaluate.kinds.features import Standardiser
from mmv_jax.evaluate.kinds.logistic import fit_logistic
from mmv_jax.metrics.weighted import weighted_auroc

STUDIES = (800, 4000)  # for training
TASKS = 4
PEER = "scikit-learn LogisticRegression"


def bench_probe(
    studies: tuple[int, ...] = STUDIES,
    width: int = 384,
    tasks: int = TASKS,
    strengths: tuple[float, ...] = STRENGTHS,
) -> dict:
    """Seconds of a sweep, ours and scikit-learn's in turn; their AUROCs, which must agree.

    The time is processor time of one thread. With two threads, scikit-learn's small products wait
    for each other, and ours would look twenty times faster than it is. Without scikit-learn (extra
    `dev`) there are no cases, and the notes have our time.

    Returns:
      `{"bench": "probe", "cases": [...], "notes": [...]}`; cases as `mmv bench --json` prints them.
    """
    cases, notes = [], []
    with_peer = find_spec("sklearn") is not None
    if not with_peer:
        notes.append("scikit-learn is not installed (extra `dev`): its cases are left out.")
    for n in studies:
        # The last 1000 are for testing.
        x, y = correlated(n + 1000, width, tasks)
        name = f"{tasks} tasks x {len(strengths)} strengths, {n} studies x {width}"
        with threadpool_limits(1):
            start = time.process_time()
            weights, bias = fit_logistic(x[:n], y[:n], np.tile(np.asarray(strengths), (tasks, 1)))
            ours_s = time.process_time() - start
            notes.append(f"{name}: ours takes {1e3 * ours_s:.0f} ms.")
            if not with_peer:
                continue
            start = time.process_time()
            theirs = [[_sklearn(x[:n], y[:n, k], s) for s in strengths] for k in range(tasks)]
            theirs_s = time.process_time() - start
        logits = np.einsum("nd,dks->nks", x[n:], weights) + bias[None]
        said = [[model.decision_function(x[n:]) for model in models] for models in theirs]
        auroc, peer = _aurocs(y[n:], logits.transpose(1, 2, 0)), _aurocs(y[n:], said)
        cases.append(case(name, ours_s, theirs_s, PEER))
        mean, peer_mean = float(auroc.mean()), float(peer.mean())
        same = {"ours": mean, "peer": peer_mean, "peer_name": PEER, "ratio": mean / peer_mean}
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


def _sklearn(x: np.ndarray, y: np.ndarray, strength: float):
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=strength, max_iter=1000).fit(x, y)


def _aurocs(truth: np.ndarray, scores: Iterable[Iterable[np.ndarray]]) -> np.ndarray:
    """[tasks, strengths], of `scores` [tasks][strengths][N]."""
    once = np.ones((1, len(truth)))
    return np.array(
        [[weighted_auroc(y, x, once)[0] for x in own] for y, own in zip(truth.T, scores)]
    )
