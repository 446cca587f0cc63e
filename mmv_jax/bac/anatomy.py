"""What each pixel of a view shows: air, breast or pectoral muscle; and how much of each.

Axes: Y X pixels of the file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Bool, Shaped, UInt8

from mmv_jax.bac.agreement import overlap
from mmv_jax.bac.pectoral import muscle_edge
from mmv_jax.bac.view import CELL, averaged, breast_cells, enlarged, nominal, working_factor
from mmv_jax.metrics.intervals import Interval, interval

AIR, BREAST, MUSCLE = 0, 1, 2
MASK = "anatomy"  # name of the truth in a manifest
PARTS = {"breast": BREAST, "muscle": MUSCLE}
SHOWN = 5  # the largest number of unknown values that a sentence names


@dataclass(frozen=True)
class Anatomy:
    """Areas of one mammogram in mm², NaN where its pixel spacing is unknown.

    Attributes:
      number: of the file or manifest line, in the given order.
      breast_mm2: without the muscle.
      muscle_mm2: 0 on views other than MLO, where it is not looked for.
      calcified_on_muscle_mm2: what was taken for calcified artery and lies on the muscle. It counts
        like any other: an artery in front of the muscle is one of the breast.
    """

    number: int
    breast_mm2: float
    muscle_mm2: float
    calcified_on_muscle_mm2: float

    @classmethod
    def of(
        cls,
        number: int,
        shown: UInt8[np.ndarray, "Y X"],
        mask: Bool[np.ndarray, "Y X"],
        spacing_mm: tuple[float, float],
    ) -> "Anatomy":
        """Of a view, its map (`anatomy_map`) and what was found calcified on it."""
        regions = (shown == BREAST, shown == MUSCLE, mask & (shown == MUSCLE))
        pixel_mm2 = spacing_mm[0] * spacing_mm[1]
        return cls(number, *(float(region.sum()) * pixel_mm2 for region in regions))


COLUMNS = tuple(field.name for field in fields(Anatomy))


def anatomy_map(
    voxels: Shaped[np.ndarray, "Y X"], spacing_mm: tuple[float, float], view: str
) -> UInt8[np.ndarray, "Y X"]:
    """`AIR`, `BREAST` or `MUSCLE` of each pixel. The breast is in cells of about 1.6 mm.

    Args:
      spacing_mm: (y, x); an unknown one (NaN) is replaced by a common one.
      view: "MLO", on which muscle is looked for, or another.
    """
    shape = (voxels.shape[0], voxels.shape[1])
    factor, pixel_mm = working_factor(spacing_mm, shape), nominal(spacing_mm, shape)
    coarse = averaged(averaged(voxels, factor), CELL)
    breast = breast_cells(coarse)
    shown = enlarged(breast.astype(np.uint8) * BREAST, factor * CELL, shape)
    cell_mm = (pixel_mm[0] * factor * CELL, pixel_mm[1] * factor * CELL)
    if view == "MLO" and (edge := muscle_edge(coarse, breast, cell_mm)):
        shown[edge.muscle(shape, pixel_mm) & (shown == BREAST)] = MUSCLE
    return shown


def overlaps(
    truth: UInt8[np.ndarray, "Y X"], found: UInt8[np.ndarray, "Y X"]
) -> dict[str, tuple[int, int, int]]:
    """Of each of `PARTS`, the numbers of pixels in both, in the truth and in what was found."""
    return {name: overlap(truth == part, found == part) for name, part in PARTS.items()}


def unknown_values(truth: Shaped[np.ndarray, "Y X"]) -> str:
    """What is wrong with the values of a true map, as a sentence; "" if nothing is.

    Example:
      >>> unknown_values(np.array([[0, 255]]))
      'its anatomy_mask has the value 255, and is not compared: use 0 air, 1 breast, 2 muscle'
    """
    values = sorted(set(np.unique(truth).tolist()) - {AIR, *PARTS.values()})
    if not values:
        return ""
    # A map of grey levels has hundreds: the first ones are enough.
    more = ", …" if len(values) > SHOWN else ""
    named = f"value{'s' if len(values) > 1 else ''} {', '.join(map(str, values[:SHOWN]))}{more}"
    known = ", ".join(f"{part} {name}" for name, part in {"air": AIR, **PARTS}.items())
    return f"its anatomy_mask has the {named}, and is not compared: use {known}"


def anatomy_scores(
    views: Sequence[tuple[str, Mapping[str, tuple[int, int, int]]]],
) -> dict[str, Interval]:
    """The mean Dice of each part over the views whose truth has it; empty without views.

    Args:
      views: of each the woman, and its `overlaps`.
    """
    scores = {}
    for name in PARTS:
        mine = [(woman, of_view[name]) for woman, of_view in views if of_view[name][1]]
        if mine:
            dice = np.array([2 * both / (truth + found) for _, (both, truth, found) in mine])
            women = np.array([woman for woman, _ in mine])
            scores[f"dice_{name}"] = interval("mean", dice, dice, women)
    return scores
