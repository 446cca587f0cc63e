"""Health of features: effective rank, spread, nearest neighbours, likeness. Axes: N studies, D
width.
"""

import numpy as np
from jaxtyping import Float, Num
from sklearn.metrics import roc_auc_score


def rankme(features: Float[np.ndarray, "N D"]) -> float:
    """The effective rank: exp of the entropy of the normalised singular values, between 1
    (collapsed) and min(N, D).

    A matrix of zeros has rank 1, so that a collapsed encoder gives the worst value and not a NaN.

    Source: Garrido et al., RankMe (arXiv 2210.02885), equation 1.
    """
    sigma = np.linalg.svd(np.asarray(features, np.float64), compute_uv=False)
    total = sigma.sum()
    if total == 0:
        return 1.0
    p = sigma[sigma > 0] / total
    return float(np.exp(-(p * np.log(p)).sum()))


def feature_std(features: Float[np.ndarray, "N D"]) -> float:
    """The mean standard deviation of l2-normalised features: 0 when all are alike, about D**-0.5
    when they spread over the sphere.

    Source: Chen and He, SimSiam (arXiv 2011.10566), section 4.1.
    """
    return float(unit(features).std(axis=0).mean())


def knn_probabilities(
    train_x: Float[np.ndarray, "N D"],
    train_y: Num[np.ndarray, " N"],
    test_x: Float[np.ndarray, "M D"],
    k: int = 20,
    temperature: float = 0.07,
) -> tuple[np.ndarray, np.ndarray]:
    """Votes of the k nearest training studies by cosine, weighted by exp(cosine / temperature).

    Returns:
      The classes in sorted order `[C]`, and the share of the votes that each has `[M, C]`.

    Source: Wu et al. (arXiv 1805.01978), section 3.4; the protocol of DINO (arXiv 2104.14294).
    """
    classes, label = np.unique(train_y, return_inverse=True)
    cosine = unit(test_x) @ unit(train_x).T
    k = min(k, cosine.shape[1])
    nearest = np.argpartition(-cosine, k - 1, axis=1)[:, :k]
    closeness = np.take_along_axis(cosine, nearest, axis=1)
    weight = np.exp((closeness - closeness.max(axis=1, keepdims=True)) / temperature)
    votes = np.stack(
        [(weight * (label[nearest] == c)).sum(axis=1) for c in range(len(classes))], axis=1
    )
    return classes, votes / votes.sum(axis=1, keepdims=True)


def knn_score(
    train_x: Float[np.ndarray, "N D"],
    train_y: Num[np.ndarray, " N"],
    test_x: Float[np.ndarray, "M D"],
    test_y: Num[np.ndarray, " M"],
    k: int = 20,
) -> float:
    """How well nearest neighbours tell the classes of `test_y`: AUROC for two classes, accuracy for
    more; NaN where a side has one class only.
    """
    if len(np.unique(train_y)) < 2 or len(np.unique(test_y)) < 2:
        return float("nan")
    classes, votes = knn_probabilities(train_x, train_y, test_x, k)
    if len(classes) == 2 and set(np.unique(test_y)) == set(classes):
        return float(roc_auc_score(test_y == classes[1], votes[:, 1]))
    return float((classes[votes.argmax(axis=1)] == test_y).mean())


def linear_cka(x: Float[np.ndarray, "N D"], y: Float[np.ndarray, "N E"]) -> float:
    """How alike two encoders arrange the same studies: 1 up to rotation and scale, near 0 for
    unrelated features; NaN where one is constant.

    Source: Kornblith et al. (arXiv 1905.00414), equation 4 with linear kernels.
    """
    x, y = (
        np.asarray(z, np.float64) - np.mean(z, axis=0, dtype=np.float64, keepdims=True)
        for z in (x, y)
    )
    scale = np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
    return float(np.linalg.norm(y.T @ x) ** 2 / scale) if scale > 0 else float("nan")


def unit(features: Float[np.ndarray, "N D"]) -> np.ndarray:
    """Rows of length 1; a row of zeros stays zeros."""
    x = np.asarray(features, np.float32)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
