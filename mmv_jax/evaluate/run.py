"""The evaluation: from a checkpoint and a store to the results and the report.

Writes `metrics.json`, `comparisons.json`, `protocol.json` and the page. Only this file sees the
config.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from mmv_jax.config import to_dict
from mmv_jax.data.crops import Geometry
from mmv_jax.errors import UserError
from mmv_jax.evaluate.choose import Chooser
from mmv_jax.evaluate.encoders.base import StudyEncoder
from mmv_jax.evaluate.encoders.features import Features, encode_studies
from mmv_jax.evaluate.encoders.named import load_encoders, overlap_of
from mmv_jax.evaluate.encoders.patch_pixels import PatchPixels
from mmv_jax.evaluate.encoders.readout import Readout
from mmv_jax.evaluate.encoders.trained import TrainedEncoder, with_fresh_weights
from mmv_jax.evaluate.fewshot import Point, check_few, few_shot, few_shot_masks
from mmv_jax.evaluate.folds import check_folds, pool_folds, split_folds
from mmv_jax.evaluate.kinds.table import KINDS
from mmv_jax.evaluate.measure import (
    FLOORS,
    STAND_IN,
    Result,
    group_by_studies,
    measure,
    measure_masks,
    pooled,
)
from mmv_jax.evaluate.pixel_baseline import pixel_vectors, principal, principal_scenes
from mmv_jax.evaluate.report.about import studies_of
from mmv_jax.evaluate.report.names import Names
from mmv_jax.evaluate.report.pictures import choose_shown, feature_maps, outlines
from mmv_jax.evaluate.report.stated import Asked
from mmv_jax.evaluate.shifts import Shifted, check_shifts, measure_shifts
from mmv_jax.evaluate.tasks.make import make_task
from mmv_jax.evaluate.tasks.odd_scenes import odd_scenes
from mmv_jax.evaluate.tasks.odd_studies import odd_images
from mmv_jax.evaluate.tasks.overlap import Overlap
from mmv_jax.evaluate.tasks.scenes import check_structure, local_means, scenes
from mmv_jax.evaluate.tasks.task import Task
from mmv_jax.evaluate.variants import Variants
from mmv_jax.evaluate.weights import choose_weights, restore_all, told_of
from mmv_jax.evaluate.write import write_results
from mmv_jax.plugins import resolve_plugins
from mmv_jax.provenance import provenance, refuse_others
from mmv_jax.report.about import About
from mmv_jax.report.page import Strip
from mmv_jax.report.progress import progress, say
from mmv_jax.store.read import Store


def evaluate(config: ConfigDict, checkpoint: Path | None, workdir: Path) -> str:
    """Evaluate an encoder on the tasks of a config, against random weights and pixels.

    Args:
      checkpoint: the workdir of a run, or one of its steps.
      workdir: for the results, and for the features, so that a stopped evaluation resumes.
    Returns:
      The table of all tasks as text, and the path of the report.
    Raises:
      UserError: the config does not fit the store or the checkpoint, or the workdir holds the
        results of another checkpoint.
    """
    if checkpoint is None:
        raise UserError(
            "--checkpoint is missing: give the workdir of `mmv pretrain`, or one of its steps"
            " (WORKDIR/checkpoints/1000)."
        )
    resolve_plugins(config)
    # Setup: the tasks with their studies, and the encoders.
    store = Store.open(config.data.store)
    kept, carried = restore_all(config, checkpoint)
    about = About.of(config.get("about") or {})
    others = load_encoders(config)
    overlap = overlap_of(config, carried, store)
    folds = check_folds(config)
    whole = make_tasks(config, store, overlap, folds)
    tasks = whole
    if folds:
        tasks = [part for task in whole for part in split_folds(task, folds, config.seed)]
    # Chosen on val, before any test study is encoded.
    weights = choose_weights(kept, tasks, store, workdir / "features")
    trained = kept[weights]
    # Before results are written: one folder must not mix the results of two checkpoints.
    refuse_others(workdir, trained.origin["digest"], "--workdir")
    evaluation = Evaluation.of(config, workdir, store=store, tasks=tasks, trained=trained)
    evaluation.notices += [*overlap.notices, *(note for task in whole for note in task.notes)]
    evaluation.notices += odd_images(store.index, whole)
    for note in evaluation.notices:
        say(note)
    evaluation.truth = studies_of(store.index, evaluation.studies, about).outline
    # Measure: every encoder in every task, then the pixel floor and the end-to-end fits.
    random = with_fresh_weights(trained, config.seed)
    for name, encoder in {"trained": trained, "random": random, **others}.items():
        evaluation.measure_encoder(name, encoder)
    evaluation.measure_pixels(PatchPixels(trained.whole))
    evaluation.measure_protocols(trained, others)
    evaluation.results = told_of(evaluation.results, weights, kept)
    if folds:
        evaluation.results, evaluation.tasks = pool_folds(
            evaluation.results, whole, folds, config.seed
        )
    store.check_unchanged()
    # Write.
    # A stand-in has random weights, so a comparison with it would mean nothing.
    rivals = (*FLOORS, *(name for name in others if not name.endswith(STAND_IN)))
    record = provenance(
        "mmv evaluate", config=to_dict(config), weights=trained.origin, data=store.provenance()
    )
    asked = Asked(record, about, chosen_tasks(config), folds, notices=evaluation.notices)
    return write_results(evaluation, overlap, rivals, asked)


def make_tasks(config: ConfigDict, store: Store, overlap: Overlap, folds: int = 0) -> list[Task]:
    """The tasks of a config; with `exclude_overlap` without measured patients of pretraining."""
    groups = chosen_tasks(config)
    tasks = [make_task(store.index, name, folds=folds, **group) for name, group in groups.items()]
    return [overlap.without(task) for task in tasks] if config.exclude_overlap else tasks


def chosen_tasks(config: ConfigDict) -> dict[str, dict]:
    """The groups of `config.tasks`, or of those that `config.only` names."""
    groups, only = config.tasks.to_dict(), config.get("only", ())
    if not groups:
        raise UserError("config.tasks is empty. Name a task, such as {'sex': {'kind': ...}}.")
    # One name may stand without brackets.
    only = (only,) if isinstance(only, str) and only else tuple(only)
    if unknown := [name for name in only if name not in groups]:
        raise UserError(
            f"config.only: there is no task {unknown[0]!r}. There are: {', '.join(groups)}."
        )
    return {name: group for name, group in groups.items() if not only or name in only}


@dataclass
class Evaluation:
    """The setting of an evaluation, and its results so far.

    Attributes:
      few: shares and draws of few-shot curves; None for no curves.
      shown: studies whose features are drawn.
      means: by encoder, the mean patch token of each study.
      truth: whose outlines the true ones are, in words.
      notices: that a reader must not miss.
      shifts: of `shifts.SHIFTS`, under which the probes of vectors are tested too.
      chooser: tries the readouts of `config.readout`; None for the usual one.
    """

    store: Store
    geometry: Geometry
    tasks: list[Task]
    workdir: Path
    variants: Variants
    few: dict | None
    shown: np.ndarray
    shifts: tuple[str, ...] = ()
    chooser: Chooser | None = None
    results: list[Result] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)
    shifted: list[Shifted] = field(default_factory=list)
    outlined: list[Strip] = field(default_factory=list)
    maps: dict[str, list[Strip]] = field(default_factory=dict)
    means: dict[str, np.ndarray] = field(default_factory=dict)
    truth: str = "the truth"
    notices: list[str] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        config: ConfigDict,
        workdir: Path,
        *,
        store: Store,
        tasks: list[Task],
        trained: TrainedEncoder,
    ) -> "Evaluation":
        """Read the settings of the config."""
        geometry, readout = Geometry.of(store.index), Readout.of(config)
        return cls(
            store=store,
            geometry=geometry,
            tasks=tasks,
            workdir=workdir,
            variants=Variants.of(
                config, workdir / "fitted", tasks=tasks, geometry=geometry, trained=trained
            ),
            few=check_few(config.few_shot.to_dict()) if "few_shot" in config else None,
            shown=choose_shown(store.index, tasks),
            shifts=check_shifts(config.get("shifts", ())),
            chooser=Chooser(readout, store, geometry, config.seed) if readout else None,
        )

    @property
    def vectors(self) -> list[Task]:
        """The tasks with a number a study."""
        return [task for task in self.tasks if not KINDS[task.kind].is_mask]

    @property
    def masks(self) -> list[Task]:
        """The tasks with a mask a study."""
        return [task for task in self.tasks if KINDS[task.kind].is_mask]

    @property
    def studies(self) -> np.ndarray:
        """All studies of all tasks."""
        return np.unique(np.concatenate([task.studies for task in self.tasks]))

    @property
    def names(self) -> Names:
        """The report's names of tasks and encoders."""
        return Names.of(self.tasks, set(self.store.index["modality"].astype(str)))

    def measure_encoder(self, name: str, encoder: StudyEncoder) -> None:
        """Probes, curves and pictures of one encoder in every task."""
        every = self.chooser is not None and self.chooser.readout.needs_tokens
        local = [task.studies for task in self.vectors if task.local or every]
        # Patch tokens take far more memory than vectors, so they are kept only where they are read.
        with_tokens = [self.shown, *(task.studies for task in self.masks), *local]
        try:
            features = encode_studies(
                encoder,
                self.store,
                studies=self.studies,
                with_tokens=np.unique(np.concatenate(with_tokens)),
                folder=self.workdir / "features",
                report=progress(f"{name}: encoded"),
                deep=self.chooser is not None,
            )
        except UserError as error:  # of many encoders this one
            raise UserError(f"encoder {name}: {error}") from error
        self.means[name] = features.patch_mean
        if features.are_alike:
            told = f"{name} gives every study the same features: its figures are those of a guess."
            self.notices.append(told)
            say(told)
        for group in group_by_studies(self.vectors):
            self._measure_vectors(name, encoder, group, features)
        if self.vectors and self.shifts:
            self.shifted += measure_shifts(
                name,
                encoder,
                self.store,
                features=features,
                tasks=self.vectors,
                shifts=self.shifts,
                folder=self.workdir / "features",
            )
        for task in self.masks:
            self._measure_masks(name, encoder, task, features)
        self.maps[name] = feature_maps(
            encoder, self.store, geometry=self.geometry, features=features, shown=self.shown
        )

    def _measure_vectors(
        self, name: str, encoder: StudyEncoder, tasks: list[Task], features: Features
    ) -> None:
        """The probes of tasks with the same studies, and their few-shot curves."""
        poolings = pooled(features, tasks[0])
        if tasks[0].local:
            poolings["patch_local"] = local_means(
                encoder, self.store, geometry=self.geometry, task=tasks[0], features=features
            )
        # Few-shot curves read CLS and patch mean, unless val chooses another readout.
        read = dict.fromkeys((task.name for task in tasks), poolings["both"])
        if self.chooser:
            del poolings["both"]  # the headline is what val chooses
            found, read = self.chooser.vectors(name, encoder, tasks, features)
            self.results += found
        self.results += measure(name, poolings, tasks)
        if self.few:
            for task in tasks:
                self.points += few_shot(name, read[task.name], task, **self.few)

    def _measure_masks(
        self, name: str, encoder: StudyEncoder, task: Task, features: Features
    ) -> None:
        """The linear probe of patch tokens, the heads, the few-shot curve, and the trained
        encoder's outlines.
        """
        own = scenes(encoder, self.store, geometry=self.geometry, task=task, features=features)
        parts = {key: [s.showing(part) for s in own] for key, part in task.parts().items()}
        # This can be checked only here: masks are read on the grid of the encoder's view.
        for key, part in task.parts().items():
            check_structure(part, parts[key], key if task.structures else "")
        if name == "trained" and task.fold == 0:
            for note in odd_scenes(task, own):
                self.notices.append(note)
                say(note)
        heads = self.variants.measure_heads(name, encoder, store=self.store, task=task, parts=parts)
        linear = (
            self.chooser.masks(name, parts, task, features)
            if self.chooser
            else measure_masks(name, parts, task)
        )
        for result, found in [linear, *heads]:
            self.results.append(result)
            if name == "trained" and task.fold == 0:
                strip = outlines(
                    encoder,
                    self.store,
                    geometry=self.geometry,
                    task=task,
                    scenes=own,
                    found=found,
                    name=self.names.encoder(result.encoder),
                    called=self.names.task(task.name),
                    truth=self.truth,
                )
                self.outlined.append(strip)
        # the curve is of Dice, which says little of where lesions are
        if self.few and not KINDS[task.kind].locates:
            self.points += few_shot_masks(name, parts, task, **self.few)

    def measure_pixels(self, patches: PatchPixels) -> None:
        """The pixel floor: principal components of train and val of each task, with the same probes
        and heads.
        """
        for group in group_by_studies(self.vectors):
            # Studies, split and `pixels` are the same for all tasks of a group.
            task = group[0]
            low = pixel_vectors(self.store, self.geometry, task.studies, **dict(task.pixels))
            whole = principal(low, task.split != "test")
            if self.chooser:
                read = self._read_pixels(patches, task.studies)
                found, chosen = self.chooser.pixels(patches, group, whole=whole, features=read)
                self.results += found
            else:
                chosen = {}
                self.results += measure("pixels", {"": whole}, group)
            # A curve without a floor would not say what the encoder adds at each share.
            for member in group if self.few else ():
                x = chosen.get(member.name, whole)
                self.points += few_shot("pixels", x, member, **(self.few or {}))
        if not self.masks:
            return
        wanted = np.unique(np.concatenate([task.studies for task in self.masks]))
        features = self._read_pixels(patches, wanted)
        for task in self.masks:
            own = scenes(patches, self.store, geometry=self.geometry, task=task, features=features)
            own = principal_scenes(own, task.split != "test")
            parts = {key: [s.showing(part) for s in own] for key, part in task.parts().items()}
            self.results.append(measure_masks("pixels", parts, task)[0])
            heads = self.variants.measure_heads(
                "pixels", patches, store=self.store, task=task, parts=parts
            )
            self.results += [result for result, _ in heads]
            if self.few and not KINDS[task.kind].locates:
                self.points += few_shot_masks("pixels", parts, task, **self.few)

    def _read_pixels(self, patches: PatchPixels, studies: np.ndarray) -> Features:
        return encode_studies(
            patches,
            self.store,
            studies=studies,
            with_tokens=studies,
            folder=self.workdir / "features",
            report=progress("pixels: read"),
        )

    def measure_protocols(
        self, trained: TrainedEncoder, others: Mapping[str, StudyEncoder]
    ) -> None:
        """The end-to-end fits."""
        self.results += self.variants.measure_protocols(
            trained, others, store=self.store, geometry=self.geometry, tasks=self.tasks
        )
