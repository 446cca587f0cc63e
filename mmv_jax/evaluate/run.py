"""The evaluation: a checkpoint and a store in, `metrics.json`, `comparisons.json` and `report.html`
out. This file alone sees the config.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from mmv_jax.config import to_json
from mmv_jax.data.crops import Geometry
from mmv_jax.errors import UserError
from mmv_jax.evaluate.encoders.base import StudyEncoder
from mmv_jax.evaluate.encoders.features import Features, encode_studies
from mmv_jax.evaluate.encoders.huggingface import HuggingFaceEncoder, load_huggingface
from mmv_jax.evaluate.encoders.imagenet import load_efficientnet_lite0
from mmv_jax.evaluate.encoders.patch_pixels import PatchPixels
from mmv_jax.evaluate.encoders.stand_ins import save_stand_in
from mmv_jax.evaluate.encoders.trained import restore, with_fresh_weights
from mmv_jax.evaluate.fewshot import Point, few_shot, few_shot_masks
from mmv_jax.evaluate.measure import (
    FLOORS,
    STAND_IN,
    Result,
    as_json,
    compare,
    compare_pairs,
    comparisons_as_json,
    group_by_studies,
    measure,
    measure_masks,
    pooled,
)
from mmv_jax.evaluate.pixel_baseline import pixel_vectors, principal, principal_scenes
from mmv_jax.evaluate.report.pictures import choose_shown, feature_maps, outlines
from mmv_jax.evaluate.report.subspaces import subspace_sections
from mmv_jax.evaluate.report.tables import table_of, write_report
from mmv_jax.evaluate.subgroups import (
    as_comparisons,
    as_metrics,
    measure_confounders,
    measure_groups,
)
from mmv_jax.evaluate.tasks.overlap import Overlap
from mmv_jax.evaluate.tasks.scenes import check_structure, local_means, scenes
from mmv_jax.evaluate.tasks.task import KINDS, Task, make_task
from mmv_jax.evaluate.variants import Variants, pairs_of
from mmv_jax.files import write_whole
from mmv_jax.report.page import Strip
from mmv_jax.report.progress import progress
from mmv_jax.store.read import Store

# names of what is measured beside encoders of others
RESERVED = {"trained", *FLOORS, "scratch-vit", "supervised-unet", "supervised-cnn"}
# encoders whose weights come in a package, by the name that a config gives
PACKAGED = {"efficientnet-lite0": load_efficientnet_lite0}


def evaluate(config: ConfigDict, checkpoint: Path | None, workdir: Path) -> str:
    """Measures an encoder on the tasks of a config, beside the same encoder with random weights and
    the pixels themselves.

    Args:
      checkpoint: the workdir of a run, or one of its steps; not read where the config names a
        `cohort`.
      workdir: where the results go, and the features, so that a stopped evaluation goes on.
    Returns:
      The table of all tasks as text, and the path of the report.
    Raises:
      UserError: the config does not fit the store or the checkpoint.
    """
    if checkpoint is None:
        raise UserError(
            "--checkpoint is missing: give the workdir of `mmv pretrain`, or one of its steps"
            " (WORKDIR/checkpoints/1000)."
        )
    store = Store.open(config.data.store)
    geometry = Geometry.of(store.index)
    trained, carried = restore(checkpoint, config.rows.to_dict(), config.view.to_dict())
    random = with_fresh_weights(trained, config.seed)
    overlap = Overlap.of(carried, store.key_fingerprint)
    tasks = [make_task(store.index, name, **group) for name, group in chosen_tasks(config).items()]
    if config.exclude_overlap:
        tasks = [overlap.without(task) for task in tasks]
    variants = Variants.of(config, workdir / "fitted", tasks, geometry, trained)

    vectors, masks = (
        [t for t in tasks if t.kind != "segmentation"],
        [t for t in tasks if t.kind == "segmentation"],
    )
    shown = choose_shown(store.index, tasks)
    everything = np.unique(np.concatenate([task.studies for task in tasks]))
    with_tokens = np.unique(
        np.concatenate(
            [shown, *(task.studies for task in tasks if task.kind == "segmentation" or task.local)]
        )
    )
    few = config.few_shot.to_dict() if "few_shot" in config else None
    results: list[Result] = []
    points: list[Point] = []
    outlined: list[Strip] = []
    maps: dict[str, list[Strip]] = {}
    means: dict[str, np.ndarray] = {}
    others = {
        marked(name, group): load_other(name, group)
        for name, group in config.encoders.to_dict().items()
    }
    encoders: dict[str, StudyEncoder] = {"trained": trained, "random": random, **others}
    for name, encoder in encoders.items():
        features = encode_studies(
            encoder,
            store,
            everything,
            with_tokens,
            workdir / "features",
            progress(f"{name}: encoded"),
        )
        means[name] = features.patch_mean
        for group in group_by_studies(vectors):
            poolings = pooled(features, group[0])
            if group[0].local:
                poolings["patch_local"] = local_means(encoder, store, geometry, group[0], features)
            results += measure(name, poolings, group)
            points += (
                [p for task in group for p in few_shot(name, poolings["both"], task, **few)]
                if few
                else []
            )
        found, curves, strips = measure_segmentations(
            name, encoder, store, geometry, masks, features, variants, few
        )
        results += found
        points += curves
        outlined += strips
        maps[name] = feature_maps(encoder, store, geometry, features, shown)
    results += measure_pixels(
        store, geometry, vectors, masks, PatchPixels(trained.whole), workdir, variants
    )
    results += variants.measure_protocols(trained, others, store, geometry, tasks)
    groups, confounded = measure_groups(results), measure_confounders(results)

    # within a task as measured
    results.sort(key=lambda result: (KINDS.index(result.task.kind), result.task.name))
    comparisons = compare(
        results, "trained", (*FLOORS, *(name for name in others if not name.endswith(STAND_IN)))
    )
    of_variants = compare_pairs(results, pairs_of(results))
    write_json(
        workdir / "metrics.json",
        as_json(
            results,
            [
                *as_metrics(groups, confounded),
                *((p.task, p.encoder, p.key, p.value) for p in points),
            ],
        ),
    )
    write_json(
        workdir / "comparisons.json",
        [*comparisons_as_json([*comparisons, *of_variants]), *as_comparisons(groups, confounded)],
    )
    overlaps = {task.name: overlap.count(task) for task in tasks}
    report = workdir / "report.html"
    subspaces = subspace_sections(means, store.index["modality"].iloc[everything].to_numpy(str))
    write_report(
        report,
        results,
        comparisons,
        overlaps,
        overlap.reason,
        outlined,
        maps,
        to_json(config),
        points,
        groups,
        confounded,
        of_variants,
        subspaces,
    )
    return f"{table_of(results, comparisons)}\n\nreport: {report}"


def chosen_tasks(config: ConfigDict) -> dict[str, dict]:
    """The groups of `config.tasks`, or of those that `config.only` names."""
    groups = config.tasks.to_dict()
    only = tuple(config.get("only", ()))
    if unknown := [name for name in only if name not in groups]:
        raise UserError(
            f"config.only: there is no task {unknown[0]!r}. There are: {', '.join(groups)}."
        )
    return {name: group for name, group in groups.items() if not only or name in only}


def measure_segmentations(
    name: str,
    encoder: StudyEncoder,
    store: Store,
    geometry: Geometry,
    tasks: list[Task],
    features: Features,
    variants: Variants,
    few: dict | None,
) -> tuple[list[Result], list[Point], list[Strip]]:
    """The linear probe of patch tokens in each task and the heads that were asked for, its few-shot
    curve, and outlines (of the trained encoder).
    """
    results, points, strips = [], [], []
    for task in tasks:
        own = scenes(encoder, store, geometry, task, features)
        check_structure(task, own)
        for result, found in [
            measure_masks(name, own, task),
            *variants.measure_heads(name, encoder, store, task, own),
        ]:
            results.append(result)
            strips += (
                [outlines(encoder, store, geometry, task, own, found, result.encoder)]
                if name == "trained"
                else []
            )
        points += few_shot_masks(name, own, task, **few) if few else []
    return results, points, strips


def load_other(name: str, group: dict) -> HuggingFaceEncoder:
    """An encoder of others: a Hugging Face `folder` (made where it is absent and a `family` of
    stand-ins is given), or one of `PACKAGED`.
    """
    if "package" not in group:
        if "family" in group and group["stand_in"] and not Path(group["folder"]).exists():
            save_stand_in(group["family"], Path(group["folder"]))
        return load_huggingface(group["folder"])
    if group["package"] not in PACKAGED:
        raise UserError(
            f"config.encoders.{name}.package is {group['package']!r}. There is"
            f" {', '.join(PACKAGED)}."
        )
    return PACKAGED[group["package"]]()


def marked(name: str, group: dict) -> str:
    """The name of an encoder of others; one without its real weights is named so everywhere, and is
    compared with nothing.

    Raises:
      UserError: the group does not say where the encoder is, or whether it is one; or the name
        would be taken for another result's.
    """
    if "stand_in" not in group or not {"folder", "package"} & set(group):
        raise UserError(
            f"config.encoders.{name} needs `folder` or `package`, and `stand_in`: False where these"
            " are its real weights."
        )
    if name in RESERVED or set(name) & set("/+()"):
        raise UserError(
            f"config.encoders.{name}: this name, or its /, + or brackets, has a meaning in the"
            " results. Call it otherwise: 'rad-dino'."
        )
    return name + STAND_IN if group["stand_in"] else name


def measure_pixels(
    store: Store,
    geometry: Geometry,
    vectors: list[Task],
    masks: list[Task],
    patches: PatchPixels,
    workdir: Path,
    variants: Variants,
) -> list[Result]:
    """The floor of pixels: principal components fitted on train and val of each task, then the same
    probes and heads.
    """
    results: list[Result] = []
    for group in group_by_studies(vectors):
        task = group[0]
        low = pixel_vectors(store, geometry, task.studies, **dict(task.pixels))
        results += measure("pixels", {"": principal(low, task.split != "test")}, group)
    if masks:
        wanted = np.unique(np.concatenate([task.studies for task in masks]))
        features = encode_studies(
            patches, store, wanted, wanted, workdir / "features", progress("pixels: read")
        )
    for task in masks:
        own = principal_scenes(
            scenes(patches, store, geometry, task, features), task.split != "test"
        )
        results.append(measure_masks("pixels", own, task)[0])
        results += [
            result for result, _ in variants.measure_heads("pixels", patches, store, task, own)
        ]
    return results


def write_json(path: Path, value: Any) -> None:
    """Whole or not there."""
    write_whole(path, json.dumps(value, indent=2, allow_nan=False) + "\n")
