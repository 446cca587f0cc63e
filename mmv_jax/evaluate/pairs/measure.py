"""Figures of one encoder on pairs: likeness, shared subspace, retrieval, modality and factors.

Axes: N pairs, M of test, D and E widths.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from mmv_jax.evaluate.kinds.features import Standardiser
from mmv_jax.evaluate.kinds.logistic import fit_logistic
from mmv_jax.evaluate.kinds.regression import probe_number
from mmv_jax.evaluate.pairs.find import Factor
from mmv_jax.evaluate.pairs.match import Matcher
from mmv_jax.evaluate.pairs.spaces import PairFeatures, Spaces, without_modality
from mmv_jax.metrics.canonical import shared_variates
from mmv_jax.metrics.features import debiased_cka, knn_probabilities, likeness, rankme
from mmv_jax.metrics.intervals import Difference, Interval, interval, paired
from mmv_jax.metrics.jackknife import jackknifed, leave_out
from mmv_jax.metrics.over_fits import over_fits
from mmv_jax.metrics.retrieval import DEPTHS, cosine, retrieve
from mmv_jax.metrics.weighted import METRICS

RAW, ERASED, SHARED = "as encoded", "modality removed", "shared subspace"
ALL, PRIVATE, WRONG = "all features", "private subspace", "shared of wrong pairs"
MATCHED = "learned score"
STRENGTH = 1.0  # C of the probe of the modality, which any strength finds


@dataclass(frozen=True)
class PairFigure:
    """A figure, with what its interval over several fits needs.

    Attributes:
      left_out: the figure without each test patient; None where its interval has another form.
      within: the range of the figure.
    """

    found: Interval
    left_out: Float[np.ndarray, " M"] | None = None
    within: tuple[float, float] = (-np.inf, np.inf)


# By task and metric.
PairFigures = dict[tuple[str, str], PairFigure]


def measure_pairs(
    features: PairFeatures,
    split: np.ndarray,
    names: tuple[str, str],
    factors: Sequence[Factor],
    seed: int = 0,
) -> PairFigures:
    """All figures of one encoder. Everything that is fitted is fitted on train and val.

    Args:
      names: of the modalities.
    """
    spaces = Spaces.fit(features, split, seed)
    x, y = (side[split == "test"] for side in features.sides)
    parts = _likeness(x, y, seed) | _subspace(spaces, x, y, names=names, seed=seed)
    matcher = Matcher.fit(features, split, seed)
    parts |= _matcher(matcher, len(x))
    parts |= _retrievals(features, spaces, matcher, split=split, names=names)
    if features.one_space:
        parts |= _of_modality(features, spaces, split)
    for factor in factors:
        parts |= _of_factor(factor, features, spaces, split=split, names=names)
    return parts | _means(parts, names, factors)


def _likeness(x: np.ndarray, y: np.ndarray, seed: int) -> PairFigures:
    # Of test pairs alone, although nothing is fitted: encoders are trained on train.
    found = likeness(x, y, seed=seed)
    left_out = leave_out(lambda kept: debiased_cka(x[kept], y[kept]), len(x))
    within = (-1.0, 1.0)
    part = PairFigure(jackknifed([found.value], left_out[None], within=within), left_out, within)
    told = {"its ceiling": found.ceiling, "its null, 95 %": found.null, "p": found.p}
    return {("likeness", "debiased CKA"): part} | {
        ("likeness", name): _plain(value, len(x)) for name, value in told.items()
    }


def _subspace(
    spaces: Spaces, x: np.ndarray, y: np.ndarray, *, names: tuple[str, str], seed: int
) -> PairFigures:
    found = shared_variates(spaces.canonical, x, y, seed=seed)
    told = {
        "variates that val shows": spaces.shared,
        "variates above the null on test": found.count,
        "largest correlation on test": found.correlations.max(),
        "its null, 95 %": found.null,
        "p": found.p,
    }
    # A collapsed encoder has few directions, and so few that both modalities could share.
    told |= {f"effective rank of {name}": rankme(side) for name, side in zip(names, (x, y))}
    return {("shared subspace", name): _plain(value, len(x)) for name, value in told.items()}


def _matcher(matcher: Matcher, n: int) -> PairFigures:
    told = {
        "components of the learned score (val)": matcher.components,
        # Over seeds it becomes the share of fits in which val chose it.
        "likelihood ratio, not cosine (val)": matcher.score == "likelihood ratio",
        "largest held-out correlation": matcher.correlations.max(),
    }
    return {("shared subspace", name): _plain(float(value), n) for name, value in told.items()}


def _retrievals(
    features: PairFeatures,
    spaces: Spaces,
    matcher: Matcher,
    *,
    split: np.ndarray,
    names: tuple[str, str],
) -> PairFigures:
    """Recall and precision, from the first modality to the second and back, in every space."""
    test = split == "test"
    # Twins have only this one.
    sides = {SHARED: spaces.in_shared(features)}
    if features.one_space:
        # Cosines of two different encoders would mean nothing.
        sides = {RAW: features.sides, ERASED: without_modality(features, ~test)} | sides
    similarities = {
        space: cosine(first[test], second[test]) for space, (first, second) in sides.items()
    }
    similarities[MATCHED] = matcher.similarity(features, test)
    parts: PairFigures = {}
    for space, similarity in similarities.items():
        # The similarities are the same; queries and answers change places.
        for (query, answer), own in ((names, similarity), (names[::-1], similarity.T)):
            found, task = retrieve(own), f"{answer} from {query}"
            parts |= {
                (task, f"recall@{depth}, {space}"): PairFigure(found.recall[depth])
                for depth in DEPTHS
            }
            parts[task, f"mAP, {space}"] = PairFigure(found.precision, found.left_out, (0.0, 1.0))
            chance = {f"recall@{depth}, chance": found.chance[depth] for depth in DEPTHS}
            chance["mAP, chance"] = found.chance[0]
            parts |= {
                (task, name): _plain(value, int(test.sum())) for name, value in chance.items()
            }
    return parts


def _of_modality(features: PairFeatures, spaces: Spaces, split: np.ndarray) -> PairFigures:
    """How well the modality of a study can be told, before it was removed and after."""
    test = split == "test"
    parts: PairFigures = {}
    for space, (first, second) in {
        RAW: features.sides,
        ERASED: without_modality(features, ~test),
        SHARED: spaces.in_shared(features),
    }.items():
        stacked, labels = np.concatenate([first, second]), np.repeat([0.0, 1.0], len(split))
        # Both studies of a patient are drawn together.
        patients, measured = np.tile(np.arange(len(split)), 2), np.tile(test, 2)
        parts |= tell_modality(stacked, labels, measured, patients=patients, space=space)
    return parts


def tell_modality(
    x: Float[np.ndarray, "N D"],
    labels: Float[np.ndarray, " N"],
    measured: Bool[np.ndarray, " N"],
    *,
    patients: np.ndarray,
    space: str,
) -> PairFigures:
    """The AUROC of the modality by a linear probe and by neighbours, fitted on the other studies.

    Args:
      labels: 0 or 1.
      measured: whether a study is of test.
      space: the name of these features.
    """
    # Fitted on train and val: the probe's strength is fixed, so val has nothing to choose.
    standard = Standardiser.of(x[~measured])
    train, test, known = standard(x[~measured]), standard(x[measured]), labels[~measured]
    weights, _ = fit_logistic(train, known[:, None], np.array([[STRENGTH]]))
    _, votes = knn_probabilities(train, known, test)
    scores = {"a linear probe": test @ weights[:, 0, 0], "20 neighbours": votes[:, 1]}
    return {
        ("modality", f"AUROC of {probe}, {space}"): PairFigure(
            interval("auroc", labels[measured], score, patients[measured])
        )
        for probe, score in scores.items()
    }


def _of_factor(
    factor: Factor,
    features: PairFeatures,
    spaces: Spaces,
    *,
    split: np.ndarray,
    names: tuple[str, str],
) -> PairFigures:
    """How well each subspace of each modality tells a factor, and where it lies."""
    known = ~np.isnan(factor.values)
    # Pairs whose factor is not known are left out of probe and test.
    values, own, test = (
        factor.values[known],
        split[known],
        np.flatnonzero((split == "test") & known),
    )
    metric, task = ("auroc" if factor.has_classes else "r2"), f"factor {factor.name}"
    by_space = {
        ALL: features.sides,
        SHARED: spaces.in_shared(features),
        PRIVATE: spaces.in_private(features),
        WRONG: spaces.in_wrong(features),
    }
    parts: PairFigures = {}
    truth = factor.values[test]
    for side, name in enumerate(names):
        predicted = {
            space: probe_number(both[side][known], values, own).predicted
            for space, both in by_space.items()
        }
        for space, said in predicted.items():
            found = interval(metric, truth, said, test)
            parts[task, f"{name}, {space}"] = PairFigure(found, _without_each(metric, truth, said))
        # The figure of a difference over seeds has the intervals of its fits.
        apart = paired(
            metric, truth, first=predicted[SHARED], second=predicted[PRIVATE], patients=test
        )
        parts[task, f"{name}, shared minus private"] = PairFigure(as_interval(apart, len(test)))
    return parts


def _without_each(metric: str, truth: np.ndarray, said: np.ndarray) -> np.ndarray:
    return METRICS[metric](truth, said, 1.0 - np.eye(len(truth)))


def _means(parts: PairFigures, names: tuple[str, str], factors: Sequence[Factor]) -> PairFigures:
    """Means by which encoders are compared: of both directions, and over the shared factors."""
    told = {
        f"mAP of both directions, {space}": [
            (f"{b} from {a}", f"mAP, {space}") for a, b in (names, names[::-1])
        ]
        for space in (SHARED, MATCHED)
    }
    numbers = [f.name for f in factors if f.place == "shared" and not f.has_classes]
    for name in names if numbers else ():
        told[f"R² of shared factors, {name}"] = [(f"factor {n}", f"{name}, {ALL}") for n in numbers]
    return {("means", name): mean_of([parts[key] for key in keys]) for name, keys in told.items()}


def mean_of(parts: Sequence[PairFigure]) -> PairFigure:
    """The mean of figures of the same test patients."""
    # A patient who is left out is left out of every figure of the mean.
    left_out = np.mean([np.asarray(part.left_out) for part in parts], axis=0)
    value = float(np.mean([part.found.value for part in parts]))
    within = parts[0].within
    return PairFigure(jackknifed([value], left_out[None], within=within), left_out, within)


def over_seeds(found: Sequence[PairFigures]) -> PairFigures:
    """The figures of one way to train, over its seeds."""
    out: PairFigures = {}
    for key, part in found[0].items():
        own = [one[key] for one in found]
        # A single fit keeps the interval that suits its figure.
        if part.left_out is None or len(own) == 1:
            out[key] = PairFigure(over_fits([one.found for one in own]), part.left_out, part.within)
            continue
        left_out = np.stack([np.asarray(one.left_out) for one in own])
        merged = jackknifed([one.found.value for one in own], left_out, within=part.within)
        out[key] = PairFigure(merged, left_out.mean(axis=0), part.within)
    return out


def as_interval(found: Difference, n: int) -> Interval:
    return Interval(found.value, found.low, found.high, n, why=found.why)


def _plain(value: float, n: int) -> PairFigure:
    """A figure without an interval."""
    return PairFigure(
        Interval(float(value), np.nan, np.nan, n, why="a reference without an interval")
    )
