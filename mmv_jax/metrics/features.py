"""Health of features: effective rank, spread, nearest neighbours and similarity of two encoders.

Axes: N studies, D width.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Num

from mmv_jax.metrics.weighted import weighted_auroc


def rankme(features: Float[np.ndarray, "N D"]) -> float:
    """Effective rank: exp of the entropy of the normalised singular values.

    Between 1 (collapsed) and min(N, D). A matrix of zeros has rank 1, so that a collapsed encoder
    gets the worst value and not NaN.

    Source: Garrido et al., RankMe (arXiv 2210.02885), equation 1.
    """
    sigma = np.linalg.svd(np.asarray(features, np.float64), compute_uv=False)
    total = sigma.sum()
    if total == 0:
        return 1.0
    # 0 log 0 is 0 by definition, but NaN in NumPy.
    p = sigma[sigma > 0] / total
    return float(np.exp(-(p * np.log(p)).sum()))


def feature_std(features: Float[np.ndarray, "N D"]) -> float:
    """Mean standard deviation of l2-normalised features.

    0 if all are alike; about D**-0.5 if they spread over the sphere.

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
    # argpartition: the votes do not depend on the order among the k.
    nearest = np.argpartition(-cosine, k - 1, axis=1)[:, :k]
    closeness = np.take_along_axis(cosine, nearest, axis=1)
    # Subtracting the largest cosine cancels in the shares and keeps exp finite.
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
    """Score of a nearest-neighbour classifier: AUROC for two classes, accuracy for more.

    NaN where the training or the test studies have one class only.
    """
    if len(np.unique(train_y)) < 2 or len(np.unique(test_y)) < 2:
        return float("nan")
    classes, votes = knn_probabilities(train_x, train_y, test_x, k)
    if len(classes) == 2 and set(np.unique(test_y)) == set(classes):
        truth = (test_y == classes[1]).astype(np.float64)
        return float(weighted_auroc(truth, votes[:, 1], np.ones((1, len(truth))))[0])
    return float((classes[votes.argmax(axis=1)] == test_y).mean())


def linear_cka(x: Float[np.ndarray, "N D"], y: Float[np.ndarray, "N E"]) -> float:
    """Similarity of two encoders' features of the same studies, by linear CKA.

    1 for features that are equal up to rotation and scale, near 0 for unrelated ones, NaN where one
    side is constant.

    Source: Kornblith et al. (arXiv 1905.00414), equation 4 with linear kernels.
    """
    x, y = (
        np.asarray(z, np.float64) - np.mean(z, axis=0, dtype=np.float64, keepdims=True)
        for z in (x, y)
    )
    # ‖YᵀX‖² = tr(XXᵀ YYᵀ): products of width × width replace Gram matrices of N × N.
    scale = np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
    return float(np.linalg.norm(y.T @ x) ** 2 / scale) if scale > 0 else float("nan")


@dataclass(frozen=True)
class Likeness:
    """Similarity of two encoders' features of the same studies, with its reference values.

    Attributes:
      value: the debiased CKA. About 0 for unrelated features, however few the studies; it may be
        negative.
      ceiling: the similarity of an encoder with itself, between random halves of its width; the
        geometric mean over both encoders. A value near it is as high as the data can show.
      null: the 95th percentile with the studies of one encoder permuted.
      p: one-sided, of the permutations.
    """

    value: float
    ceiling: float
    null: float
    p: float


def debiased_cka(x: Float[np.ndarray, "N D"], y: Float[np.ndarray, "N E"]) -> float:
    """`linear_cka` without its bias. NaN below 4 studies, or where one side does not vary.

    For noise of 64 studies and 768 dimensions `linear_cka` is 0.93, this about 0. It holds two
    matrices of N × N.

    Source: Song et al., JMLR 13 (2012), equation 5, for the unbiased HSIC; Nguyen et al. (arXiv
      2010.15327), section 3, for CKA.
    """
    if len(x) < 4:
        return float("nan")
    k, m = _gram(x), _gram(y)
    scale = _hsic(k, k) * _hsic(m, m)
    return _hsic(k, m) / float(np.sqrt(scale)) if scale > 0 else float("nan")


def likeness(
    x: Float[np.ndarray, "N D"],
    y: Float[np.ndarray, "N E"],
    *,
    halves: int = 10,
    permutations: int = 199,
    seed: int = 0,
) -> Likeness:
    """The debiased CKA with its split-half ceiling and its permutation null."""
    value, rng = debiased_cka(x, y), np.random.default_rng(seed)
    if np.isnan(value):
        return Likeness(value, ceiling=value, null=value, p=value)
    # Both halves see the same studies, so only the choice of features lowers their likeness.
    own = [np.mean([_split_half(z, rng) for _ in range(halves)]) for z in (x, y)]
    ceiling = float(np.sqrt(np.prod(own))) if min(own) > 0 else float("nan")
    k, m = _gram(x), _gram(y)
    scale = np.sqrt(_hsic(k, k) * _hsic(m, m))
    orders = [rng.permutation(len(m)) for _ in range(permutations)]
    # Permuting studies permutes rows and columns alike, so the scale stays the same.
    null = np.array([_hsic(k, m[np.ix_(order, order)]) / scale for order in orders])
    # The observed order counts as one of the permutations, so p is never 0.
    p = float((1 + (null >= value).sum()) / (1 + permutations))
    return Likeness(value, ceiling=ceiling, null=float(np.quantile(null, 0.95)), p=p)


def _split_half(x: np.ndarray, rng: np.random.Generator) -> float:
    """The debiased CKA of two random halves of the width."""
    order = rng.permutation(x.shape[1])
    half = len(order) // 2
    return debiased_cka(x[:, order[:half]], x[:, order[half:]])


def _gram(x: np.ndarray) -> np.ndarray:
    """Inner products of centred features, without the diagonal, which holds the bias."""
    x = np.asarray(x, np.float64)
    x = x - x.mean(axis=0, keepdims=True)
    k = x @ x.T
    np.fill_diagonal(k, 0.0)
    return k


def _hsic(k: np.ndarray, m: np.ndarray) -> float:
    """The unbiased HSIC of two matrices with an empty diagonal."""
    n = len(k)
    of_k, of_m = k.sum(axis=0), m.sum(axis=0)
    # (tr KM + 1ᵀK1 1ᵀM1 / ((n-1)(n-2)) - 2 / (n-2) 1ᵀKM1) / (n (n-3)); tr KM = Σ k m.
    sums = (k * m).sum() + of_k.sum() * of_m.sum() / ((n - 1) * (n - 2))
    return float((sums - 2 / (n - 2) * (of_k @ of_m)) / (n * (n - 3)))


def unit(features: Float[np.ndarray, "N D"]) -> np.ndarray:
    """Rows of length 1; a row of zeros stays zeros."""
    x = np.asarray(features, np.float32)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
