"""What a kind of task gives, checked: a kind may be a plug-in, and what of it is wrong is said in
one sentence.

Axes: N studies of a task, M of its test, D width, K draws.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from mmv_jax.errors import UserError
from mmv_jax.evaluate.kinds.features import Probed
from mmv_jax.evaluate.kinds.table import KINDS
from mmv_jax.evaluate.tasks.task import Task
from mmv_jax.plugins import naming_plugin


def probe(x: Float[np.ndarray, "N D"], tasks: Sequence[Task]) -> list[Probed]:
    """`Kind.probe` of tasks of one kind.

    Raises:
      UserError: it gives not one `Probed` a task, or not one finite prediction a test study; or
        the code of a plug-in failed.
    """
    name = tasks[0].kind
    with naming_plugin(KINDS[name], f"The kind {name!r} failed in `probe`"):
        found = KINDS[name].probe(x, tasks)
    if len(found) != len(tasks) or not all(isinstance(one, Probed) for one in found):
        raise UserError(
            f"The kind {name!r}: `probe` must give a list of {len(tasks)} `Probed`, one a task."
        )
    for task, one in zip(tasks, found):
        _refuse_predictions(task, "probe", one.predicted, ())
    return found


def fit_draws(
    x: Float[np.ndarray, "N D"], task: Task, drawn: Bool[np.ndarray, "N K"]
) -> Float[np.ndarray, "K M *C"]:
    """`Kind.fit_draws` of a task.

    Raises:
      UserError: it gives not one finite prediction a draw and test study; or the code of a plug-in
        failed.
    """
    with naming_plugin(KINDS[task.kind], f"The kind {task.kind!r} failed in `fit_draws`"):
        predicted = KINDS[task.kind].fit_draws(x, task, drawn)
    _refuse_predictions(task, "fit_draws", predicted, drawn.shape[1:])
    return predicted


def _refuse_predictions(
    task: Task, function: str, predicted: np.ndarray, before: tuple[int, ...]
) -> None:
    """Args: before: axes before that of the test studies."""
    wanted, shape = (*before, int((task.split == "test").sum())), np.shape(predicted)
    if shape[: len(wanted)] != wanted:
        raise UserError(
            f"The kind {task.kind!r}: `{function}` gives predictions of the shape {shape} for the"
            f" task {task.name!r}; {wanted} is wanted, one a test study."
        )
    if bad := int((~np.isfinite(np.asarray(predicted, np.float64))).sum()):
        raise UserError(
            f"The kind {task.kind!r}: `{function}` gives {bad} predictions for the task"
            f" {task.name!r} that are no finite numbers."
        )
