"""KoLeo: a penalty on features of different studies that lie close together.

Axes: N crops, D width.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mmv_jax.errors import UserError
from mmv_jax.models.cost import Flops
from mmv_jax.objectives.batch import Params
from mmv_jax.objectives.targets import weighted_mean
from mmv_jax.objectives.term import STUDENT, TEACHER, Seen, Term, Work


def koleo(
    cls: Float[Array, "N D"], study: Int[Array, "N"], crop: Int[Array, "N"] | None = None
) -> Float[Array, ""]:
    """The KoLeo loss: minus the mean log distance of each unit vector to its nearest one of another
    study.

    Args:
      cls: features; computed in float32.
      study: the study of each row; -1 is padding. Views of one study should be near each other, so
        they do not count as neighbours.
      crop: the number of each row among the global crops of its study. With it, neighbours have the
        same number, and the loss is the sum of the losses of all numbers, as in DINOv2.
    Returns:
      0 where there are fewer than two studies.

    Source: Sablayrolles et al. (arXiv 1806.03198), equation 1; as regulariser of DINO features,
      Oquab et al. (arXiv 2304.07193), section 4.
    """
    x = cls.astype(jnp.float32)
    # Added under the root: a feature that is exactly 0 then has a finite gradient.
    x = x * jax.lax.rsqrt(jnp.square(x).sum(axis=-1, keepdims=True) + 1e-12)
    counts = study >= 0
    strangers = (study[:, None] != study[None, :]) & counts[:, None] & counts[None, :]
    if crop is not None:
        strangers &= crop[:, None] == crop[None, :]
    # Only who is nearest comes from the products, and without a gradient: 2 - 2 cos loses all its
    # digits where features are close, which is where this loss is needed. Accelerators would round
    # the products to bfloat16.
    fixed = jax.lax.stop_gradient(x)
    cosines = jnp.matmul(fixed, fixed.T, precision=jax.lax.Precision.HIGHEST)
    nearest = jnp.where(strangers, cosines, -jnp.inf).argmax(axis=-1)
    there = strangers.any(axis=-1)
    # The small number keeps the root's gradient finite where two features are equal.
    distance = jnp.sqrt(jnp.square(x - x[nearest]).sum(axis=-1) + 1e-16)
    logs = -jnp.log(distance + 1e-8)
    if crop is None:
        return weighted_mean(logs, there.astype(jnp.float32))
    alike = (crop[:, None] == crop[None, :]) & there[None, :]
    return jnp.where(there, logs / jnp.maximum(alike.sum(axis=-1), 1), 0.0).sum()


def numbers_of_crops(study: Int[Array, "B S"]) -> Int[Array, "B S"]:
    """0 for the first global crop of a study in its row, 1 for the second, and so on.

    Args:
      study: of each global crop; -1 where a segment is none.
    """
    same = study[:, :, None] == study[:, None, :]
    before = jnp.tril(jnp.ones(same.shape[1:], bool), -1)
    return (same & before[None]).sum(axis=-1)


@dataclass(frozen=True)
class KoleoTerm(Term):
    """`koleo` of the student's CLS tokens of global crops.

    Fields:
      koleo_by_crop: neighbours are looked for among the first global crops, the second ones, and so
        on, and the losses of each are added, as in DINOv2.
      koleo_rows: neighbours are looked for within groups of so many successive rows, and the loss
        is the mean over the groups; 0 for all rows of a step. DINOv2's groups are the batches of
        its GPUs. Nothing leaves a device whose rows are whole groups, and the loss is the same for
        any number of devices. A step of fewer rows is one group.
    """

    koleo_by_crop: bool = False
    koleo_rows: int = 0
    # The loss reads the student alone; the health figures read the teacher's features.
    needs: ClassVar[frozenset[str]] = frozenset({TEACHER, STUDENT})

    def loss(
        self, student: Params, teacher: Params, seen: Seen
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        cls = seen.cls[STUDENT]
        study = jnp.where(seen.is_global, seen.batch["study"], -1)
        crop = numbers_of_crops(study) if self.koleo_by_crop else None
        groups = self._groups(len(study))
        cls, study, crop = jax.tree.map(
            lambda x: x.reshape(groups, -1, *x.shape[2:]), (cls, study, crop)
        )
        return jax.vmap(koleo)(cls, study, crop).mean(), {}

    def _groups(self, rows: int) -> int:
        """Number of groups among the rows of a step."""
        if not isinstance(self.koleo_rows, int) or self.koleo_rows < 0:
            raise UserError(
                f"config.objective.koleo_rows is {self.koleo_rows!r}, but is a number of rows. Set"
                " a whole number, or 0 for all rows."
            )
        together = self._together(rows)
        if rows % together:
            raise UserError(
                f"config.objective.koleo_rows is {self.koleo_rows}, but does not divide the"
                f" {rows} rows of a step (config.rows.per_step). Set a divisor, or 0 for all rows."
            )
        return rows // together

    def _together(self, rows: int) -> int:
        """Rows of a group."""
        return min(self.koleo_rows or rows, rows)

    def flops(self, work: Work) -> dict[str, Flops]:
        # Without a gradient: of the products only who is nearest is kept.
        pairs = work.rows * self._together(work.rows) * work.segments**2
        return {"koleo": Flops(forward=2 * pairs * self.encoder.width)}

    def stored_bytes(self, work: Work, remat: bool | str) -> dict[str, int]:
        return {}
