"""Subspaces of modalities, and similarity of encoders' features; no label is read.

Axes: N, M studies, D width.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from mmv_jax.evaluate.kinds.features import principal_axes
from mmv_jax.metrics.features import Likeness, likeness
from mmv_jax.report.page import Cell, Section, Table

DIMENSIONS = 16  # of a modality's subspace
# The fewest studies of a modality: with fewer, single studies would define its subspace.
FEWEST = 4 * DIMENSIONS


def shared_variance(first: Float[np.ndarray, "N D"], second: Float[np.ndarray, "M D"]) -> float:
    """The variance of `first` along the principal axes of `second`, relative to that along its own
    axes.

    1 if both vary in the same subspace, about `DIMENSIONS` / D for unrelated directions. Means do
    not count.
    """
    # Without centring, the first axis would point at the mean.
    own, other = (x - x.mean(axis=0, dtype=np.float64, keepdims=True) for x in (first, second))
    along_own, along_other = (
        ((own @ principal_axes(x, DIMENSIONS)[0]) ** 2).sum() for x in (own, other)
    )
    return float(along_other / along_own) if along_own > 0 else float("nan")


def subspace_sections(features: Mapping[str, np.ndarray], modality: np.ndarray) -> list[Section]:
    """Two kinds of tables of mean patch tokens; empty with too few studies.

    The first has modalities by modalities for our encoder, the second encoders by modalities.

    Args:
      features: by encoder [N, D], the same studies in the same order, with "trained" and "random"
        among them.
      modality: of each study.
    """
    named = [name for name in sorted(set(modality.tolist())) if (modality == name).sum() >= FEWEST]
    if not named:
        return []
    tables = []
    # A single modality has no other to share a subspace with.
    for encoder in ("trained", "random") if len(named) > 1 else ():
        parts = {name: features[encoder][modality == name] for name in named}
        lines = [
            [
                Cell(first),
                *(_number(shared_variance(parts[first], parts[second])) for second in named),
            ]
            for first in named
        ]
        tables.append(
            Table(
                [f"{encoder}: the variance of", *(f"in the subspace of {name}" for name in named)],
                lines,
            )
        )
    others = [name for name in features if name != "trained"]
    alike = [
        [
            Cell(other),
            *(
                _alike(likeness(*(features[e][modality == m] for e in ("trained", other))))
                for m in named
            ),
        ]
        for other in others
    ]
    tables.append(Table(["debiased CKA of trained and", *named], alike))
    text = [
        "Mean patch tokens, without labels. Above: the variance of a modality along the first"
        f" {DIMENSIONS} principal axes of another, divided by that along its own: 1 where both"
        " share a subspace. Below: the similarity of two encoders' features of a modality (debiased"
        " linear CKA): 1 up to rotation and scale, about 0 for unrelated features. The ceiling is"
        " the similarity of each encoder with itself, between halves of its width. The null is the"
        " 95th percentile with the studies of one encoder permuted."
    ]
    return [Section("Subspaces", text, tables)]


def _alike(found: Likeness) -> Cell:
    if np.isnan(found.value):
        return Cell("not defined")
    return Cell(f"{found.value:.2f}", f"ceiling {found.ceiling:.2f}, null {found.null:.2f}")


def _number(value: float) -> Cell:
    return Cell("not defined" if np.isnan(value) else f"{value:.2f}")
