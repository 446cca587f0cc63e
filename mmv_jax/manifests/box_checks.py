"""Boxes that can be drawn and are probably meant otherwise. Axes: B boxes.

Nothing of a table says whether four numbers are corners or sides, of which picture they are pixels,
or whether they are pixels at all. Of many boxes their places say it.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

if TYPE_CHECKING:  # `boxes.py` imports this file
    from mmv_jax.manifests.boxes import Box

FEW = 0.05  # share of boxes that may be wrong: their studies are left out, and the others are drawn
ENOUGH, MANY = 5, 20  # boxes by whose places their picture is judged
# Shares of width and height within which no box of another size of picture reaches further.
UPPER_LEFT, MOST_OF_IT = 0.55, 0.75
WHOLE = 0.9  # of a picture: such a box marks no lesion


def odd_boxes(
    boxes: Sequence["Box"], sizes: Float[np.ndarray, "B 2"], *, sides: bool
) -> Iterator[str]:
    """A sentence for each thing that is probably meant otherwise.

    Args:
      sizes: width and height of the picture of each box.
      sides: whether the columns are x, y, w, h and not corners.
    """
    low, high = (np.array([getattr(box, end) for box in boxes]) for end in ("low", "high"))
    # A lesion is smaller than its distance from the edge, but for some near the upper left.
    if sides and len(boxes) >= ENOUGH and (high - low > low).all():
        yield (
            "In every box w is larger than x, and h than y. If the numbers are corners, call the"
            " columns xmin, ymin, xmax, ymax."
        )
    reach = (high / sizes).max(axis=0)
    # Places of lesions spread with their number: of many boxes one comes near the far edges.
    least = MOST_OF_IT if len(boxes) >= MANY else UPPER_LEFT
    if len(boxes) >= ENOUGH and (reach < least).all():
        yield (
            f"All {len(boxes):,} boxes lie in the upper left of their pictures, up to"
            f" {reach[0]:.0%} of the width and {reach[1]:.0%} of the height. If they were drawn on"
            " smaller pictures, or in mm, scale them to the pixels of the files."
        )
    if whole := int(((high - low) / sizes >= WHOLE).all(axis=1).sum()):
        yield f"{whole:,} boxes cover a whole picture, and mark no place in it."
    twice, over = _met(boxes)
    if twice:
        yield f"{twice:,} boxes are there twice; each counts once."
    if over:
        yield (
            f"{over:,} boxes overlap another one of their study, as those of two readers do. Boxes"
            " that touch count as one lesion."
        )


def advice(
    boxes: Sequence["Box"], sizes: Float[np.ndarray, "B 2"], edge: float, *, sides: bool
) -> str:
    """What the numbers may be, where they leave their pictures as they were read; "" for nothing.

    Args:
      edge: pixels that a box may stick out.
    """
    low, high = (np.array([getattr(box, end) for box in boxes]) for end in ("low", "high"))
    span = high - low
    read = {"y before x": (low[:, ::-1], high[:, ::-1])}
    if sides:
        # Read as sides, `high` is the sum of both corners, and `span` the far one.
        read["xmin, ymin, xmax, ymax"] = (low, span)
        read["the centre and w, h"] = (low - span / 2, low + span / 2)
    for name, (first, last) in read.items():
        if (first >= -edge).all() and (last <= sizes + edge).all() and (last > first).all():
            return f" All would fit if the numbers were {name}."
    return ""


def _met(boxes: Sequence["Box"]) -> tuple[int, int]:
    """The number of boxes that repeat another one, and of those that overlap another one."""
    own: dict[tuple, list[Box]] = {}
    for box in boxes:
        own.setdefault((box.study, box.z), []).append(box)
    twice, over = 0, set[int]()
    for theirs in own.values():
        # In a dictionary of places a box that is there twice stands once.
        places = {(box.low, box.high): box for box in theirs}
        twice += len(theirs) - len(places)
        for one, two in combinations(places.values(), 2):
            if all(a < d and c < b for a, b, c, d in zip(one.low, one.high, two.low, two.high)):
                over |= {one.line, two.line}
    return twice, len(over)
