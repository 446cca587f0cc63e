"""What a workdir says of its run, beside what is asked of it now: the config, the studies, the
patients.
"""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from mmv_jax.checkpoint import step_folders
from mmv_jax.config import to_dict, to_json
from mmv_jax.errors import UserError
from mmv_jax.files import write_whole
from mmv_jax.plugins import check_plugins
from mmv_jax.train.log import METRICS

# Said of a run that has all its steps. Learning rate, momentum and temperature follow from their
# number, so that it cannot be raised afterwards.
DONE = "Another number of steps is another schedule, and another run: give it another --workdir."

CONFIG = "config.json"


def keep_config(config: ConfigDict, workdir: Path, may_change: Collection[str]) -> None:
    """Writes the config into a workdir, where `check_config` lets it.

    Raises:
      UserError: see `check_config`.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    check_config(config, workdir, may_change)
    if jax.process_index() == 0:
        write_whole(workdir / CONFIG, to_json(config))


def check_config(config: ConfigDict, workdir: Path, may_change: Collection[str]) -> None:
    """Refuses a workdir in which a run of another config has begun, so that what differs between
    two runs was meant.

    Args:
      may_change: names of values, such as `data.store`, and of whole groups, that a run and its
        resume may differ in.
    """
    kept = workdir / CONFIG
    # A config without a log or a step is no run yet: it may still be changed.
    has_log = (workdir / METRICS).exists() and (workdir / METRICS).stat().st_size
    if not kept.exists() or not (has_log or step_folders(workdir)):
        return
    begun = json.loads(kept.read_text())
    check_plugins(begun)
    # Both come from JSON, where a tuple is a list, so that equal values compare as equal.
    before, now = flat_config(begun), flat_config(to_dict(config))
    changed = [
        name for name in sorted(before.keys() | now.keys()) if before.get(name) != now.get(name)
    ]
    # A whole group may be named too: it is the first part of a value's name.
    refused = [
        name for name in changed if name not in may_change and name.split(".")[0] not in may_change
    ]
    if refused:
        name = refused[0]
        raise UserError(
            f"--workdir {workdir} holds a run with another config: {name} was"
            f" {before.get(name)!r} and is now {now.get(name)!r} ({len(refused)} differ:"
            f" {', '.join(refused[:5])}). Use another workdir, or set them back."
        )


def check_studies(before: Mapping[str, Any], now: Mapping[str, Any], store: str) -> None:
    """Refuses to go on with other studies: the plan of rows follows from all of them, so the run
    would be neither the old one nor a new one.

    Args:
      before, now: what the checkpoint that is gone on from and the next one carry as `pretraining`.
        An old one has no `studies`, and passes.
    """
    if before.get("studies", now["studies"]) != now["studies"]:
        raise UserError(
            f"config.data.store: the training studies of {store} are no longer those that this run"
            f" began with (it had {len(before['patients'])} patients, there are"
            f" {len(now['patients'])} now; or studies were added, mended or put in another order)."
            " Go on with the store as it was, or start anew in another --workdir."
        )


def unite_patients(now: Mapping[str, Any], before: Mapping[str, Any] | None) -> dict[str, Any]:
    """`now` with the patients of an earlier `pretraining` besides, whose weights are gone on from;
    None where nothing is known of it.
    """
    if before is None:
        return dict(now)
    # Of two keys one patient has two names: a fingerprint that no store has makes evaluation say
    # that it cannot tell.
    keys = sorted({before["key_fingerprint"], now["key_fingerprint"]})
    return {
        **now,
        "key_fingerprint": "+".join(keys),
        "patients": sorted({*before["patients"], *now["patients"]}),
    }


def flat_config(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A config's values by their full names.

    Example:
      >>> flat_config({"rows": {"length": 512}, "seed": 0})
      {'rows.length': 512, 'seed': 0}
    """
    flat: dict = {}
    for name, value in tree.items():
        inside = isinstance(value, dict)
        flat |= flat_config(value, f"{prefix}{name}.") if inside else {prefix + name: value}
    return flat
