"""Phases of a run: each goes on from the weights of the one before with other values."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from mmv_jax.commands.keys import PRETRAINING, all_keys
from mmv_jax.config import PREFIX, set_by_word
from mmv_jax.errors import UserError
from mmv_jax.train.begin import complete
from mmv_jax.train.workdir import flat_config


def phases_of(config: ConfigDict, workdir: Path) -> list[tuple[ConfigDict, Path]]:
    """The config and the workdir of each phase, in turn; of a run without phases its own.

    `config.phases` holds the values of each phase that are not the config's, by their full names or
    in groups. Phase n trains in `workdir/phase-n`, and begins from the weights of phase n - 1.

    Raises:
      UserError: a phase is no dict, or has a name or a value that does not fit; or the config's
        encoder does not fit the weights that it begins from.
    """
    listed = config.get("phases") or ()
    if not listed:
        return [(config, workdir)]
    keys, found, before = all_keys(PRETRAINING), [], None
    base = ConfigDict(config.copy_and_resolve_references())
    with base.unlocked():
        del base["phases"]
    # Later phases do not name the folder that the first one begins from, but have its encoder.
    base = complete(base)
    for number, changes in enumerate(_checked(listed), start=1):
        own = ConfigDict(base.copy_and_resolve_references())
        for name, value in flat_config(_plain(changes)).items():
            if name.split(".")[0] == "init":
                raise UserError(
                    f"config.phases, phase {number}: it names {name}, but each phase begins from"
                    " the one before. Set config.init for the first one."
                )
            # Text stands as it is in a word; all else as Python writes it.
            text = value if isinstance(value, str) else repr(value)
            try:
                set_by_word(own, f"{PREFIX}{name}={text}", keys)
            except UserError as error:
                raise UserError(f"config.phases, phase {number}: {error}") from None
        if before is not None:
            with own.unlocked():
                own.init = {"run": str(before)}
        before = workdir / f"phase-{number}"
        found.append((own, before))
    return found


def _checked(listed: Any) -> list[Mapping]:
    if isinstance(listed, list | tuple) and all(
        isinstance(x, Mapping | ConfigDict) for x in listed
    ):
        return list(listed)
    raise UserError(
        f"config.phases is {listed!r}, but is a list of dicts, one a phase, such as"
        ' ({"steps": 4000}, {"steps": 1000, "crops.planar.global_grid": (8, 256, 256)}).'
    )


def _plain(changes: Any) -> dict:
    return changes.to_dict() if isinstance(changes, ConfigDict) else dict(changes)
