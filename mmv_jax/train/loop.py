"""The pretraining loop. In this room only this file sees the config; all others take plain
arguments.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeAlias

import flax.linen as nn
import jax
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mmv_jax.buckets import in_words
from mmv_jax.checkpoint import Checkpoints
from mmv_jax.config import to_dict
from mmv_jax.data.augment import Augmentation
from mmv_jax.data.crops import View, crop_views
from mmv_jax.data.pipeline import Rows
from mmv_jax.data.resample import Boxes
from mmv_jax.data.teachers import tell_teachers
from mmv_jax.data.tokens import RowShape, study_options
from mmv_jax.errors import UserError
from mmv_jax.models.lora import Lora
from mmv_jax.models.sizes import make_encoder
from mmv_jax.objectives.table import needs_of
from mmv_jax.objectives.term import CLEAN, MASKED, TARGETS, VISIBLE
from mmv_jax.parallel import make_mesh, on_mesh, row_sharding
from mmv_jax.report.progress import say
from mmv_jax.seals import step_folders
from mmv_jax.store.read import Store
from mmv_jax.train.begin import begin, complete
from mmv_jax.train.feed import device_batches
from mmv_jax.train.flops import most_visible, step_cost, work_of
from mmv_jax.train.full_disk import full_disk_in_words
from mmv_jax.train.goodput import Goodput, lost_seconds
from mmv_jax.train.guard import Guard, GuardOptions
from mmv_jax.train.health import Health, HealthOptions
from mmv_jax.train.learning import Learning, with_learning
from mmv_jax.train.log import Log, Silence
from mmv_jax.train.objective import Objective, make_objective
from mmv_jax.train.opening import opening
from mmv_jax.train.optimizer import (
    Ema,
    make_ema,
    make_learning_rate,
    make_optimizer,
    make_teacher_temperature,
)
from mmv_jax.train.phases import Phases
from mmv_jax.train.probe import Probe
from mmv_jax.train.prolong import goes_on_from, last_constant_step
from mmv_jax.train.room import Peak, peak_of
from mmv_jax.train.running import running
from mmv_jax.train.shares import check_rows, check_split
from mmv_jax.train.speed import Speed, StepCost, rates_of
from mmv_jax.train.state import TrainState, init_state, join_items, shapes_of_state, split_items
from mmv_jax.train.step import jit_step
from mmv_jax.train.traces import ProfileOptions, make_traces
from mmv_jax.train.wandb_board import LogOptions, WandbBoard
from mmv_jax.train.watchdog import Limits, Watchdog, watching
from mmv_jax.train.watched_steps import Steps, Writer
from mmv_jax.train.workdir import (
    DONE,
    MAY_CHANGE,
    check_studies,
    keep_config,
    unite_patients,
    with_packing,
)

Parts: TypeAlias = tuple[Objective, optax.GradientTransformation, Ema]


def pretrain(config: ConfigDict, workdir: Path) -> TrainState:
    """Train to `config.steps`, from the newest whole checkpoint of `workdir` if there is one.

    Raises:
      UserError: the config does not fit the store, the devices or the run in `workdir`, or another
        process is training there.
      WorkFailed: the loss was not finite for several steps in a row; the last checkpoint is good.
      Unreachable: the bucket of the workdir does not answer.
    """
    config = with_packing(complete(config), workdir)
    mesh = _call("mesh", make_mesh, **config.mesh)
    check_rows(config, mesh)
    check_counts(config)
    parts = make_parts(config)
    check_split(parts[0], work_of(parts[0], row_shape(config), rows=1), mesh)
    shapes = make_shapes(config, parts, mesh)
    peak = peak_of(config, parts[0], shapes, shape=row_shape(config), mesh=mesh)
    peak.check()
    phases = Phases()
    limits = _call("watchdog", Limits, **config.get("watchdog", {}))
    with (
        watching(phases, limits) as watchdog,
        full_disk_in_words(workdir),
        in_words(str(workdir)),
        running(workdir) as owner,
    ):
        if owner:
            watchdog.storage, owner.hosts = owner.silence, watchdog.hosts
        keep_config(config, workdir, MAY_CHANGE)
        made: dict = {"parts": parts, "shapes": shapes, "peak": peak}
        return _train(config, workdir, mesh=mesh, watchdog=watchdog, **made)


def _train(
    config: ConfigDict,
    workdir: Path,
    *,
    mesh: Mesh,
    parts: Parts,
    shapes: TrainState,
    peak: Peak,
    watchdog: Watchdog,
) -> TrainState:
    (objective, tx, ema), kept = parts, len(parts[2].averages)
    # Data: the plan of studies, rows and steps is complete before a voxel is read.
    store = Store.open(config.data.store)
    rows = make_rows(store, config)
    # State: made on its own devices, never whole on one of them.
    step_fn = jit_step(objective, tx, ema=ema, state=shapes, mesh=mesh)
    probe = make_probe(store, config, mesh)
    seen = {
        "key_fingerprint": store.key_fingerprint,
        "patients": rows.patients,
        "studies": rows.digest,
        **tell_teachers(rows.teachers),
    }
    profile = _call("profile", ProfileOptions, **config.get("profile", {}))
    carried = to_dict(config)
    saves = {**config.checkpoint, "held": last_constant_step(carried)}
    with Checkpoints(workdir, carried, **saves) as checkpoints:
        with watchdog.phases("restore"):
            first, items = _restore(checkpoints, shapes, workdir, now=carried)
            before = checkpoints.config_of(first)["pretraining"] if first else {}
        if first:
            state = join_items(items)
            check_studies(before, seen, config.data.store)
            seen = unite_patients(seen, before)
            rows = rows.begin_at(tuple(before.get("begin", (0, 0))))
        else:
            state = init_state(objective, tx, rows.spec, mesh, seed=config.seed, averages=kept)
            state, more = begin(config, state)
            seen = unite_patients(seen, more.pop("earlier", None)) | more
        cost = cost_of(config, objective, mesh)
        with _make_log(workdir, config, first) as log:
            about: dict = {"state": shapes, "first": first, "patients": len(rows.patients)}
            about |= {"learning": objective.learning, "peak": peak, "cost": cost}
            log.say(opening(carried, workdir, mesh=mesh, **about))
            if first >= config.steps:
                log.say(f"All {config.steps} steps are done. {DONE}")
                return state
            return Steps(
                total=config.steps,
                mesh=mesh,
                step_fn=step_fn,
                probe=probe,
                batches=lambda rows, first: device_batches(rows, mesh, first, config.data.workers),
                shapes=shapes,
                checkpoints=checkpoints,
                writer=make_writer(config, workdir, log, before=before, cost=cost, dog=watchdog),
                phases=watchdog.phases,
                traces=make_traces(workdir, profile, log.say),
                carried={**carried, "pretraining": seen},
            ).train(state, rows, first)


def _restore(
    checkpoints: Checkpoints, shapes: TrainState, workdir: Path, *, now: Mapping[str, Any]
) -> tuple[int, Mapping[str, Any]]:
    """`Checkpoints.restore_newest`, or for a prolonged run from before its learning rate falls."""
    first, items = checkpoints.restore_newest(split_items(shapes))
    newest = checkpoints.config_of(first) if first else now
    back = goes_on_from(newest, now, step_folders(workdir))
    if back is None:
        return first, items
    return checkpoints.restore_newest(split_items(shapes), not_after=back)


def lower_step(config: ConfigDict, mesh: Mesh) -> jax.stages.Lowered:
    """The step of a config, lowered from shapes alone.

    No store is read and no memory is taken. The mesh may consist of a topology's devices.
    """
    check_rows(config, mesh)
    objective, tx, ema = make_parts(config)
    check_split(objective, work_of(objective, row_shape(config), rows=1), mesh)
    spec = row_shape(config).spec(config.rows.per_step)
    state = make_shapes(config, (objective, tx, ema), mesh)
    batch = {
        name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=row_sharding(mesh))
        for name, x in spec.items()
    }
    with on_mesh(mesh):
        return jit_step(objective, tx, ema=ema, state=state, mesh=mesh).lower(state, batch)


def make_shapes(config: ConfigDict, parts: Parts, mesh: Mesh) -> TrainState:
    """Shapes of a run's state; no store is read for them."""
    objective, tx, ema = parts
    spec, kept = row_shape(config).spec(config.rows.per_step), len(ema.averages)
    return shapes_of_state(objective, tx, spec, mesh, seed=config.seed, averages=kept)


