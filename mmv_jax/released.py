"""Weights of a run, of a file of `mmv export`, or released with the package."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from mmv_jax.buckets import place
from mmv_jax.checkpoint import Restored, restore
from mmv_jax.errors import UserError
from mmv_jax.provenance import METADATA

WEIGHTS = Path(__file__).parent / "weights"
SUFFIX = ".safetensors"


def released_weights() -> list[str]:
    """The names of the released weights in this version."""
    return sorted(path.stem for path in WEIGHTS.glob(f"*{SUFFIX}"))


def weights_file(where: str | os.PathLike) -> Path | None:
    """The file of weights at a path, or of released ones by name; None where there is none.

    A folder of the same name comes first, so that a run is never hidden.
    """
    path = place(where)
    if path.exists():
        return path if path.is_file() else None
    return WEIGHTS / f"{where}{SUFFIX}" if str(where) in released_weights() else None


def read_weights(path: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Parameters, config and provenance of a file of `mmv export --format safetensors`.

    The config has the groups that an encoder needs to read a study, and no patients.

    Raises:
      UserError: the file is another one, or is cut.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    content = path.read_bytes()
    try:
        tensors = load(content)
        # A safetensors file begins with the length of its JSON header, 8 bytes, little end first.
        size = int.from_bytes(content[:8], "little")
        about = json.loads(content[8 : 8 + size]).get("__metadata__", {})
        config, record = json.loads(about["config"]), json.loads(about.get(METADATA, "{}"))
    except (SafetensorError, KeyError, ValueError):
        raise UserError(
            f"{path.name} is no safetensors file of `mmv export --format safetensors` with the"
            " encoder's config in its metadata."
        ) from None
    params: dict = {}
    for name, value in tensors.items():
        # "norm.scale" is the leaf "scale" in the group "norm".
        *groups, leaf = name.split(".")
        node = params
        for group in groups:
            node = node.setdefault(group, {})
        # `mmv export --half` keeps 16 bits; products of them would lose more.
        node[leaf] = value.astype(np.float32) if value.dtype == np.float16 else value
    return params, config, record


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
                f"config.weights or --weights has {which!r}, but {file.name} holds one copy of the"
                " weights. Leave it out."
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
            f"config.weights or --weights has {which!r}, which the checkpoint does not have. It has"
            f" {', '.join(there)} (config.ema.averages of a pretraining keeps averages)."
        )
    return restored._replace(trees={"encoder": kept[which]})
