"""Orbax checkpoints of a run, each sealed by a digest of its files.

A checkpoint has three items: `encoder` (for evaluation), `state` (the rest of a bitwise resume) and
`config`. A model that was fitted for a task has a fourth, `head`: the parameters after the encoder,
which are read without the optimizer's moments.

Orbax does not notice corruption: it restored 119 of 120 flipped bits without an error. Therefore
the sizes and CRC-32C of a step's files are written beside it when it is durable, and compared
before it is used.
"""

import json
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import google_crc32c
import jax
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mmv_jax.errors import UserError
from mmv_jax.files import write_whole
from mmv_jax.plugins import check_plugins
from mmv_jax.provenance import digest_of
from mmv_jax.unsealed import TREES, fault_without_seal

STEPS, SEALS = "checkpoints", "seals"  # folders of a workdir
SHARED = 2**22  # the fewest bytes of a replica's share of an array


class Checkpoints:
    """The checkpoints of one run: one every `every` steps, of which the newest `keep` are kept.

    Saving does not stop the loop. Use it as a context manager: leaving it waits until the last save
    is durable, and raises its error if it failed.

    Args:
      workdir: the run's folder; steps go to `workdir/checkpoints`, seals to `workdir/seals`.
      config: for evaluation (JSON types): the resolved config, the geometry, the hashed patients.
      every: steps from one checkpoint to the next.
      keep: number of checkpoints to keep.
    """

    def __init__(
        self, workdir: str | os.PathLike, config: Mapping[str, Any], every: int, keep: int
    ):
        self.workdir, self.config, self.every = epath.Path(workdir), dict(config), every
        (self.workdir / SEALS).mkdir(parents=True, exist_ok=True)
        self._damaged: set[int] = set()  # steps that were skipped; the run will do them again
        self._saved: set[int] = set()
        self._manager = ocp.CheckpointManager(
            self.workdir.resolve() / STEPS,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=ocp.checkpoint_managers.LatestN(keep),
                async_options=ocp.AsyncOptions(post_finalization_callback=self._seal),
                # Remove the unfinished saves of a killed process.
                cleanup_tmp_directories=True,
            ),
            handler_registry=_handlers(),
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind, error, trace) -> None:
        self._manager.wait_until_finished()
        self._seal()
        self._manager.close()

    def restore_newest(self, state: Mapping[str, Any]) -> tuple[int, Mapping[str, Any]]:
        """Restore the newest whole checkpoint: (step, {"encoder": ..., "state": ...}).

        Without checkpoints it is (0, `state`). An incomplete or altered checkpoint is named in a
        warning, and the one before it is used.

        Args:
          state: {"encoder": tree, "state": tree} of arrays with the wanted shapes, dtypes and
            shardings.
        Raises:
          UserError: there are checkpoints and none of them is whole, or they belong to another
            model.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step in steps:
            fault = find_fault(self.workdir, step)
            if fault is None:
                return step, self._restore(step, state)
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

    def config_of(self, step: int) -> dict[str, Any]:
        """The config of a step."""
        return self._manager.restore(step, args=ocp.args.Composite(config=ocp.args.JsonRestore()))[
            "config"
        ]

    def save_if_due(self, step: int, state: Mapping[str, Any], *, now: bool = False) -> None:
        """Save {"encoder": tree, "state": tree} as `step`, if it is a multiple of `every` or `now`
        is set.

        It replaces a damaged checkpoint of the same step.
        """
        if not now and step % self.every:
            return
        if step in self._damaged:
            self._manager.delete(step)
            (self.workdir / SEALS / f"{step}.json").unlink(missing_ok=True)
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
    """Restore as `restore_items`, with the run and step of the checkpoint."""
    path = epath.Path(directory).resolve()  # Orbax finds nothing below a relative path
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
            return Restored(*_restore_items(folders[step], names, mesh), workdir.name, step)
        warnings.warn(
            f"Checkpoint {step} is not whole ({fault}): trying the one before it.", stacklevel=2
        )
    raise UserError(
        f"--checkpoint {directory}: the checkpoint is not whole, and there is no earlier one."
        " Restore it from a copy."
    )


def _restore_items(
    folder: epath.Path, names: Sequence[str], mesh: Mesh | None
) -> tuple[dict[str, dict], dict]:
    sharding = (
        NamedSharding(mesh, PartitionSpec())
        if mesh
        else jax.sharding.SingleDeviceSharding(jax.devices()[0])
    )
    trees = {}
    with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as reader:
        for name in names:
            if not (folder / name).exists():
                raise UserError(
                    f"--checkpoint: checkpoint {folder.name} has no {name}: its run trained none."
                    " Give that of a fitted model."
                )
            saved = reader.metadata(folder / name).item_metadata.tree
            abstract = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), saved
            )
            trees[name] = reader.restore(folder / name, args=ocp.args.StandardRestore(abstract))
    with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as config_reader:
        config = config_reader.restore(folder / "config", args=ocp.args.JsonRestore())
    check_plugins(config)
    return trees, config


def step_folders(workdir: str | os.PathLike) -> dict[int, epath.Path]:
    """The finished steps of a workdir; a step that Orbax has not renamed yet does not count."""
    steps = epath.Path(workdir) / STEPS
    return (
        {int(folder.name): folder for folder in steps.iterdir() if folder.name.isdigit()}
        if steps.is_dir()
        else {}
    )


def find_fault(workdir: str | os.PathLike, step: int) -> str | None:
    """The fault of a step's files, in words; None if they are as they were written.

    A step may have no seal: the process was killed before it wrote one, or the step is a copy. Such
    a step is whole if Orbax's commit mark and every item exist and every array can be read to its
    end.
    """
    folder, seal = (
        epath.Path(workdir) / STEPS / str(step),
        epath.Path(workdir) / SEALS / f"{step}.json",
    )
    if not seal.exists():
        return fault_without_seal(folder)
    try:
        sealed = json.loads(seal.read_text())
    except ValueError:
        return f"{seal.name} cannot be read"
    found = digest(folder)
    for name in sorted(sealed.keys() | found.keys()):
        if name not in found:
            return f"{name} is missing"
        if name not in sealed:
            return f"{name} was added"
        if found[name] != sealed[name]:
            return f"{name} was altered"
    return None


def digest(folder: epath.Path) -> dict[str, list[int]]:
    """[size in bytes, CRC-32C] of each file below a folder."""
    return {
        str(path.relative_to(folder)): _size_and_crc(path) for path in sorted(_files_below(folder))
    }


def _files_below(folder: epath.Path) -> Iterator[epath.Path]:
    for path in folder.iterdir():
        if path.is_dir():
            yield from _files_below(path)
        else:
            yield path


def _size_and_crc(path: epath.Path) -> list[int]:
    size, checksum = 0, google_crc32c.Checksum()
    with path.open("rb") as file:
        # 16 MiB at a time: a step's files need not fit into memory.
        while piece := file.read(1 << 24):
            size += len(piece)
            checksum.update(piece)
    return [size, int.from_bytes(checksum.digest(), "big")]


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
