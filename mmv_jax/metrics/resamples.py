"""Resamples of patients: how often each is drawn.

Axes: R resamples, N studies, P patients.
"""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from jaxtyping import Float

RESAMPLES = 2000
BLOCK_BYTES = 2**25  # of one array of resamples by studies; a metric holds up to six at a time


def patient_weights(
    patients: np.ndarray, resamples: int = RESAMPLES, seed: int = 0
) -> Float[np.ndarray, "R N"]:
    """Number of times that a bootstrap over patients draws each study.

    A resample draws as many patients as there are, with replacement, each with all their studies.
    This array holds all resamples; where only a metric is needed, `interval` works in blocks of
    `BLOCK_BYTES`.
    """
    # A tuple, because the cache needs arguments that can be hashed.
    counts, index = draw_patients(tuple(np.asarray(patients).tolist()), resamples, seed)
    # Counts of patients [R, P] become weights of studies [R, N].
    return counts[:, index].astype(np.float64)


@lru_cache(maxsize=2)  # all metrics and encoders of a task share the same draws
def draw_patients(patients: tuple, resamples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Counts of patients [R, P], and the index of each study's patient [N]."""
    names, index = np.unique(np.array(patients), return_inverse=True)
    counts = np.empty((resamples, len(names)), np.uint16)  # a quarter of what NumPy would hold
    rng, share = np.random.default_rng(seed), np.full(len(names), 1 / len(names))
    for rows in blocks_of(resamples, len(names)):
        counts[rows] = rng.multinomial(len(names), share, size=rows.stop - rows.start)
    # All callers share this one cached array.
    counts.flags.writeable = False
    return counts, index


def blocks_of(resamples: int, studies: int) -> Iterator[slice]:
    """Slices of resamples; an array of one slice by all studies has at most `BLOCK_BYTES`."""
    step = max(BLOCK_BYTES // (8 * max(studies, 1)), 1)
    for start in range(0, resamples, step):
        yield slice(start, min(start + step, resamples))
