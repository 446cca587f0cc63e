"""What a step costs, in closed form: FLOPs of the student, the teacher, the decoder and the heads.
Checked against compiled programs by the tests.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mmv_jax.data.crops import View
from mmv_jax.data.tokens import RowShape
from mmv_jax.models.blocks import hidden_width
from mmv_jax.models.encoder import Encoder
from mmv_jax.models.projection import ProjectionHead
from mmv_jax.models.sizes import flops_per_token
from mmv_jax.objectives.ibot import scoring_parts
from mmv_jax.train.objective import Objective


@dataclass(frozen=True)
class Flops:
    """FLOPs of one part of a step over all devices, two a multiply-add.

    Attributes:
      forward, backward: matrix products outside attention.
      again: products that the backward pass computes a second time, since they were not stored.
      attention: scores and weighted sums, forward and backward, of the rows that are expected;
        twice as much backward as forward.
    """

    forward: int = 0
    backward: int = 0
    again: int = 0
    attention: int = 0

    @property
    def products(self) -> int:
        """That the compiled program has outside attention."""
        return self.forward + self.backward + self.again

    @property
    def model(self) -> int:
        """That training needs, however it is done: what utilisation is measured by."""
        return self.forward + self.backward + self.attention


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
            depth, *plane = (side // p for side, p in zip(view.grid, shape.patch, strict=True))
            patches = math.prod(plane) * (depth if ndim == 3 else 1)
            every += [patches + shape.special] * view.count
            globals_ += [patches] * view.count * view.is_global
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
    encoder, width = objective.encoder, objective.encoder.width
    if objective.distils:
        parts["teacher"] = _teacher(encoder, rows * shape.prefix, rows * filling.prefix[1])
        parts["student"] = _student(encoder, rows * shape.length, rows * filling.row[1])
    if objective.dino > 0:
        parts["dino head"] = _head(objective.dino_head, width, rows * shape.segments)
        # targets are summed a student view: no gradient goes there
        pairs = 2 * rows * shape.segments**2 * objective.dino_head.prototypes
        parts["dino loss"] = Flops(forward=pairs)
    if objective.ibot > 0:
        head, (count, size) = objective.ibot_head, scoring_parts(shape.masked)
        # Every part again in the backward pass; where the last two parts overlap, a product forward
        # and two backward besides.
        tokens = rows * (count * size + 3 * (count * size - shape.masked)) if count > 1 else 0
        parts["ibot head"] = replace(
            _head(head, width, rows * shape.masked),
            again=2 * tokens * head.bottleneck * head.prototypes,
        )
    if objective.koleo > 0:
        cosines = 2 * (rows * shape.segments) ** 2 * width
        parts["koleo"] = Flops(forward=cosines, backward=2 * cosines)
    if objective.mae > 0:
        parts["visible"] = _student(encoder, rows * shape.visible, rows * filling.visible[1])
        parts["decoder"] = _decoder(objective, shape, rows, rows * filling.prefix[1])
        if not objective.distils:  # features for the health figures: means a segment
            parts["features"] = Flops(forward=2 * rows * shape.segments * shape.visible * width)
    return parts


def _teacher(encoder: Encoder, tokens: int, squares: int | float) -> Flops:
    return Flops(
        forward=tokens * flops_per_token(encoder),
        attention=round(4 * encoder.depth * encoder.width * squares),
    )


def _student(encoder: Encoder, tokens: int, squares: int | float) -> Flops:
    entry = 2 * (math.prod(encoder.patch) + encoder.registers + 2) * encoder.width
    blocks = flops_per_token(encoder) - entry
    again = blocks - (
        0
        if encoder.layer_scale is not None
        else 2 * encoder.depth * encoder.width * hidden_width(encoder.width, encoder.mlp)
    )
    attention = round(12 * encoder.depth * encoder.width * squares)
    # Nobody asks for the gradient of voxels: the entry has one product backward, all others two.
    return Flops(
        tokens * (entry + blocks),
        tokens * (entry + 2 * blocks),
        tokens * again if encoder.remat else 0,
        attention,
    )


def _head(head: ProjectionHead, width: int, tokens: int) -> Flops:
    """Of student and teacher together."""
    forward = (
        2
        * tokens
        * (
            width * head.hidden
            + head.hidden**2
            + head.hidden * head.bottleneck
            + head.bottleneck * head.prototypes
        )
    )
    return Flops(2 * forward, 2 * forward)


def _decoder(objective: Objective, shape: RowShape, rows: int, squares: int | float) -> Flops:
    decoder, width = objective.decoder, objective.decoder.width
    entry, exit_ = 2 * objective.encoder.width * width, 2 * width * decoder.patch_voxels
    blocks = 2 * decoder.depth * (4 * width**2 + 2 * width * hidden_width(width, "gelu"))
    tokens = rows * shape.prefix
    forward = rows * shape.visible * entry + tokens * (blocks + exit_)
    return Flops(
        forward,
        2 * forward,
        tokens * blocks if decoder.remat else 0,
        round(12 * decoder.depth * width * squares),
    )