def make_parts(config: ConfigDict) -> Parts:
    """Objective, optimizer and averages of a config; a group is the keyword arguments of a
    function.
    """
    per_step = config.rows.per_step
    encoder, learning = make_learner(config)
    warm = config.get("teacher_temperature", {})
    temperature = _call("teacher_temperature", make_teacher_temperature, config.steps, **warm)
    known = (encoder, temperature, config.rows.prefix, config.rows.get("accumulate", 1))
    objective = _call("objective", make_objective, *known, **config.objective)
    held = frozenset(term.module for term in objective.terms.values() if term.held)
    objective = replace(
        objective,
        learning=replace(learning, held=held),
        most_visible=most_visible(row_shape(config), make_views(config.crops)),
    )
    of_run = {"encoder": encoder, **config.optimizer}
    of_run.pop("last_blocks", None)
    tx = _call("optimizer", make_optimizer, config.steps, per_step, **of_run)
    return objective, tx, _call("ema", make_ema, config.steps, per_step, **config.ema)


def make_learner(config: ConfigDict) -> tuple[nn.Module, Learning]:
    """The encoder of a run, with its adapters, and which parameters learn."""
    encoder = _call("encoder", make_encoder, **config.encoder)
    lora = to_dict(config.get("lora", {}))
    _call("lora", Lora, **lora)
    return with_learning(encoder, lora, config.optimizer.get("last_blocks"))


