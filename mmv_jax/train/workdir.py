"""Checks of a workdir's run against the present request: the config, the studies, the patients."""

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
from mmv_jax.provenance import now, versions
from mmv_jax.train.log_files import has_log
from mmv_jax.train.prolong import may_prolong

# Printed for a run that has done all its steps.
DONE = (
    "To train longer, raise --config.steps if the rate is constant until it falls"
    " (config.optimizer.decay); else begin another run in another --workdir."
)

# Values that a resume may change: where the run works, and how it computes the same numbers.
MAY_CHANGE = {
    "mesh",
    "topology",
    "compile_cache",
    "data.store",
    "data.workers",
    "data.teachers",
    "init.folder",
    "init.run",
    "rows.accumulate",
    "encoder.remat",
    "encoder.attention",
    "checkpoint",
    "health",
    "log",
    "guard",
    "watchdog",
    "profile",
}

CONFIG = "config.json"
UNNAMED = "best_fit"  # the packing of a run whose config names none
VERSIONS = "versions.json"  # a list, since a resume may run on other versions


def keep_config(config: ConfigDict, workdir: Path, may_change: Collection[str]) -> None:
    """Write the config and the versions into a workdir, if `check_config` allows it.

    Raises:
      UserError: see `check_config`.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    check_config(config, workdir, may_change)
    if jax.process_index() == 0:
        write_whole(workdir / CONFIG, to_json(config))
        _keep_versions(workdir / VERSIONS)


def _keep_versions(path: Path) -> None:
    """Adds the date and the versions of this start, where they are not those of the last one."""
    before = json.loads(path.read_text()) if path.exists() else []
    these = versions()
    if not before or before[-1]["versions"] != these:
        started = {"date": now(), "versions": these}
        write_whole(path, json.dumps([*before, started], indent=1) + "\n")


def with_packing(config: ConfigDict, workdir: Path) -> ConfigDict:
    """The config with a `data.packing`: its own, else that of the run in the workdir.

    A new run packs its crops into the fewest rows. One that was begun when best fit was the default
    names none, and keeps its rows.
    """
    if "packing" in config.data:
        return config
    packing, kept = "fewest", workdir / CONFIG
    if has_log(workdir) or step_folders(workdir):
        begun = json.loads(kept.read_text()) if kept.exists() else {"data": {}}
        packing = begun["data"].get("packing", UNNAMED)
    config = ConfigDict(config.copy_and_resolve_references())
    with config.unlocked():
        config.data.packing = packing
    return config


def check_config(config: ConfigDict, workdir: Path, may_change: Collection[str]) -> None:
    """Refuse a workdir that holds a run with another config.

    Args:
      may_change: values and groups in which a run and its resume may differ, by names such as
        `data.store`.
    Raises:
      UserError: any other value differs.
    """
    kept = workdir / CONFIG
    # A config without a log or a step is no run yet: it may still be changed.
    if not kept.exists() or not (has_log(workdir) or step_folders(workdir)):
        return
    begun = json.loads(kept.read_text())
    check_plugins(begun)
    # Both come from JSON, where a tuple is a list, so that equal values compare as equal.
    unnamed = {"data.packing": UNNAMED}
    before, now = unnamed | flat_config(begun), unnamed | flat_config(to_dict(config))
    changed = [
        name for name in sorted(before.keys() | now.keys()) if before.get(name) != now.get(name)
    ]
    may_change = {*may_change, *may_prolong(begun, to_dict(config))}
    # A whole group may be named too: it is the first part of a value's name.
    refused = [
        name for name in changed if name not in may_change and name.split(".")[0] not in may_change
    ]
    if refused:
        name = refused[0]
        # Whoever raises the steps wants to go on: the message must say why that is no longer run.
        longer = (
            " A run can be prolonged only if its learning rate is constant until it falls"
            " (config.optimizer.decay), if no loss follows a teacher (dino, ibot, latent), and if"
            " the warm-up of the longer run is over by then. Any other begins anew, in another"
            " --workdir: its schedules follow from config.steps from the first step on."
        )
        raise UserError(
            f"--workdir {workdir} holds a run with another config: {name} was"
            f" {before.get(name)!r} and is now {now.get(name)!r} ({len(refused)} differ:"
            f" {', '.join(refused[:5])}). Use another workdir, or set them back."
            f"{longer if 'steps' in refused else ''}"
        )


def check_studies(before: Mapping[str, Any], now: Mapping[str, Any], store: str) -> None:
    """Refuse to resume with other studies: the plan of rows depends on all of them.

    Args:
      before, now: the `pretraining` of the checkpoint to resume from, and of the next one. An old
        checkpoint has no `studies`, and passes.
    Raises:
      UserError: the studies differ.
    """
    if before.get("studies", now["studies"]) != now["studies"]:
        raise UserError(
            f"config.data.store: the training studies of {store} are no longer those that this run"
            f" began with. It had {len(before['patients'])} patients and there are"
            f" {len(now['patients'])} now, or studies were added, repaired or reordered. Restore"
            " the store as it was, or start a new run in another --workdir."
        )


def unite_patients(now: Mapping[str, Any], before: Mapping[str, Any] | None) -> dict[str, Any]:
    """`now`, with the patients of an earlier run whose weights this run starts from, and with the
    cards of what that run began from.

    Args:
      before: the `pretraining` of the earlier run; None where nothing is known of it.
    """
    if before is None:
        return dict(now)
    # Under two keys one patient has two names. No store has the joined fingerprint, so evaluation
    # reports that it cannot compare the patients.
    keys = sorted({before["key_fingerprint"], now["key_fingerprint"]})
    return {
        **now,
        "key_fingerprint": "+".join(keys),
        "patients": sorted({*before["patients"], *now["patients"]}),
        **({"init": before["init"]} if "init" in before else {}),
    }


def flat_config(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of a config by their full names.

    Example:
      >>> flat_config({"rows": {"length": 512}, "seed": 0})
      {'rows.length': 512, 'seed': 0}
    """
    flat: dict = {}
    for name, value in tree.items():
        inside = isinstance(value, dict)
        flat |= flat_config(value, f"{prefix}{name}.") if inside else {prefix + name: value}
    return flat
