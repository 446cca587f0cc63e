"""Which weights of a run are read: what it is evaluated by, or others that it kept."""

import os

from mmv_jax.checkpoint import Restored, restore
from mmv_jax.errors import UserError


def restore_weights(directory: str | os.PathLike, which: str) -> Restored:
    """The checkpoint with the weights asked for in the place of its item `encoder`.

    Args:
      directory: a run's workdir, or one of its steps.
      which: "encoder" (what is evaluated unless asked otherwise: the first average, or the
        teacher), "average 2", "teacher" or "student".
    Raises:
      UserError: the run kept no such weights.
    """
    if which == "encoder":
        return restore(directory, ("encoder",))
    # The state holds every copy of the weights, so it is read only where another one is asked for.
    restored = restore(directory, ("encoder", "state"))
    state = restored.trees["state"]
    kept = {
        "teacher": state.get("teacher", {}).get("encoder", restored.trees["encoder"]),
        "student": state.get("student", {}).get("encoder"),
        # Averages are numbered by text from 0; the first one is the item `encoder`.
        "average 2": state.get("averages", {}).get("1"),
    }
    if kept.get(which) is None:
        there = ["encoder", *(name for name, tree in kept.items() if tree is not None)]
        raise UserError(
            f"config.weights has {which!r}, which the checkpoint does not have. It has"
            f" {', '.join(there)} (config.ema.averages of a pretraining keeps averages)."
        )
    return restored._replace(trees={"encoder": kept[which]})