def _call(group: str, make: Callable, *known: Any, **options: Any) -> Any:
    """The result of `make` on a group of the config.

    Raises:
      UserError: the group has a name that `make` does not know, or lacks one.
    """
    try:
        inspect.signature(make).bind(*known, **options)
    except TypeError as error:
        raise UserError(
            f"config.{group}: {error}. See this group in experiments/demo.py."
        ) from error
    return make(*known, **options)


def row_shape(config: ConfigDict) -> RowShape:
    """The row shape of a config, with what its loss terms need of a row."""
    rows, needs = config.rows, needs_of(config.objective.to_dict())
    return RowShape(
        length=rows.length,
        prefix=rows.prefix,
        segments=rows.segments,
        patch=tuple(config.encoder.patch),
        registers=config.encoder.registers,
        visible_share=rows.visible_share if VISIBLE in needs else None,
        mask_tokens=MASKED in needs,
        visible_tokens=rows.get("visible_tokens"),
        target_widths=tuple(config.objective.get("distil_widths", ())) if TARGETS in needs else (),
        clean=CLEAN in needs,
    )


def make_rows(store: Boxes, config: ConfigDict) -> Rows:
    """Make the training rows of a store."""
    options = {
        name: value
        for name, value in to_dict(config.data).items()
        if name not in ("store", "workers")
    }
    return Rows(
        store,
        views=make_views(config.crops),
        per_step=config.rows.per_step,
        seed=config.seed,
        strength=_call("augment", Augmentation, **config.get("augment", {})),
        **asdict(row_shape(config)),
        **options,
    )


def make_views(crops: ConfigDict) -> dict[int, list[View]]:
    """Make the global and local views of planar (2) and volumetric (3) studies."""
    return {
        ndim: _call(f"crops.{name}", crop_views, **crops[name])
        for ndim, name in ((2, "planar"), (3, "volume"))
    }


