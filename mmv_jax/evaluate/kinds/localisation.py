"""Localisation: lesions found by the peaks of a map, against false marks a study (FROC).

Axes: N studies, K candidates of a study, R resamples.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float

from mmv_jax.errors import UserError
from mmv_jax.evaluate.kinds.kind import Kind
from mmv_jax.evaluate.tasks.task import Task
from mmv_jax.metrics.behind import rests_on
from mmv_jax.metrics.froc import MOST, RATES, froc_curve
from mmv_jax.metrics.weighted import Weighted


def _at(rates: tuple[float, ...]) -> Weighted:
    """The mean of the curve over some rates, as a metric of lesions and flat candidates."""

    def score(
        lesions: Float[np.ndarray, " N"],
        candidates: Float[np.ndarray, "N C"],
        weights: Float[np.ndarray, "R N"],
    ) -> Float[np.ndarray, " R"]:
        curve = froc_curve(lesions, candidates.reshape(-1, 2, MOST), weights, rates)
        return curve.mean(axis=1)

    return rests_on(_with_lesions)(score)


def _with_lesions(lesions: Float[np.ndarray, " N"]) -> list[Bool[np.ndarray, " N"]]:
    # The sensitivity rests on the patients that have a lesion.
    return [lesions > 0]


class Localisation(Kind):
    """Lesions of a mask, found by the linear probe of patch tokens.

    The truth is a mask, which may be filled boxes: each connected part is a lesion. Candidates are
    the peaks of the probe's map on the study's own voxels. A lesion is found if a peak lies in its
    bounding box. Studies whose mask is empty count for false marks.

    Source: `metrics.froc`.
    """

    metrics: Mapping[str, str | Weighted] = {"froc": _at(RATES), "found_at_1": _at((1,))}
    labels = {
        "froc": "FROC (mean sensitivity)",
        "found_at_1": "sensitivity at 1 false mark a study",
    }
    judged = ("froc",)
    is_mask = True
    locates = True
    shares_axis = True
    end_to_end = False

    def check_split(self, task: Task, split: str) -> None:
        if len(task.structures) > 1:
            raise UserError(
                f"config.tasks.{task.name}: lesions of one kind are located at a time. Make a task"
                " of each of `structures`."
            )
