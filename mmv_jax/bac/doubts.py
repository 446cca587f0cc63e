"""Sentences about women whose mammograms may not all be theirs, by hashes and files alone."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import UInt8

from mmv_jax.bac.anatomy import AIR
from mmv_jax.bac.measure import ViewResult
from mmv_jax.manifests.spelling import one_spelling
from mmv_jax.store.odd_lines import PLACEHOLDER

# Routine views of a day are four, and a few more where one was repeated or a breast is large.
MOST_VIEWS, MOST_STUDIES = 12, 2
STRIP, LEAST = 0.02, 0.2  # width of the strip at an edge; share of it that is breast at a wall
TIMES = 3.0  # more breast at the wall than at the other edge


def doubts(
    views: Sequence[ViewResult], patients: Sequence[str], walls: Mapping[int, str]
) -> list[str]:
    """All such sentences.

    Args:
      patients: the id of each view's patient.
      walls: of the files that were read, the edge of the chest wall (`wall_of`).
    """
    pairs = list(zip(patients, [view.woman for view in views]))
    return [*_alike(pairs), *_of_several(views, patients), *_turned(views, walls)]


def wall_of(anatomy: UInt8[np.ndarray, "Y X"]) -> str:
    """The edge at which the chest wall lies, "left" or "right"; "" if both or none show breast."""
    strip = max(1, round(STRIP * anatomy.shape[1]))
    left, right = ((anatomy[:, part] != AIR).mean() for part in (slice(strip), slice(-strip, None)))
    if max(left, right) < LEAST or max(left, right) < TIMES * min(left, right):
        return ""
    return "left" if left > right else "right"


def _alike(patients: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Women whose ids differ only as keyboards and spreadsheets spell one id."""
    women: dict[str, dict[str, None]] = {}
    for patient, woman in patients:
        women.setdefault(one_spelling(patient), {})[woman] = None
    for same in women.values():
        if len(same) > 1:
            yield (
                f"{' and '.join(same)} may be one woman: their patient ids differ only by capitals,"
                " spaces, separators or leading zeros."
            )


def _of_several(views: Sequence[ViewResult], patients: Sequence[str]) -> Iterator[str]:
    """Women whose id may stand for several, as ANONYMOUS does."""
    own: dict[str, list[ViewResult]] = {}
    placeholders = set()
    for view, patient in zip(views, patients):
        own.setdefault(view.woman, []).append(view)
        if PLACEHOLDER.fullmatch(one_spelling(patient)):
            placeholders.add(view.woman)
    for woman, theirs in own.items():
        studies = len({view.examination for view in theirs if view.examination})
        # Without a day nothing says that two studies are of two days.
        of_day: dict[str, list[ViewResult]] = {}
        for view in theirs:
            if view.date:
                of_day.setdefault(view.date, []).append(view)
        many = any(
            len(day) > MOST_VIEWS or len({view.examination for view in day}) > MOST_STUDIES
            for day in of_day.values()
        )
        if many or (woman in placeholders and (studies > 1 or len(theirs) > MOST_VIEWS)):
            yield (
                f"{woman} has {len(theirs)} mammograms of {studies or 'unknown'} studies: her"
                " patient id may be a placeholder for several women, whose areas are then mixed."
            )


def _turned(views: Sequence[ViewResult], walls: Mapping[int, str]) -> Iterator[str]:
    """Views of one breast whose chest walls lie on opposite edges: a wrong side, or a mirror."""
    own: dict[tuple[str, str], dict[str, list[int]]] = {}
    for view in views:
        if not view.remark and view.side and (wall := walls.get(view.number)):
            own.setdefault((view.woman, view.side), {}).setdefault(wall, []).append(view.number)
    for (woman, side), at in own.items():
        if len(at) == 2:
            left, right = (", ".join(map(str, at[edge])) for edge in ("left", "right"))
            yield (
                f"{woman}: of breast {side} the chest wall is at the left of file {left} and at the"
                f" right of file {right}. One may be of the other side, or mirrored."
            )