def make_probe(
    store: Store, config: ConfigDict, mesh: Mesh
) -> Callable[[int, TrainState], dict[str, float]]:
    """A function from a step and its state to the figures of the kNN probe.

    It returns no figures where the config asks for no probe, or where no probe is due.
    """
    options = _call("health", HealthOptions, **to_dict(config.health))
    labels, every = options.knn, options.knn_every
    if not labels:
        return lambda step, state: {}
    if not every:
        raise UserError(
            "config.health.knn is set, but config.health.knn_every is not. Set it to the number of"
            " steps between two probes, such as 500."
        )
    grids = {2: tuple(config.crops.planar.global_grid), 3: tuple(config.crops.volume.global_grid)}
    probe = Probe(
        store=store,
        encoder=make_learner(config)[0],
        labels=dict(labels),
        length=config.rows.length,
        grids=grids,
        options=study_options(config.data),
    )

    for modality, why in probe.untold().items() if jax.process_index() == 0 else ():
        say(f"The kNN probe leaves {modality} out: {why} (config.health.knn).")

    def figures(step: int, state: TrainState) -> dict[str, float]:
        due = (step + 1) % every == 0 or step + 1 == config.steps
        return probe.figures(state.evaluated, mesh) if due else {}

    return figures


def check_counts(config: ConfigDict) -> None:
    every = {
        "checkpoint.every": config.checkpoint.every,
        "checkpoint.keep": config.checkpoint.keep,
        "health.every": config.health.every,
    }
    for name, count in ({"steps": config.steps} | every).items():
        if not isinstance(count, int) or count < 1:
            raise UserError(f"config.{name} is {count!r}, but must be a whole number from 1 on.")
    _call("log", LogOptions, **config.get("log", {}))


def cost_of(config: ConfigDict, objective: Objective, mesh: Mesh) -> StepCost:
    """What a step of full rows costs."""
    rows, views = config.rows.per_step, make_views(config.crops)
    return step_cost(objective, row_shape(config), rows=rows, views=views, mesh=mesh)


def make_speed(config: ConfigDict, cost: StepCost) -> Speed:
    """Make the measure of a run's speed from its config."""
    of_rate = {name: config.optimizer[name] for name in ("peak_lr", "at_rows", "warmup")}
    of_rate["decay"] = config.optimizer.get("decay")
    schedule = make_learning_rate(config.steps, config.rows.per_step, **of_rate)
    tokens = config.rows.per_step * config.rows.length
    return Speed(rates_of(schedule, config.steps), tokens, cost)


def make_writer(
    config: ConfigDict,
    workdir: Path,
    log: Log | Silence,
    *,
    before: Mapping[str, Any],
    cost: StepCost,
    dog: Watchdog,
) -> Writer:
    """What takes the metrics of each step. `before`: what the checkpoint that is gone on from
    carries as `pretraining`.
    """
    spent = dict(before.get("spent", {}))
    lost = lost_seconds(workdir, before.get("saved_at"))
    guard = _call("guard", GuardOptions, **config.get("guard", {}))
    return Writer(
        log=log,
        speed=make_speed(config, cost),
        health=Health(config.objective.to_dict()),
        goodput=Goodput(
            dog.phases, spent | {"lost": spent.get("lost", 0.0) + lost}, dog.input_seconds
        ),
        guard=Guard(guard, before.get("guard")),
        every=config.health.every,
        last=config.steps - 1,
        slow=dog.name_of,
    )


def _make_log(workdir: Path, config: ConfigDict, first: int) -> Log | Silence:
    if jax.process_index():
        return Silence()
    project = LogOptions(**config.get("log", {})).wandb
    more = [WandbBoard(project, workdir, to_dict(config))] if project else []
    return Log(workdir, first, config.steps, more=more)
