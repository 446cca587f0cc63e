"""What a step costs, in closed form: FLOPs of the encoder's passes and of the loss terms. Checked
against compiled programs by the tests.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jax.sharding import Mesh

from mmv_jax.chips import CHIPS, peak_flops
from mmv_jax.data.crops import View
from mmv_jax.data.tokens import RowShape
from mmv_jax.models.cost import Flops
from mmv_jax.objectives.term import STUDENT, TEACHER, VISIBLE, Work
from mmv_jax.train.objective import Objective
from mmv_jax.train.speed import StepCost


@dataclass(frozen=True)
class Filling:
    """What a row is expected to hold: sums over its segments of their lengths n and of n².

    Attributes:
      row: of all segments.
      prefix: of the global ones, which teacher and decoder read.
      visible: of what masked reconstruction leaves of those.
    """

    row: tuple[float, float]
    prefix: tuple[float, float]
    visible: tuple[float, float]


def expected_filling(views: Mapping[int, Sequence[View]], shape: RowShape) -> Filling:
    """A row filled with as many planar as volumetric studies, every crop as large as it may be:
    none is known before there is a store.
    """
    every, globals_ = [], []
    for ndim, of_study in views.items():
        for view in of_study:
            # Patches (z, y, x) of the largest crop; a planar study has one layer of them.
            depth, *plane = (side // p for side, p in zip(view.grid, shape.patch, strict=True))
            patches = math.prod(plane) * (depth if ndim == 3 else 1)
            every += [patches + shape.special] * view.count
            # A local crop multiplies the list by False, which leaves it empty.
            globals_ += [patches] * view.count * view.is_global
    # The lists hold one study of each dimensionality. A row holds as many such sets as the tighter
    # of its two limits allows; the number need not be whole.
    studies = min(
        shape.length / sum(every), shape.prefix / sum(n + shape.special for n in globals_)
    )
    share = shape.visible_share or 0.0

    def sums(lengths: list) -> tuple[float, float]:
        return studies * sum(lengths), studies * sum(n * n for n in lengths)

    return Filling(
        sums(every),
        sums([n + shape.special for n in globals_]),
        sums([math.ceil(share * n) + shape.special for n in globals_]),
    )


def step_flops(
    objective: Objective, shape: RowShape, rows: int, filling: Filling
) -> dict[str, Flops]:
    """Parts of a step and what they cost, over all devices."""
    parts: dict[str, Flops] = {}
    encoder, needs, work = objective.encoder, objective.needs, work_of(shape, rows, filling)
    if TEACHER in needs:
        parts["teacher"] = encoder.forward_flops(rows * work.prefix, rows * work.prefix_squares)
    if STUDENT in needs:
        parts["student"] = encoder.training_flops(rows * work.length, rows * work.row_squares)
    if VISIBLE in needs:
        # `Work` has the squares of rows and prefixes alone, so these come from the filling.
        squares = rows * filling.visible[1]
        parts["visible"] = encoder.training_flops(rows * work.visible, squares)
        if not needs & {TEACHER, STUDENT}:
            # Features for the health figures: means of segments.
            means = 2 * rows * work.segments * work.visible * encoder.width
            parts["features"] = Flops(forward=means)
    for term in objective.terms.values():
        parts |= term.flops(work)
    return parts


def work_of(shape: RowShape, rows: int, filling: Filling | None = None) -> Work:
    """The work of so many rows, as loss terms are asked for its cost."""
    return Work(
        rows=rows,
        length=shape.length,
        prefix=shape.prefix,
        visible=0 if shape.visible_share is None else shape.visible,
        masked=shape.masked,
        segments=shape.segments,
        row_squares=filling.row[1] if filling else 0.0,
        prefix_squares=filling.prefix[1] if filling else 0.0,
    )


def step_cost(
    objective: Objective,
    shape: RowShape,
    *,
    rows: int,
    views: Mapping[int, Sequence[View]],
    mesh: Mesh,
) -> StepCost:
    """What a step costs, beside what the devices of a mesh can do."""
    try:
        parts = step_flops(objective, shape, rows, expected_filling(views, shape))
    except NotImplementedError:  # a backbone or loss term of the user's own need not count them
        return StepCost(math.nan, None, "a part of the model does not say what it costs")
    kind = mesh.devices.flat[0].device_kind
    peak = peak_flops(kind)
    return StepCost(
        flops=float(sum(part.model for part in parts.values())),
        # The devices of a mesh are all of one kind.
        peak=None if peak is None else mesh.size * peak,
        why=f"the peak of a {kind} is not known (it is of: {', '.join(CHIPS)})",
    )
