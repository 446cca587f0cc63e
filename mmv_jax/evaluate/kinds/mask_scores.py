"""What a mask is worth, on the voxels of the study itself. Axes: M studies, T thresholds."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from mmv_jax.evaluate.tasks.scenes import Scene
from mmv_jax.metrics import scores
from mmv_jax.metrics.froc import locate

# the lowest for heads of rare structures
THRESHOLDS = np.r_[0.005, 0.01, 0.02, np.arange(0.05, 0.95, 0.05)]
OF_STRUCTURE = ("dice", "nsd", "hd95")  # scores of the studies that have the structure
MM3_PER_ML = 1000.0


@dataclass(frozen=True)
class Segmented:
    """Masks of the test studies, their scores, and what the val studies chose, in words.

    Attributes:
      masks: each on the grid of its own view, to be looked at.
      scores: by name, of each study: `dice`, `nsd` and `hd95` (mm) of those that have the
        structure, `false_positive` of the others, in mL or, where planar, mm²; NaN else. Of several
        structures also `dice@NAME` and so on.
      held_out: the score on val before val was fitted on (`score_thresholds`); NaN where it is not
        known.
      located: the lesions of each study [M] and its candidates [M, 2, K] (`froc.locate`); None
        where they were not asked for.
    """

    masks: list[Bool[np.ndarray, "_ _ _"]]
    scores: Mapping[str, Float[np.ndarray, " M"]]
    choice: str
    held_out: float = float("nan")
    located: tuple[Int[np.ndarray, " M"], Float[np.ndarray, "M two K"]] | None = None

    @property
    def dice(self) -> Float[np.ndarray, " M"]:
        return self.scores["dice"]


def cut(
    values: Iterable[Float[np.ndarray, "_ _ _"]],
    scenes: Sequence[Scene],
    threshold: float,
    choice: str,
    locates: bool = False,
) -> Segmented:
    """The masks of studies at a threshold, and their scores.

    Args:
      locates: whether candidates are looked for too.
      values: of each study on its view's grid, or on a larger one in whose low corner that lies;
        they may come one study after the other.
    """
    masks, found, located = [], [], []
    for value, scene in zip(values, scenes):
        own = value[corner(scene.truth.shape)]
        masks.append(own > threshold)
        truth, spread, spacing_mm = scene.scored(own)
        found.append(score_mask(truth, spread > threshold, spacing_mm))
        if locates:
            located.append(locate(truth, spread, spacing_mm))
    # None where only val is asked about.
    names = found[0] if found else ()
    by_name = {name: np.array([own[name] for own in found]) for name in names}
    counts, candidates = zip(*located) if located else ((), ())
    return Segmented(
        masks,
        by_name,
        f"{choice}, threshold {threshold:.3g}",
        located=(np.array(counts), np.stack(candidates)) if located else None,
    )


def score_mask(
    truth: Bool[np.ndarray, "Z Y X"],
    found: Bool[np.ndarray, "Z Y X"],
    spacing_mm: tuple[float, float, float],
) -> dict[str, float]:
    """The scores of one study, as in `Segmented`.

    A study without the structure has no Dice: that would be 0 or undefined whatever is found.
    """
    planar = truth.shape[0] == 1
    if not truth.any():
        size = float(found.sum()) * voxel_size(spacing_mm, planar)
        return {**dict.fromkeys(OF_STRUCTURE, float("nan")), "false_positive": size}
    # A planar study is scored in 2D, where the surface is the contour.
    own = (truth[0], found[0], spacing_mm[1:]) if planar else (truth, found, spacing_mm)
    nsd, hd95 = scores.surface_scores(*own)
    dice = scores.dice(own[0], own[1])
    return {"dice": dice, "nsd": nsd, "hd95": hd95, "false_positive": float("nan")}


def voxel_size(spacing_mm: tuple[float, float, float], planar: bool) -> float:
    """mm² of a pixel, mL of a voxel."""
    z, y, x = spacing_mm
    return y * x if planar else z * y * x / MM3_PER_ML


def sweep(
    values: Iterable[Float[np.ndarray, "_ _ _"]], scenes: Sequence[Scene]
) -> Float[np.ndarray, " T"]:
    """`score_thresholds` of studies on their own voxels; `values` as in `cut`."""
    return score_thresholds(
        (spread, truth, int(truth.sum()), voxel_size(spacing_mm, len(truth) == 1))
        for truth, spread, spacing_mm in (
            scene.scored(value[corner(scene.truth.shape)]) for value, scene in zip(values, scenes)
        )
    )


def score_thresholds(
    found: Iterable[tuple[np.ndarray, np.ndarray, int, float]],
) -> Float[np.ndarray, " T"]:
    """How good each of `THRESHOLDS` is: the mean over both classes of studies.

    With the structure a study scores its Dice. Without it, it scores s / (s + f), where f is what
    is found and s the median size of the structure: 1 where nothing is found, a half where as much
    is found as a structure has. Dice alone would not notice a threshold that finds something
    everywhere. Voxels are sorted into bins once, and summed from above.

    Args:
      found: of each study the scores of voxels, the truth at the same voxels, how many voxels the
        structure has in all, and the size of a voxel.
    """
    dice, sizes, false = [], [], []
    for score, truth, size, voxel in found:
        bins = np.searchsorted(THRESHOLDS, score.ravel())  # bin b: above b of the thresholds
        # Cumulative sums from the top: entry t counts what is above threshold t. [1:] drops bin 0.
        above, hit = (
            np.cumsum(np.bincount(b, minlength=len(THRESHOLDS) + 1)[::-1])[::-1][1:]
            for b in (bins, bins[truth.ravel()])
        )
        if not size:
            false.append(above * voxel)
            continue
        # `size` is of the whole structure, so voxels in patches that were not kept count as missed.
        dice.append(2 * hit / (above + size))
        sizes.append(size * voxel)
    if not dice:
        return np.zeros(len(THRESHOLDS))
    with_structure = np.mean(dice, axis=0)
    if not false:
        return with_structure
    typical = float(np.median(sizes))
    return (with_structure + np.mean(typical / (typical + np.stack(false)), axis=0)) / 2


def join(parts: Mapping[str, Segmented]) -> Segmented:
    """Several structures as one: each score is the mean over the structures that a study has, and
    stands for each by itself as `dice@NAME`; masks are those of any structure.
    """
    first = next(iter(parts.values()))
    if len(parts) == 1:
        return first
    together = {}
    for name in first.scores:
        own = np.stack([part.scores[name] for part in parts.values()])
        known = ~np.isnan(own)
        # What is found without a structure adds up; scores of structures are averaged.
        divisor = np.where(name == "false_positive", 1, known.sum(axis=0))
        together[name] = np.where(
            known.any(axis=0), np.where(known, own, 0).sum(axis=0) / np.maximum(divisor, 1), np.nan
        )
    single = {
        f"{name}@{structure}": part.scores[name]
        for structure, part in parts.items()
        for name in OF_STRUCTURE
    }
    masks = [np.logical_or.reduce(own) for own in zip(*(part.masks for part in parts.values()))]
    return Segmented(
        masks,
        {**together, **single},
        "; ".join(f"{name}: {part.choice}" for name, part in parts.items()),
        held_out=float(np.mean([part.held_out for part in parts.values()])),
    )


def corner(shape: Sequence[int]) -> tuple[slice, ...]:
    """A study lies in the low corner of the common grid."""
    return tuple(map(slice, shape))
