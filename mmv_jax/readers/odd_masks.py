"""What of a mask on the right grid is probably wrong: empty beside a label that says otherwise, the
background labelled instead of the structure, mirrored against its image, or on another tissue.

A mask is told, never changed: who made it knows whether it is meant so.
"""

import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from mmv_jax.missing import CODES, is_missing
from mmv_jax.readers.misplaced import misplaced
from mmv_jax.study import Study

Told = tuple[str, str]  # code, sentence
YES = {"yes", "y", "true", "t", "positive", "pos", "present", "1", "+"}
NO = {"no", "n", "false", "f", "negative", "neg", "absent", "0"}
# Words of a column's name that do not say which structure it is about.
ABOUT = {"has", "is", "any", "with", "present", "presence", "label", "finding", "flag", "positive"}
ABOUT |= {
    "mask",
    "seg",
    "segmentation",
    "region",
    "gt",
    "count",
    "n",
    "num",
    "number",
    "of",
    "class",
}
# Structures that fill an image to its edge.
TO_THE_EDGE = {"body", "background", "fov", "field", "view", "skin", "patient", "outside", "air"}
TO_THE_EDGE |= {"breast", "tissue", "table", "valid", "foreground", "roi", "padding", "collimator"}
BORDER = 0.8  # share of the image's border that is labelled where the background is
# How far an edge of the mask is from the voxels that are compared: edges are not sharp.
BESIDE = 2
LEAST_EDGES = 150  # pairs of voxels across the mask's edge; fewer prove nothing
MIRRORED = 2.2  # times as much contrast across the edge of the mirrored mask
LEAST_ORGANS = 6  # labels of a volume's mask that is judged
LEAST_AREA = 0.1  # share of a planar image that a mask covers which is judged
LEAST_CONTRAST = 0.015  # of the mirrored mask, as a share of the image's range
AGREED = 0.45  # least share of these steps that is left where they count with their signs
MOST_SLICES = 24  # of a volume, on which the mask is compared with its mirror images
# As a mask is turned that was written without its transform, or with rows, columns or slices of
# another order. The axes are (z, y, x).
AXES = {
    "left to right": (2,),
    "top to bottom": (1,),
    "in both directions of its planes": (1, 2),
    "along its slices": (0,),
    "along its slices and planes": (0, 1, 2),
}


def odd_masks(
    study: Study, masks: Mapping[str, np.ndarray], labels: Mapping[str, object]
) -> Iterator[Told]:
    """(code, sentence) of each warning about the masks of a study.

    Args:
      masks: name -> int16 `[z, y, x]` on the study's grid.
      labels: name -> value of the manifest line, a number or a text.
    """
    for name, mask in masks.items():
        there = is_there(name, labels, only=len(masks) == 1)
        if not mask.any():
            if there:
                yield "mask_empty", f"the mask {name} is empty, but a label says that it is there"
            continue
        if there is False:
            yield "mask_not_expected", f"the mask {name} is not empty, but its label says no"
        if not _words(name) & TO_THE_EDGE and is_inverted(mask):
            yield "mask_inverted", f"the mask {name} has its label along the border of the image"
        elif axes := mirrored(study.voxels, mask):
            yield "mask_mirrored", f"the mask {name} fits its image better if turned {axes}"
        elif not _words(name) & TO_THE_EDGE and (why := misplaced(study, mask, _words(name))):
            yield "mask_misplaced", f"the mask {name} {why}: mirrored, or of another study?"


def is_there(name: str, labels: Mapping[str, object], *, only: bool) -> bool | None:
    """Whether labels say that a structure is there; None where no label is about it.

    A label is about a mask of the same name, words such as `has` left out. Where a study has one
    mask and one label of yes or no, a yes is about that mask too.

    >>> is_there("nodules", {"has_nodule": 1.0, "age": 60.0}, only=True)
    True
    >>> is_there("lung", {"lung_cancer": 0.0, "finding": "lung"}, only=False)
    True
    >>> is_there("lesion", {"malignant": 0.0}, only=True) is None
    True
    """
    wanted = _words(name) - ABOUT
    own = [value for label, value in labels.items() if wanted and _words(label) - ABOUT == wanted]
    said = [found for found in map(_yes_or_no, own) if found is not None]
    if said:
        return any(said)
    if any(isinstance(value, str) and _words(value) == wanted for value in labels.values()):
        return True
    two_classes = [value for value in labels.values() if _is_of_two_classes(value)]
    others = [found for found in map(_yes_or_no, two_classes) if found is not None]
    return True if only and others == [True] else None


