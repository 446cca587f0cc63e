"""What can be said of a run before it is submitted: the command, the config against the devices,
the workdir, the store, and what git would leave behind.
"""

import argparse
import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ml_collections import ConfigDict

from mmv_jax.buckets import BucketPath
from mmv_jax.cli import make_parser
from mmv_jax.commands.keys import load_for
from mmv_jax.commands.table import COMMANDS
from mmv_jax.config import PREFIX
from mmv_jax.errors import UserError

MESH = ("data", "fsdp", "tensor", "sequence")  # the axes of a mesh that share out devices
TRAINS = "pretrain"


@dataclass(frozen=True)
class Place:
    """Where a run will be.

    Attributes:
      devices: that JAX will see in all.
      described: them, in words.
      shared: the folder that all hosts see, where the workdir has to lie; None where any may do.
      sends_commit: whether the commit that is checked out here is what runs there.
    """

    devices: int
    described: str
    shared: str | None = None
    sends_commit: bool = False


def check(
    parser: argparse.ArgumentParser, command: Sequence[str], place: Place
) -> ConfigDict | None:
    """Refuses, through `parser`, a run that could not begin; warns of what cannot be seen from
    here.

    Returns:
      The config of the run; None for a command without one.
    """
    try:
        return _checked(command, place)
    except UserError as error:
        parser.error(str(error))


def _checked(command: Sequence[str], place: Place) -> ConfigDict | None:
    if command[0] not in COMMANDS:
        raise UserError(
            f"mmv has no command {command[0]!r}; it has {', '.join(COMMANDS)}. `mmv --help` tells"
            " what they do."
        )
    args, rest = _parsed(command)
    _check_commit(place, getattr(args, "config", None))
    if command[0] != TRAINS:
        return None
    config = load_for(f"mmv {TRAINS}", args.config, rest)
    check_mesh(config, place)
    _check_workdir(config, args.workdir, place)
    _check_store(config)
    return config


def _parsed(command: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The words of a command as `mmv` reads them, and those that change its config."""
    args, rest = make_parser().parse_known_args(list(command))
    unknown = [word for word in rest if not word.startswith(PREFIX)]
    if unknown:
        raise UserError(f"mmv {command[0]} does not know {' '.join(unknown)}.")
    return args, rest


def check_mesh(config: ConfigDict, place: Place) -> None:
    """
    Raises:
      UserError: the mesh has another number of devices than the place, or the rows of a step cannot
        be shared out evenly.
    """
    sizes = {name: int(config.mesh[name]) for name in MESH if name in config.mesh}
    devices, per_step = math.prod(sizes.values()), int(config.rows.per_step)
    if devices != place.devices:
        mesh = " × ".join(f"{name}={size}" for name, size in sizes.items())
        others = devices // max(sizes.get("data", 1), 1)
        fitting = (
            f" Set --config.mesh.data={place.devices // others}."
            if place.devices % others == 0
            else " Set config.mesh to a product of that number."
        )
        raise UserError(
            f"config.mesh is {mesh} = {devices} devices, but {place.described} has"
            f" {place.devices}.{fitting}"
        )
    holders = sizes.get("data", 1) * sizes.get("fsdp", 1)
    if per_step < 1 or per_step % holders:
        nearest = max(1, round(per_step / holders)) * holders
        raise UserError(
            f"config.rows.per_step is {per_step}, but {holders} devices share the rows of a step"
            f" evenly. Set --config.rows.per_step={nearest}."
        )


def _check_workdir(config: ConfigDict, workdir: Path, place: Place) -> None:
    from mmv_jax.train.loop import MAY_CHANGE
    from mmv_jax.train.workdir import check_config

    if isinstance(workdir, BucketPath):
        # All hosts see it, and it outlives them. Asking for it would need the run's credentials.
        warn(f"--workdir {workdir} lies in a bucket: whether a run is in it is not known")
        return
    folder = PurePosixPath(workdir)
    if place.shared and not folder.is_relative_to(place.shared):
        raise UserError(
            f"--workdir {workdir}: only what lies in {place.shared} is seen by all hosts, and"
            f" outlives them. Give --workdir {place.shared}/{folder.name}."
        )
    if place.shared is None and not folder.is_absolute():
        warn(f"--workdir {workdir} is a folder of {Path.cwd()}, which every host has to see")
    if place.shared is None and Path(workdir).is_dir():
        # A run of another config in there would refuse this one, after hours in a queue.
        check_config(config, Path(workdir), MAY_CHANGE)
    elif not Path(workdir).exists():
        warn(f"--workdir {workdir} is not seen from here: whether a run is in it is not known")


def _check_store(config: ConfigDict) -> None:
    store = str(config.data.store)
    if "://" in store or not Path(store).exists():
        what = "lies in a bucket" if "://" in store else "is not seen from here"
        warn(f"config.data.store={store} {what}: its studies and labels are not checked")
        return
    from mmv_jax.store.read import Store

    index = Store.open(store).index
    for modality, label in dict(config.health.get("knn") or {}).items():
        if label not in index.columns:
            raise UserError(
                f"config.health.knn.{modality} is {label!r}, but the store {store} has no such"
                " label. `mmv inspect` lists its columns."
            )


def _check_commit(place: Place, config: str | None) -> None:
    """Changes that are not committed: left behind where a commit is sent, and otherwise not told
    apart from it by anybody who reads the run later.
    """
    changed = uncommitted()
    if changed is None:
        if place.sends_commit:
            raise UserError("this folder is no git checkout, and what runs there is a commit.")
        warn("this folder is no git checkout: which code will run is not known")
        return
    if not changed:
        return
    named = f"{', '.join(changed[:3])}" + (f" and {len(changed) - 3} more" if changed[3:] else "")
    if place.sends_commit:
        raise UserError(
            f"{named}: not committed. What runs there is the commit that is checked out, without"
            " these changes. Commit them, or stash them."
        )
    warn(f"not committed: {named}")


def uncommitted() -> list[str] | None:
    """Files of this checkout that are not as they were committed; None where there is none."""
    words = ["git", "status", "--porcelain", "--untracked-files=normal"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return [line[3:] for line in done.stdout.splitlines()] if done.returncode == 0 else None


def warn(words: str) -> None:
    """A line on what may go wrong; the file is written all the same."""
    print(f"warning: {words}.", file=sys.stderr)
