"""Choice of the weights of a run: those for evaluation, or others that it kept."""

import os

from mmv_jax.checkpoint import Restored, restore
from mmv_jax.errors import UserError
from mmv_jax.released import read_weights, weights_file


def restore_weights(directory: str | os.PathLike, which: str) -> Restored:
    """Restore a checkpoint, with the chosen weights as its item `encoder`.

    Args:
      directory: a run's workdir, or one of its steps; or weights in a file, or released ones by
        name (`released.weights_file`), which are one copy.
      which: "encoder", "average 2", "teacher" or "student". "encoder" is the first average, or the
        teacher where there is no average.
    Raises:
      UserError: the run kept no such weights.
    """
    if (file := weights_file(directory)) is not None:
        if which != "encoder":
            raise UserError(
                f"config.weights has {which!r}, but {file.name} holds one copy of the weights."
                " Leave config.weights out."
            )
        params, config, record = read_weights(file)
        run, step = record.get("checkpoint") or file.stem, int(record.get("step") or 0)
        return Restored({"encoder": params}, config, run=run, step=step)
    if which == "encoder":
        return restore(directory, ("encoder",))
    # The state holds every copy of the weights, so it is read only if another copy is asked for.
    restored = restore(directory, ("encoder", "state"))
    state = restored.trees["state"]
    kept = {
        "teacher": state.get("teacher", {}).get("encoder", restored.trees["encoder"]),
        "student": state.get("student", {}).get("encoder"),
        # Averages have the keys "0", "1"; the first one is the item `encoder`.
        "average 2": state.get("averages", {}).get("1"),
    }
    if kept.get(which) is None:
        there = ["encoder", *(name for name, tree in kept.items() if tree is not None)]
        raise UserError(
            f"config.weights has {which!r}, which the checkpoint does not have. It has"
            f" {', '.join(there)} (config.ema.averages of a pretraining keeps averages)."
        )
    return restored._replace(trees={"encoder": kept[which]})