def _yes_or_no(value: object) -> bool | None:
    """What a cell says of a finding: a number above 0 is yes; codes for "not known" say nothing."""
    if is_missing(value):
        return None
    if isinstance(value, str):
        word = value.casefold()
        return True if word in YES else False if word in NO else None
    number = float(value) if isinstance(value, int | float) else math.nan
    return None if math.isnan(number) or number in CODES or number < 0 else number > 0


def _is_of_two_classes(value: object) -> bool:
    return value in (0, 1) or (isinstance(value, str) and value.casefold() in YES | NO)


def _words(name: str) -> set[str]:
    """Words of a name in lower case and in the singular: `PleuralEffusions` has two."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
    words = {word for word in re.split(r"[^a-z]+", spaced) if word}
    return {word[:-1] if len(word) > 3 and word[-1] == "s" != word[-2] else word for word in words}


def is_inverted(mask: np.ndarray) -> bool:
    """Whether the border of the image's planes has one label nearly everywhere."""
    sides = [mask[:, 0], mask[:, -1], mask[:, :, 0], mask[:, :, -1]]
    border = np.concatenate([side.reshape(-1) for side in sides])
    labelled = border[border > 0]
    if len(labelled) < BORDER * len(border):
        return False
    return bool(np.bincount(labelled).max() >= BORDER * len(border))


def mirrored(voxels: np.ndarray, mask: np.ndarray) -> str:
    """How a mask has to be turned to fit its image, in words; "" where it fits, or is not known.

    Across the edge of a structure the image becomes brighter, or darker, nearly everywhere. Across
    the same edge elsewhere in the image, steps up and down cancel. So the mean step with its sign
    is compared with that of the mirrored masks. A structure that is its own mirror image, or has no
    contrast, is left alone.

    Args:
      voxels, mask: `[z, y, x]`.
    """
    # A finding beside a wall of the chest has steps up and down, and healthy lung on the other side
    # has neither, or has the edge of the heart. So in volumes only maps of several organs are
    # judged, and in planar images only what is larger than most findings.
    if len(mask) > 1 and len(np.unique(mask)) <= LEAST_ORGANS:
        return ""
    if len(mask) == 1 and (mask > 0).mean() < LEAST_AREA:
        return ""
    own = edge_contrast(voxels, mask)
    if own is None:
        return ""
    for words, turned in _turned(mask):
        found = edge_contrast(voxels, turned)
        if found is None or found.size < LEAST_CONTRAST or found.agreed < AGREED:
            continue
        if found.size > MIRRORED * own.size and found.agreed > MIRRORED * own.agreed:
            return words
    return ""


def _turned(mask: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """The mask as it may have been meant, with the turn in words."""
    for words, axes in AXES.items():
        if len(mask) > 1 or 0 not in axes:
            yield words, np.flip(mask, axes)
    # Rows and columns of another order change the grid, but for square planes.
    if mask.shape[1] == mask.shape[2]:
        yield "about the diagonal of its planes", np.swapaxes(mask, 1, 2)
        yield "by a quarter", np.rot90(mask, 1, (1, 2))
        yield "by a quarter", np.rot90(mask, 3, (1, 2))


class Contrast(NamedTuple):
    """Mean step across edges, as a share of the image's range, and of the steps without signs."""

    size: float
    agreed: float


def edge_contrast(voxels: np.ndarray, mask: np.ndarray) -> Contrast | None:
    """Mean step across the edges of a mask's labels. Within a label, steps count with their signs.

    None where there are too few edges, or the image has no range.
    """
    used = np.flatnonzero(mask.any(axis=(1, 2)))
    used = used[:: max(1, math.ceil(len(used) / MOST_SLICES))]
    planes, image = mask[used], voxels[used]
    steps: dict[int, float] = {}
    edges, without_signs = 0, 0.0
    for axis in (1, 2):
        a, b = (np.moveaxis(part, axis, 2) for part in (planes, image))
        z, y, x = np.nonzero(a[:, :, 1:] != a[:, :, :-1])
        before, after = a[z, y, x], a[z, y, x + 1]
        start = b[z, y, np.maximum(x + 1 - BESIDE, 0)].astype(np.float64)
        step = b[z, y, np.minimum(x + BESIDE, b.shape[2] - 1)] - start
        edges += len(step)
        without_signs += np.abs(step).sum()
        for label in np.unique(a[a > 0]):
            inward = step[after == label].sum() - step[before == label].sum()
            steps[label] = steps.get(label, 0.0) + float(inward)
    if edges < LEAST_EDGES:
        return None
    low, high = np.percentile(image[:, ::2, ::2], (2, 98))
    if not high > low or not without_signs:
        return None
    with_signs = sum(map(abs, steps.values()))
    return Contrast(with_signs / edges / float(high - low), with_signs / without_signs)
