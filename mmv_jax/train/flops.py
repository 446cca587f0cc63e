"""FLOPs of a step in closed form: the encoder's passes and the loss terms.

Tests check them against compiled programs.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jax.sharding import Mesh

from mmv_jax.chips import CHIPS, peak_flops
from mmv_jax.data.crops import View, largest_crop
from mmv_jax.data.tokens import RowShape
from mmv_jax.models.cost import Flops
from mmv_jax.objectives.term import STUDENT, TEACHER, VISIBLE, Work
from mmv_jax.train.objective import Objective
from mmv_jax.train.speed import StepCost


@dataclass(frozen=True)
class Filling:
    """Expected content of a row: the sums of n and of n² over its segments of length n.

    Attributes:
      row: of all segments.
      prefix: of the global segments, which teacher and decoder read.
      visible: of the visible part of these in masked reconstruction.
    """

    row: tuple[float, float]
    prefix: tuple[float, float]
    visible: tuple[float, float]


def expected_filling(views: Mapping[int, Sequence[View]], shape: RowShape) -> Filling:
    """Filling of a row with as many planar as volumetric studies, all crops at their largest.

    The true sizes are unknown before there is a store.
    """
    every, globals_ = [], []
    for ndim, of_study in views.items():
        for view in of_study:
            patches = largest_crop(view, shape.patch, ndim)
            every += [patches + shape.special] * view.count
            # For a local crop the factor is False, which adds nothing.
            globals_ += [patches] * view.count * view.is_global
    # The lists hold one study of each dimensionality. The tighter of a row's two limits sets how
    # many such sets it holds; the number need not be whole.
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


def most_visible(shape: RowShape, views: Mapping[int, Sequence[View]]) -> int | None:
    """Tokens of the longest segment of the visible pass; None if there is no such pass."""
    if shape.visible_share is None:
        return None
    patches = [
        largest_crop(view, shape.patch, ndim)
        for ndim, of_study in views.items()
        for view in of_study
        if view.is_global
    ]
    return int(shape.visible_of(np.array(patches)).max()) + shape.special


def step_flops(
    objective: Objective, shape: RowShape, rows: int, filling: Filling
) -> dict[str, Flops]:
    """FLOPs of each part of a step, over all devices."""
    parts: dict[str, Flops] = {}
    encoder, needs = objective.encoder, objective.needs
    work = work_of(objective, shape, rows, filling)
    again = Flops.twice if objective.parts > 1 else lambda flops: flops
    if TEACHER in needs:
        parts["teacher"] = encoder.forward_flops(rows * work.prefix, rows * work.prefix_squares)
    if STUDENT in needs:
        student = encoder.training_flops(rows * work.length, rows * work.row_squares)
        parts["student"] = again(student)
    if VISIBLE in needs:
        # `Work` has only the squares of rows and prefixes, so those of the visible pass come here.
        squares = rows * filling.visible[1]
        parts["visible"] = again(encoder.training_flops(rows * work.visible, squares))
        if not needs & {TEACHER, STUDENT}:
            # Features for the health figures: means of segments.
            means = 2 * rows * work.segments * work.visible * encoder.width
            parts["features"] = Flops(forward=means)
    for term in objective.terms.values():
        parts |= term.flops(work)
    return parts


def work_of(
    objective: Objective, shape: RowShape, rows: int, filling: Filling | None = None
) -> Work:
    """The work of `rows` rows, in the form that loss terms take."""
    return Work(
        rows=rows,
        length=shape.length,
        prefix=shape.prefix,
        visible=0 if shape.visible_share is None else shape.visible,
        masked=shape.masked,
        segments=shape.segments,
        row_squares=filling.row[1] if filling else 0.0,
        prefix_squares=filling.prefix[1] if filling else 0.0,
        parts=objective.parts,
    )


def step_cost(
    objective: Objective,
    shape: RowShape,
    *,
    rows: int,
    views: Mapping[int, Sequence[View]],
    mesh: Mesh,
) -> StepCost:
    """FLOPs of a step, with the peak of the mesh's devices."""
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
