"""Orbax checkpoints of a run, each sealed by a digest of its files.

A checkpoint has three items: `encoder` (for evaluation), `state` (the rest of a bitwise resume) and
`config`. A model that was fitted for a task has a fourth, `head`: the parameters after the encoder,
which are read without the optimizer's moments.

Orbax does not notice corruption: it restored 119 of 120 flipped bits without an error. Therefore
the sizes and CRC-32C of a step's files are written beside it when it is durable, and compared
before it is used.
"""

import json
import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mmv_jax.buckets import place
from mmv_jax.errors import UserError
from mmv_jax.files import write_whole
from mmv_jax.models.lora import merged
from mmv_jax.orbax_buckets import orbax_path
from mmv_jax.parallel import all_say, first_says
from mmv_jax.plugins import check_plugins
from mmv_jax.provenance import digest_of
from mmv_jax.seals import SEALS, STEPS, digest, find_fault, step_folders
from mmv_jax.unsealed import TREES, fault_without_seal

policies = ocp.checkpoint_managers
SHARED = 2**22  # bytes of a replica's share of an array, at the least


class Checkpoints:
    """The checkpoints of one run: one every `every` steps, of which the newest `keep` are kept.

    Saving does not stop the loop. Use it as a context manager: leaving it waits until the last save
    is durable, and raises its error if it failed.

    Args:
      workdir: the run's folder; steps go to `workdir/checkpoints`, seals to `workdir/seals`.
      config: for evaluation (JSON types): the resolved config, the geometry, the hashed patients.
      every: steps from one checkpoint to the next.
      keep: number of checkpoints to keep.
      held: a step that is kept besides them, for a run that is prolonged from there.
    """

    def __init__(
        self,
        workdir: str | os.PathLike,
        config: Mapping[str, Any],
        every: int,
        keep: int,
        held: int | None = None,
    ):
        self.workdir, self.config, self.every = place(workdir), dict(config), every
        (self.workdir / SEALS).mkdir(parents=True, exist_ok=True)
        self._damaged: set[int] = set()  # steps that were skipped; the run will do them again
        self._saved: set[int] = set()
        self._manager = ocp.CheckpointManager(
            orbax_path(self.workdir / STEPS),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policies.AnyPreservationPolicy(
                    [policies.LatestN(keep), policies.CustomSteps([] if held is None else [held])]
                ),
                async_options=ocp.AsyncOptions(post_finalization_callback=self._seal),
                # Remove the unfinished saves of a killed process.
                cleanup_tmp_directories=True,
            ),
            handler_registry=_handlers(),
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind, error, trace) -> None:
        self.finish()
        self._manager.close()

    def finish(self) -> None:
        """Wait until the last save is durable; raises its error if it failed."""
        self._manager.wait_until_finished()
        self._seal()

    def restore_newest(
        self, state: Mapping[str, Any], *, not_after: int | None = None
    ) -> tuple[int, Mapping[str, Any]]:
        """The newest whole checkpoint as (step, {"encoder": ..., "state": ...}); (0, `state`) where
        there is none.

        A checkpoint that is incomplete or altered is named in a warning and the one before it is
        used. Of several processes the first one lists the steps and chooses; each hashes a share of
        the files.

        Args:
          state: {"encoder": tree, "state": tree} of arrays as they should come back: shapes,
            dtypes, shardings.
          not_after: go back to this step or an earlier one. Later steps are deleted: the run comes
            to them again.
        Raises:
          UserError: there are checkpoints and none of them is whole, or they belong to another
            model.
        """
        self._manager.wait_until_finished()
        # A folder may look different from another machine for a while.
        steps = json.loads(first_says(json.dumps(sorted(self._manager.all_steps(), reverse=True))))
        if not_after is not None:
            for later in (step for step in steps if step > not_after):
                self._drop(later)
            steps = [step for step in steps if step <= not_after]
        for step in steps:
            fault = self._fault(step)
            if fault is None:
                return step, self._restore(step, state)
            if jax.process_index() == 0:
                warnings.warn(
                    f"Checkpoint {step} is not whole ({fault}): going on from the one before it.",
                    stacklevel=2,
                )
            self._damaged.add(step)
        if steps:
            raise UserError(
                f"{self.workdir.name}: none of its {len(steps)} checkpoints is whole. Use another"
                f" workdir, or remove its folder {STEPS}."
            )
        return 0, state

    def _drop(self, step: int) -> None:
        """Deletes a step and its seal."""
        self._manager.delete(step)
        if jax.process_index() == 0:
            (self.workdir / SEALS / f"{step}.json").unlink(missing_ok=True)

    def _fault(self, step: int) -> str | None:
        """The first fault that a process has found in its share of a step's files."""
        mine = find_fault(self.workdir, step, index=jax.process_index(), count=jax.process_count())
        return next(filter(None, all_say(mine or "")), None)

    def config_of(self, step: int) -> dict[str, Any]:
        """The config of a step."""
        return self._manager.restore(step, args=ocp.args.Composite(config=ocp.args.JsonRestore()))[
            "config"
        ]

    def is_due(self, step: int, *, now: bool = False) -> bool:
        """Whether `save_if_due` would save this step."""
        return now or step % self.every == 0

    def save_if_due(self, step: int, state: Mapping[str, Any], *, now: bool = False) -> None:
        """Save {"encoder": tree, "state": tree} as `step`, if it is a multiple of `every` or `now`
        is set.

        It replaces a damaged checkpoint of the same step.
        """
        if not self.is_due(step, now=now):
            return
        if step in self._damaged:
            self._drop(step)
            self._damaged.remove(step)
        # An existing step is never written again; a damaged one was deleted just now.
        if step not in self._manager.all_steps():
            self._saved.add(step)
            trees = {name: ocp.args.StandardSave(tree) for name, tree in state.items()}
            self._manager.save(
                step,
                args=ocp.args.Composite(**trees, config=ocp.args.JsonSave(self.config)),
                # `every` has decided already; Orbax's own rule must not skip the step.
                force=True,
            )

    def _restore(self, step: int, state: Mapping[str, Any]) -> Mapping[str, Any]:
        _check_same_model(self._manager.item_metadata(step), state, step)
        # With this run's shardings: the checkpoint may have been written on other devices.
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), dict(state)
        )
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                **{name: ocp.args.StandardRestore(tree) for name, tree in abstract.items()}
            ),
        )
        return {name: restored[name] for name in state}

    def _seal(self) -> None:
        """Write the digest of every finished step that has none yet.

        Orbax's thread calls it once a step is durable.
        """
        if jax.process_index():
            return
        folders = step_folders(self.workdir)
        # Orbax has deleted the steps beyond `keep`; their seals go too.
        for old in (self.workdir / SEALS).glob("*.json"):
            if int(old.stem) not in folders:
                old.unlink()
        for folder in folders.values():
            seal = self.workdir / SEALS / f"{folder.name}.json"
            # Seal only steps saved by this process: a seal must not make an incomplete copy look
            # whole.
            known = int(folder.name) in self._saved
            if not seal.exists() and (known or fault_without_seal(folder) is None):
                write_whole(seal, json.dumps(digest(folder), indent=1))


