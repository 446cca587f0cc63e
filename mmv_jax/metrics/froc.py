"""FROC: lesions that are found, against false marks a study.

Axes: R resamples, N studies, K candidates of a study at most, F rates, Z Y X voxels.
"""

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import ndimage

RATES = (1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8)  # false marks a study, as in LUNA16
MOST = 20  # candidates of a study; 8 false marks a study are read at most
APART_MM = 10.0  # a weaker candidate this near to a stronger one is the same mark
BLOCK = 2**22  # weights of candidates that are held at a time


def locate(
    truth: Bool[np.ndarray, "Z Y X"],
    values: Float[np.ndarray, "Z Y X"],
    spacing_mm: tuple[float, float, float],
) -> tuple[int, Float[np.ndarray, "two K"]]:
    """The number of lesions of a study, and its candidates: the peaks of a map.

    A lesion is a connected part of `truth`, diagonal neighbours included. A candidate hits the
    lesion whose bounding box it lies in; of several, the one with the nearest centre.

    Returns:
      The count, then scores (strongest first, -inf for none) and the number of the lesion that each
      hits (from 1 on, 0 for none).
    """
    lesions, count = ndimage.label(truth, np.ones((3, 3, 3)))
    boxes = ndimage.find_objects(lesions)
    found = np.stack([np.full(MOST, -np.inf), np.zeros(MOST)])
    # Odd sizes keep the window centred. A planar study has one slice.
    window = [
        2 * int(APART_MM / edge) + 1 if n > 1 else 1 for edge, n in zip(spacing_mm, truth.shape)
    ]
    peaks, n_peaks = ndimage.label(
        values == ndimage.maximum_filter(values, window), np.ones((3, 3, 3))
    )
    # A plateau is one candidate, at its first voxel.
    first = ndimage.maximum_position(values, peaks, np.arange(1, n_peaks + 1))
    places = sorted(first, key=lambda place: -values[place])[:MOST]
    for k, place in enumerate(places):
        found[:, k] = values[place], _hit(place, boxes)
    return count, found


def _hit(place: tuple[int, ...], boxes: list[tuple[slice, ...]]) -> int:
    inside = [
        (sum((p - (s.start + s.stop - 1) / 2) ** 2 for p, s in zip(place, box)), number)
        for number, box in enumerate(boxes, start=1)
        if all(s.start <= p < s.stop for p, s in zip(place, box))
    ]
    return min(inside)[1] if inside else 0


def froc_curve(
    lesions: Int[np.ndarray, " N"],
    candidates: Float[np.ndarray, "N two K"],
    weights: Float[np.ndarray, "R N"],
    rates: tuple[float, ...] = RATES,
) -> Float[np.ndarray, "R F"]:
    """The share of lesions that are found at each rate of false marks a study.

    A lesion that several candidates hit is found by the strongest; the others are no false marks.

    Args:
      lesions, candidates: of each study, from `locate`.
      weights: of each study, one row a resample.
    Returns:
      NaN where no lesion has weight.

    Source: Setio et al., LUNA16 (arXiv 1612.08012), section 2.4.
    """
    score, hit = candidates[:, 0], candidates[:, 1].astype(int)
    there = np.isfinite(score)
    study = np.broadcast_to(np.arange(len(score))[:, None], score.shape)[there]
    score, hit = score[there], hit[there]
    order = np.argsort(-score, kind="stable")
    study, score, hit = study[order], score[order], hit[order]
    # The first candidate of each pair of study and lesion, in falling order of scores.
    first = np.zeros(len(hit), bool)
    first[np.unique(np.stack([study, hit]), axis=1, return_index=True)[1]] = True
    # Candidates of one score are above a threshold together, so only their last one is read.
    last = np.flatnonzero(np.append(score[1:] != score[:-1], True)[: len(score)])
    out, step = np.zeros((len(weights), len(rates))), max(BLOCK // max(len(score), 1), 1)
    for start in range(0, len(weights), step):
        own = weights[start : start + step]
        marks = own[:, study]
        false = np.cumsum(marks * (hit == 0), axis=1)[:, last] / own.sum(axis=1, keepdims=True)
        found = np.cumsum(marks * (first & (hit > 0)), axis=1)[:, last]
        for f, rate in enumerate(rates):
            # Both rise along the scores, so the last threshold within the rate finds most. The
            # small term keeps a rate that is met exactly.
            within = (false <= rate + 1e-9).sum(axis=1)
            padded = np.concatenate([np.zeros((len(own), 1)), found], axis=1)
            out[start : start + step, f] = padded[np.arange(len(own)), within]
    total = weights @ np.asarray(lesions, np.float64)
    with np.errstate(invalid="ignore"):
        return np.where(total[:, None] > 0, out / np.where(total > 0, total, 1)[:, None], np.nan)
