"""Pictures of an evaluation: maps of features, and outlines of segmentations.

Axes: h, w of a picture; n patch tokens.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from mmv_jax.data.augment import BACKGROUND, normalise
from mmv_jax.data.crops import Crops, Geometry
from mmv_jax.data.resample import read_crop
from mmv_jax.evaluate.encoders.base import StudyEncoder
from mmv_jax.evaluate.encoders.features import Features
from mmv_jax.evaluate.kinds.mask_scores import Segmented
from mmv_jax.evaluate.kinds.table import KINDS
from mmv_jax.evaluate.tasks.scenes import Scene
from mmv_jax.evaluate.tasks.task import Task
from mmv_jax.report.figures import colour_map, feature_colours, outlined, picture
from mmv_jax.report.page import Strip
from mmv_jax.store.read import Store

A_KIND = 4  # studies shown of each modality
TRUTH, FOUND = "#00c2a0", "#ff8c1a"  # outlines: the truth, the model


def choose_shown(index: pd.DataFrame, tasks: Sequence[Task]) -> Int[np.ndarray, " S"]:
    """Test studies for the pictures: four of each modality, taken evenly from the index.

    Studies with a mask come first. No result is read.
    """
    test = np.unique(np.concatenate([task.studies[task.split == "test"] for task in tasks]))
    masked = np.unique(
        np.concatenate(
            [
                # `concatenate` refuses an empty list, which is what no segmentation would give.
                np.zeros(0, np.int64),
                *(task.studies for task in tasks if KINDS[task.kind].is_mask),
            ]
        )
    )
    chosen = []
    for modality in sorted(set(index["modality"].iloc[test])):
        own = test[(index["modality"].iloc[test] == modality).to_numpy()]
        own = np.intersect1d(own, masked) if np.isin(own, masked).any() else own
        chosen.append(own[np.linspace(0, len(own) - 1, min(A_KIND, len(own))).astype(int)])
    return np.sort(np.concatenate(chosen))


def feature_maps(
    encoder: StudyEncoder,
    store: Store,
    geometry: Geometry,
    features: Features,
    shown: Int[np.ndarray, " S"],
) -> list[Strip]:
    """Studies of each modality as images and as maps of their patch tokens.

    The first three components of the tokens are red, green and blue.
    """
    strips = []
    modality = store.index["modality"].to_numpy(str)[shown]
    for name in sorted(set(modality)):
        own = shown[modality == name]
        crops, kept = encoder.views(geometry[own])
        images = []
        for n, colours in enumerate(
            feature_colours([features.tokens[study] for study in own.tolist()])
        ):
            tokens, places = crops.tokens[n], kept[n][tuple(slice(t) for t in crops.tokens[n])]
            # Show the layer with the most kept patches.
            layer = int(places.sum(axis=(1, 2)).argmax())
            in_layer = np.argwhere(places)[:, 0] == layer
            grey = view(store, geometry, int(own[n]), crops[n])
            # The voxel slice in the middle of that layer; a planar view has slice 0 alone.
            grey = grey[layer * (len(grey) // tokens[0]) + len(grey) // tokens[0] // 2]
            images += [
                (picture(grey, f"{name} study"), _slice_words(geometry, int(own[n]))),
                (
                    picture(
                        colour_map(colours[in_layer], places[layer], grey.shape), "patch features"
                    ),
                    "patch features",
                ),
            ]
        strips.append(
            Strip(
                images,
                f"{name}: a colour means the same feature in all of these studies.",
                pairs=True,
            )
        )
    return strips


def outlines(
    encoder: StudyEncoder,
    store: Store,
    geometry: Geometry,
    task: Task,
    scenes: list[Scene],
    found: Segmented,
    name: str,
    called: str,
    truth: str,
) -> Strip:
    """Best, middle and worst measured studies of a segmentation by Dice, with true and predicted
    outlines.

    Args:
      name: of the encoder and head.
      called: the task's title.
      truth: whose outline the true one is, in words.
    """
    test = np.flatnonzero(task.split == "test")
    there = np.flatnonzero(~np.isnan(found.dice))
    # The sort is stable, so that equal scores show the same studies each time.
    ranked = there[np.argsort(-found.dice[there], kind="stable")]
    # With fewer than five studies one may be both best and worst: it is shown once.
    picked = dict.fromkeys([*ranked[:2], ranked[len(ranked) // 2], *ranked[-2:]])
    images = []
    for m in picked:
        study, scene = int(task.studies[test[m]]), scenes[test[m]]
        crops, _ = encoder.views(geometry[[study]])
        # The slice is chosen by the truth, so it is the same for every encoder and head.
        layer = int(scene.truth.sum(axis=(1, 2)).argmax())
        grey = view(store, geometry, study, crops[0])[layer]
        masks = [(scene.truth[layer], TRUTH), (found.masks[m][layer], FOUND)]
        images.append((outlined(grey, masks, f"{called} outlined"), f"Dice {found.dice[m]:.2f}"))
    return Strip(
        images,
        f"{called}: best two, middle, worst two of the {task.measured}. Green: {truth}. Orange:"
        f" {name}.",
    )


def view(
    store: Store, geometry: Geometry, study: int, crop: Crops
) -> Float[np.ndarray, "gz gy gx"]:
    """A study as its encoder's view shows it, 0 (dark) to 1."""
    voxels, inside = read_crop(store, geometry, study, crop)
    line = store.index.iloc[study]
    shown = np.where(
        inside, normalise(voxels, line["unit"], line["low"], line["high"]), np.float32(BACKGROUND)
    )
    return ((shown + 1) / 2).clip(0, 1)


def _slice_words(geometry: Geometry, study: int) -> str:
    return "the image" if geometry.planar[study] else "one slice"