def restore_encoder(directory: str | os.PathLike, mesh: Mesh | None = None) -> tuple[dict, dict]:
    """Restore the encoder's parameters and the config of the newest whole checkpoint, on any
    hardware.

    It imports no training code.

    Args:
      directory: a run's workdir, or one of its steps (`workdir/checkpoints/1000`).
      mesh: the parameters are replicated on it; None for the first device.
    Raises:
      UserError: there is no checkpoint, none is whole, or its plug-ins are not loaded or have
        changed.
    """
    restored = restore(directory, ("encoder",), mesh)
    return restored.trees["encoder"], restored.config


class Restored(NamedTuple):
    """Items of a checkpoint.

    Attributes:
      trees: the parameters of each item.
      config: of the checkpoint.
      run: the name of the run's folder.
      step: of the checkpoint that was restored.
    """

    trees: dict[str, dict]
    config: dict[str, Any]
    run: str
    step: int

    def origin(self) -> dict[str, Any]:
        """`checkpoint`, `step` and `digest` of the weights, for a record of provenance."""
        tensors = named_tensors(self.trees["encoder"])
        for item in sorted(self.trees.keys() - {"encoder"}):
            tensors |= {f"{item}.{k}": x for k, x in named_tensors(self.trees[item]).items()}
        return {"checkpoint": self.run, "step": self.step, "digest": digest_of(tensors)}


