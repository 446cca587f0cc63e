"""Masks of a CT that lie where their structure cannot be: in the air around the body, or, where the
mask's name says which tissue it is, on values that this tissue does not have.

Only what no patient has is told, and organs on the other side, as one in 10,000 has them (situs
inversus).
"""

from collections.abc import Iterator

import numpy as np
from scipy import ndimage

from mmv_jax.study import Study

AIR = -900.0  # HU: below it there is no tissue; healthy lung lies above
OUTSIDE = 0.5  # share of a mask that lies in the air around the body
LEAST_VOXELS = 50
MOST_SLICES = 24
SIDES = {"left", "right", "l", "r", "upper", "lower", "middle", "lobe", "both", "s"}
# Words of names without an s at the end, as `odd_masks` cuts them.
LUNG = {"lung"}
BONE = {"bone", "rib", "vertebra", "vertebrae", "sternum", "femur", "humeru", "skull", "scapula"}
BONE |= {"clavicle", "pelvi", "sacrum", "spine", "skeleton"}
SOFT = {"liver", "spleen", "kidney", "heart", "aorta", "pancrea", "bladder", "prostate", "brain"}
SOFT |= {"muscle", "cardiomediastinum", "mediastinum"}
# HU: air and lung lie below the one, bone above the other.
LUNG_HU, BONE_HU = -400.0, 150.0
AIR_IN_SOFT = 0.2  # share of a mask of soft tissue in air or lung, which no such organ has
# Shares of lung, and of bone, in a mask and in its mirror image: whole lungs may be dense by
# disease, and bones may be demineralised, but then the mirrored mask fits no better.
LEAST_LUNG, MUCH_LUNG, MORE_LUNG = 0.7, 0.85, 0.15
LEAST_BONE, MUCH_BONE = 0.2, 0.5
TURNS = ((2,), (1,), (0,), (1, 2), (0, 1, 2))
LEFT_TO_RIGHT = (2,)
LEFT, RIGHT = {"left", "l"}, {"right", "r"}
# Organs of one side; of the liver a lobe lies on the other one.
ON_THE_LEFT, ON_THE_RIGHT = {"spleen", "stomach"}, {"liver", "gallbladder"}
BODY_HU, AT_THE_SIDE = -300.0, 0.1  # share of the rows with tissue in the outermost columns
# mm, and shares of a mask: vessels and chambers of the heart lie near the middle.
BESIDE_MM, OTHER_SIDE, MOST_OF_LIVER = 5.0, 0.9, 0.55


def misplaced(study: Study, mask: np.ndarray, words: set[str]) -> str:
    """Why a mask of a CT in HU cannot be where it lies; "" where it can, or is not known.

    Args:
      mask: `[z, y, x]` on the study's grid, not empty.
      words: of the mask's name, in lower case and without an s at the end.
    """
    if np.count_nonzero(mask) < LEAST_VOXELS:
        return ""
    if study.ndim == 2:
        # Only of lungs is it known that neither reaches into the other half of a frontal chest.
        wrong = words - SIDES <= LUNG and is_on_other_side(study, mask, words)
        return "lies on the other side of the image" if wrong else ""
    if study.unit != "HU":
        return ""
    if _outside(study.voxels, mask) > OUTSIDE:
        return "lies in the air around the body"
    tissue = words - SIDES
    wrong = (
        (tissue <= SOFT and _share(study.voxels < LUNG_HU, mask) > AIR_IN_SOFT)
        or (tissue <= LUNG and _fits_other_lung(study.voxels, mask, one=bool(words & SIDES)))
        or (tissue <= BONE and _fits_other_bone(study.voxels, mask))
    )
    if tissue and wrong:
        return "lies on values that its tissue does not have"
    return "lies on the other side of the body" if is_on_other_side(study, mask, words) else ""


def is_on_other_side(study: Study, mask: np.ndarray, words: set[str]) -> bool:
    """Whether a mask lies on the side of a CT's body, or of a frontal radiograph, that its name or
    its organ excludes.

    Sides are those of the patient: x grows to the left, as it does where a radiograph is displayed.
    Where a CT cuts the body at a side of the image, its middle is not known.
    """
    left = bool(words & LEFT) or bool(words - SIDES) and words - SIDES <= ON_THE_LEFT
    right = bool(words & RIGHT) or bool(words - SIDES) and words - SIDES <= ON_THE_RIGHT
    if left == right:
        return False
    middle = mask.shape[2] / 2 if study.ndim == 2 else _middle(study.voxels, mask)
    if middle is None:
        return False
    margin = BESIDE_MM / study.spacing_mm[2] if study.ndim == 3 else 0.0
    columns = np.nonzero(mask > 0)[2]
    beyond = columns < middle - margin if left else columns > middle + margin
    return float(beyond.mean()) > (MOST_OF_LIVER if words - SIDES <= {"liver"} else OTHER_SIDE)


def _middle(voxels: np.ndarray, mask: np.ndarray) -> float | None:
    """Mean column of the body in the slices of a mask; None where the image cuts it."""
    # Of these slices alone: a patient may lie obliquely on the table.
    found = [(body.sum(axis=0), body.shape[0]) for body in _bodies(voxels, mask)]
    counts = sum(each for each, _ in found)
    rows = sum(each for _, each in found)
    sides = [*counts[:2], *counts[-2:]]
    if not counts.any() or max(sides) > AT_THE_SIDE * rows:
        return None
    return float((counts * np.arange(len(counts))).sum() / counts.sum())


def _bodies(voxels: np.ndarray, mask: np.ndarray) -> Iterator[np.ndarray]:
    used = np.flatnonzero(mask.any(axis=(1, 2)))
    for z in used[:: max(1, -(-len(used) // MOST_SLICES))]:
        yield voxels[z] > BODY_HU


def _share(voxels: np.ndarray, mask: np.ndarray) -> float:
    """Share of a mask that has a property, given as a mask."""
    return float(voxels[mask > 0].mean())


def _fits_other_lung(voxels: np.ndarray, mask: np.ndarray, *, one: bool) -> bool:
    """Whether the mirrored mask holds more lung. Of one lung the other one may be the healthy."""
    is_lung = voxels < LUNG_HU
    own = _share(is_lung, mask)
    if own >= LEAST_LUNG:
        return False
    turns = [axes for axes in TURNS if not (one and axes == LEFT_TO_RIGHT)]
    best = max(_share(is_lung, np.flip(mask, axes)) for axes in turns)
    return best > max(MUCH_LUNG, own + MORE_LUNG)


def _fits_other_bone(voxels: np.ndarray, mask: np.ndarray) -> bool:
    is_bone = voxels > BONE_HU
    if _share(is_bone, mask) >= LEAST_BONE:
        return False
    return any(_share(is_bone, np.flip(mask, axes)) > MUCH_BONE for axes in TURNS)


def _outside(voxels: np.ndarray, mask: np.ndarray) -> float:
    """Share of a mask in air that reaches the border of its slice: not that of the airways."""
    used = np.flatnonzero(mask.any(axis=(1, 2)))
    used = used[:: max(1, -(-len(used) // MOST_SLICES))]
    labelled = outside = 0
    for z in used:
        here = mask[z] > 0
        labelled += int(here.sum())
        parts, _ = ndimage.label(voxels[z] < AIR)
        border = np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]])
        around = np.isin(parts, np.unique(border[border > 0]))
        outside += int((here & around).sum())
    return outside / labelled
