"""The subspaces of two modalities' features: shared, private, and without the modality.

Axes: N pairs, D and E widths, C variates, S shared ones.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from mmv_jax.metrics.canonical import Canonical, Side, fit_canonical, shared_variates
from mmv_jax.metrics.erasure import fit_erasure

MOST_COMPONENTS = 32  # principal components of a modality
PAIRS_A_COMPONENT = 8  # with fewer pairs for each, variates would fit these pairs alone


@dataclass(frozen=True)
class PairFeatures:
    """Features of all pairs by one encoder, or by one encoder for each modality.

    Attributes:
      one_space: whether both modalities have the same encoder, so that their features compare.
    """

    first: Float[np.ndarray, "N D"]
    second: Float[np.ndarray, "N E"]
    one_space: bool

    @property
    def sides(self) -> tuple[np.ndarray, np.ndarray]:
        return self.first, self.second


@dataclass(frozen=True)
class Spaces:
    """Subspaces that were fitted on train and val; test pairs were not looked at.

    Attributes:
      canonical: the variates of both modalities.
      shared: how many leading variates are shared; at least one is taken.
      wrong: the variates of as many pairs that were paired wrongly.
    """

    canonical: Canonical
    shared: int
    wrong: Canonical

    @classmethod
    def fit(cls, features: PairFeatures, split: np.ndarray, seed: int = 0) -> "Spaces":
        """Fit the variates on train, count the shared ones on val, and fit again on both."""
        train, val = split == "train", split == "val"
        x, y = (np.asarray(side, np.float64) for side in features.sides)
        # Counted on pairs that were not fitted to: on train nearly all variates correlate.
        early = fit_canonical(x[train], y[train], components_of(int(train.sum())))
        count = shared_variates(early, x[val], y[val], seed=seed).count
        both = train | val
        most = components_of(int(both.sum()))
        # The wrong pairs say what as many variates would tell without any correspondence.
        order = np.random.default_rng(seed).permutation(int(both.sum()))
        return cls(
            fit_canonical(x[both], y[both], most),
            max(count, 1),
            fit_canonical(x[both], y[both][order], most),
        )

    def in_shared(self, features: PairFeatures) -> tuple[np.ndarray, np.ndarray]:
        """Both modalities' shared variates [N S]."""
        return self._leading(self.canonical, features)

    def in_wrong(self, features: PairFeatures) -> tuple[np.ndarray, np.ndarray]:
        """As many variates of the wrong pairs, for comparison."""
        return self._leading(self.wrong, features)

    def in_private(self, features: PairFeatures) -> tuple[np.ndarray, np.ndarray]:
        """Both modalities' other variates, which do not correlate with the other modality."""
        return tuple(  # type: ignore[return-value]
            side(x)[:, self.shared :] for side, x in zip(_sides(self.canonical), features.sides)
        )

    def _leading(self, fitted: Canonical, features: PairFeatures) -> tuple[np.ndarray, np.ndarray]:
        return tuple(  # type: ignore[return-value]
            side(x)[:, : self.shared] for side, x in zip(_sides(fitted), features.sides)
        )


def components_of(pairs: int) -> int:
    """How many principal components of a modality so many pairs can support."""
    return int(np.clip(pairs // PAIRS_A_COMPONENT, 1, MOST_COMPONENTS))


def without_modality(
    features: PairFeatures, fitted_on: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The features of both modalities after the modality was removed (LEACE).

    Args:
      fitted_on: a mask of the pairs that the removal is fitted on.
    """
    stacked = np.concatenate([side[fitted_on] for side in features.sides])
    erase = fit_erasure(stacked, np.arange(len(stacked)) < fitted_on.sum())
    return erase(features.first), erase(features.second)


def _sides(fitted: Canonical) -> tuple[Side, Side]:
    return fitted.first, fitted.second