def named_tensors(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters by their path in the tree, with the names of an export.

    Example:
      >>> list(named_tensors({"norm": {"bias": 0, "scale": 1}}))
      ['norm.bias', 'norm.scale']
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {".".join(_name(key) for key in path): leaf for path, leaf in leaves}


def restore_items(
    directory: str | os.PathLike, names: Sequence[str], mesh: Mesh | None = None
) -> tuple[dict[str, dict], dict]:
    """Restore the named items of the newest whole checkpoint, and its config.

    Arguments as in `restore_encoder`.

    Raises:
      UserError: as `restore_encoder`, or the checkpoint has no such item.
    """
    return restore(directory, names, mesh)[:2]


def restore(
    directory: str | os.PathLike, names: Sequence[str], mesh: Mesh | None = None
) -> Restored:
    """Restore as `restore_items`, with the run and step of the checkpoint.

    Adapters of `config.lora` are summed into their kernels, and the config has none then.
    """
    path = place(directory).resolve()
    is_step = path.parent.name == STEPS and path.name.isdigit()
    workdir, wanted = (path.parent.parent, int(path.name)) if is_step else (path, None)
    folders = step_folders(workdir)
    if not folders or (wanted is not None and wanted not in folders):
        raise UserError(
            f"--checkpoint {directory}: there is no finished checkpoint. Give the workdir of `mmv"
            f" pretrain`, which holds a folder {STEPS}."
        )
    for step in sorted([wanted] if wanted is not None else folders, reverse=True):
        fault = find_fault(workdir, step)
        if fault is None:
            # Whoever does not train reads plain kernels; a resume reads adapters by themselves.
            items = merged(*_restore_items(folders[step], names, mesh))
            return Restored(*items, workdir.name, step)
        warnings.warn(
            f"Checkpoint {step} is not whole ({fault}): trying the one before it.", stacklevel=2
        )
    raise UserError(
        f"--checkpoint {directory}: the checkpoint is not whole, and there is no earlier one."
        " Restore it from a copy."
    )


def _restore_items(
    folder: Path, names: Sequence[str], mesh: Mesh | None
) -> tuple[dict[str, dict], dict]:
    sharding = (
        NamedSharding(mesh, PartitionSpec())
        if mesh
        else jax.sharding.SingleDeviceSharding(jax.devices()[0])
    )
    trees = {}
    with _quiet_orbax(), ocp.Checkpointer(ocp.StandardCheckpointHandler()) as reader:
        for name in names:
            if not (folder / name).exists():
                raise UserError(
                    f"--checkpoint: checkpoint {folder.name} has no {name}: its run trained none."
                    " Give that of a fitted model."
                )
            item = orbax_path(folder / name)
            saved = reader.metadata(item).item_metadata.tree
            abstract = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), saved
            )
            trees[name] = reader.restore(item, args=ocp.args.StandardRestore(abstract))
    with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as config_reader:
        config = config_reader.restore(orbax_path(folder / "config"), args=ocp.args.JsonRestore())
    check_plugins(config)
    return trees, config


@contextmanager
def _quiet_orbax() -> Iterator[None]:
    """Keeps back Orbax's warning that an item has no metadata of its own: the whole step has."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _handlers() -> ocp.handlers.DefaultCheckpointHandlerRegistry:
    # Replicas share the writing of large arrays alone, since each share is cut by a program of its
    # own (a small run on 8 devices compiled 190 of them).
    ocp.type_handlers.register_type_handler(
        jax.Array,
        ocp.type_handlers.ArrayHandler(min_slice_bytes_for_replica_parallel=SHARED),
        override=True,
    )
    registry = ocp.handlers.DefaultCheckpointHandlerRegistry()
    for name in TREES:
        handler = ocp.StandardCheckpointHandler()
        registry.add(name, ocp.args.StandardSave, handler)
        registry.add(name, ocp.args.StandardRestore, handler)
    config = ocp.JsonCheckpointHandler()
    registry.add("config", ocp.args.JsonSave, config)
    registry.add("config", ocp.args.JsonRestore, config)
    return registry


def _check_same_model(saved: Any, state: Mapping[str, Any], step: int) -> None:
    """Refuse a checkpoint of another model.

    Orbax casts another dtype without a message, and its error on a missing key shows only a
    structure.
    """
    for name, tree in state.items():
        have, want = _shapes(saved[name].tree), _shapes(tree)
        if have != want:
            differs = sorted(
                key for key in have.keys() | want.keys() if have.get(key) != want.get(key)
            )
            key = differs[0]
            raise UserError(
                f"Checkpoint {step} belongs to another model or optimizer: {name}.{key} is"
                f" {have.get(key)} there and {want.get(key)} in this config ({len(differs)}"
                " differ). Use the config it was trained with, or another --workdir."
            )


def _shapes(tree: Any) -> dict[str, tuple]:
    # Only the names of keys are compared: a named tuple is restored as a dict.
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        ".".join(_name(key) for key in path): (tuple(leaf.shape), str(leaf.dtype))
        for path, leaf in leaves
    }


def _name(key: Any) -> str:
    # Keys of a path: dicts have `key`, sequences `idx`, dataclasses and named tuples `name`.
    return str(next(getattr(key, field) for field in ("key", "idx", "name") if hasattr(key, field)))
