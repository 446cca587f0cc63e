"""`mmv pretrain --dry-run`: tries once everything that a run needs, and keeps nothing."""

import os
import time
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from mmv_jax.buckets import BucketPath, contact
from mmv_jax.checkpoint import restore_items, step_folders
from mmv_jax.data.pipeline import BEGIN
from mmv_jax.errors import UserError, WorkFailed
from mmv_jax.parallel import make_mesh, on_mesh
from mmv_jax.store.read import Store
from mmv_jax.train.begin import begin, complete
from mmv_jax.train.feed import device_batches
from mmv_jax.train.flops import work_of
from mmv_jax.train.loop import (
    check_counts,
    make_parts,
    make_probe,
    make_rows,
    make_shapes,
    row_shape,
)
from mmv_jax.train.opening import devices_in_words, in_lines, parameters_in_words
from mmv_jax.train.room import peak_of
from mmv_jax.train.shares import check_rows, check_split
from mmv_jax.train.state import init_state
from mmv_jax.train.step import jit_step
from mmv_jax.train.workdir import MAY_CHANGE, check_config, check_studies, with_packing


def dry_run(config: ConfigDict, workdir: Path) -> str:
    """Try devices, workdir, store and labels, then compile a step and run it once.

    Nothing is written: no workdir is made, and the state is thrown away.

    Returns:
      What was found, one line each.
    Raises:
      UserError: a fault for which a run would be refused.
      WorkFailed: the loss of the step is not finite.
    """
    config = with_packing(complete(config), workdir)
    mesh = make_mesh(**config.mesh)
    check_rows(config, mesh)
    check_counts(config)
    check_workdir(workdir)
    check_config(config, workdir, MAY_CHANGE)
    objective, tx, ema = make_parts(config)
    check_split(objective, work_of(objective, row_shape(config), rows=1), mesh)
    shapes = make_shapes(config, (objective, tx, ema), mesh)
    peak = peak_of(config, objective, shapes, shape=row_shape(config), mesh=mesh)
    peak.check()
    store = Store.open(config.data.store)
    rows = make_rows(store, config)
    if step_folders(workdir):
        # No item of the checkpoint is named, so only its config is read, and no array.
        before = restore_items(workdir, ())[1]["pretraining"]
        seen = {"patients": rows.patients, "studies": rows.digest}
        check_studies(before, seen, config.data.store)
    # The probe is made only for its message: it names the labels that it must leave out.
    make_probe(store, config, mesh)
    kept = len(ema.averages)
    state = init_state(objective, tx, rows.spec, mesh, seed=config.seed, averages=kept)
    if not step_folders(workdir):
        state, _ = begin(config, state)
    with on_mesh(mesh):
        # No worker processes: a single batch is not worth their start.
        batch = next(device_batches(rows, mesh, 0, workers=0))
        del batch[BEGIN]
        began = time.perf_counter()
        compiled = (
            jit_step(objective, tx, ema=ema, state=shapes, mesh=mesh).lower(state, batch).compile()
        )
        compile_s, began = time.perf_counter() - began, time.perf_counter()
        _, metrics = compiled(state, batch)
        # JAX returns before the device has finished.
        # Reading the loss waits for it, so that `step_s` is the time of the step.
        loss = float(np.asarray(metrics["loss"]))
        step_s = time.perf_counter() - began
    if not np.isfinite(loss):
        raise WorkFailed("the loss of the first step is not finite. Check the values in the store.")
    lines = {
        "devices": devices_in_words(mesh),
        "parameters": parameters_in_words(shapes, objective.learning),
        "memory": str(peak),
        "store": f"{len(rows.patients)} patients to train on in {config.data.store}",
        "workdir": f"{workdir} can be written to",
        "step": f"compiled in {compile_s:.1f} s, run in {step_s:.2f} s, loss {loss:.4f}",
        "kept": "nothing. To train, leave out --dry-run.",
    }
    return in_lines(lines)


def check_workdir(workdir: Path) -> None:
    """Refuse a workdir that cannot be made or written to.

    Raises:
      UserError: the nearest existing folder is not writable.
      Unreachable: the bucket does not answer.
    """
    if isinstance(workdir, BucketPath):
        contact(str(workdir))
        return
    # The workdir need not exist yet. Then its nearest parent that exists must be writable.
    there = next(folder for folder in (workdir, *workdir.absolute().parents) if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"--workdir {workdir}: nothing can be written to {there}.")
