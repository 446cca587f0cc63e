"""A learned score of whether two studies of different modalities are of one body.

Axes: N pairs, M of them asked for, D and E widths, C variates.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from mmv_jax.evaluate.pairs.spaces import MOST_COMPONENTS, PairFeatures
from mmv_jax.metrics.canonical import Canonical, Side, between, held_out_correlations, whiten
from mmv_jax.metrics.retrieval import likelihood_ratio, posterior_cosine, ranks

COMPONENTS = tuple(range(4, MOST_COMPONENTS + 1, 4))  # principal components of a modality
PAIRS_A_COMPONENT = 3  # at the least: weights are held out, so that more than in `spaces` are tried
FOLDS = 5
MOST = 0.98  # a correlation of few held-out pairs may be 1, of which no ratio is finite
SCORES = {"posterior cosine": posterior_cosine, "likelihood ratio": likelihood_ratio}


@dataclass(frozen=True)
class Matcher:
    """Canonical variates, each weighted by its correlation on pairs that it was not fitted to.

    Attributes:
      correlations: of held-out pairs, at least 0.
      score: of `SCORES`.
      components: principal components of each modality.
    """

    canonical: Canonical
    correlations: Float[np.ndarray, " C"]
    score: str
    components: int

    @classmethod
    def fit(cls, features: PairFeatures, split: np.ndarray, seed: int = 0) -> "Matcher":
        """Choose components and score by the mAP of both directions on val; fit on train and val.

        Test pairs are not looked at.
        """
        x, y = (np.asarray(side, np.float64) for side in features.sides)
        train, val = split == "train", split == "val"
        early = [
            cls(*fitted, score, components)
            for components, fitted in _by_components(x[train], y[train], seed).items()
            for score in SCORES
        ]
        chosen = max(early, key=lambda matcher: _precision(matcher.of(x[val], y[val])))
        both = train | val
        found = _by_components(x[both], y[both], seed)[chosen.components]
        return cls(*found, chosen.score, chosen.components)

    def of(
        self, x: Float[np.ndarray, "N D"], y: Float[np.ndarray, "M E"]
    ) -> Float[np.ndarray, "N M"]:
        """The score of each study of the first modality with each of the second."""
        most = len(self.correlations)
        a, b = (side.leading(most)(z) for side, z in zip(_sides(self.canonical), (x, y)))
        return SCORES[self.score](a, b, self.correlations)

    def similarity(
        self, features: PairFeatures, asked: Bool[np.ndarray, " N"]
    ) -> Float[np.ndarray, "M M"]:
        """The scores among the pairs of a mask."""
        return self.of(features.first[asked], features.second[asked])


def _by_components(
    x: np.ndarray, y: np.ndarray, seed: int
) -> dict[int, tuple[Canonical, np.ndarray]]:
    """By the number of components, the variates and their held-out correlations."""
    most = max(1, min(COMPONENTS[-1], len(x) // PAIRS_A_COMPONENT))
    sizes = [count for count in COMPONENTS if count <= most] or [most]
    # A fold is of pairs, and a pair is of one patient.
    fold = np.random.default_rng(seed).permutation(len(x)) % FOLDS
    held: dict[int, list[np.ndarray]] = {count: [] for count in sizes}
    for n in range(FOLDS):
        kept = fold != n
        # Whitened once: fewer components are the first of these.
        white = whiten(x[kept], most), whiten(y[kept], most)
        for count in sizes:
            fitted = _leading(white, x[kept], y[kept], count)
            held[count].append(held_out_correlations(fitted, x[~kept], y[~kept]))
    white = whiten(x, most), whiten(y, most)
    return {count: (_leading(white, x, y, count), _mean(held[count])) for count in sizes}


def _leading(white: tuple[Side, Side], x: np.ndarray, y: np.ndarray, count: int) -> Canonical:
    first, second = (side.leading(count) for side in white)
    return between(first, second, x, y)


def _mean(found: list[np.ndarray]) -> np.ndarray:
    """The mean over folds of the k-th variates; a negative one is noise, and weighs nothing."""
    # A fold whose features have fewer directions has fewer variates.
    most = min(map(len, found))
    return np.clip(np.mean([one[:most] for one in found], axis=0), 0.0, MOST)


def _precision(similarity: np.ndarray) -> float:
    return float((1 / ranks(similarity)).mean() + (1 / ranks(similarity.T)).mean())


def _sides(fitted: Canonical) -> tuple[Side, Side]:
    return fitted.first, fitted.second
