"""Three heads on frozen tokens: each learns what its tokens tell, planar and volumetric, and none
learns from the test studies.
"""

from dataclasses import replace
from functools import cache

import jax.numpy as jnp
import numpy as np
import pytest

from mmv_jax.evaluate.encoders.base import Encoded
from mmv_jax.evaluate.finetune.learner import learn
from mmv_jax.evaluate.finetune.segmentation_heads import (
    HEAD_RECIPES,
    HeadLearner,
    TokenGrids,
    encoded_of,
    standardised,
)
from mmv_jax.evaluate.kinds.segmentation import agreement, mask_loss
from mmv_jax.evaluate.tasks.scenes import Scene

GRIDS = {"planar": ((1, 4, 4), (1, 4, 4)), "volumetric": ((2, 4, 4), (2, 4, 4))}
# tests/models/test_decoders.py lets every head learn in the suite that is run often
LONG = [("multi-scale", "planar"), ("global-local", "volumetric")]
QUICK = {"epochs": 100, "patience": 100, "batch": 8}  # of 12 studies, two steps an epoch


def fit_head(head, scenes, encoded, split):
    """The masks of a head that was fitted with seed 0."""
    learner = HeadLearner(head, scenes, lambda: encoded, split)
    return learn(learner, replace(HEAD_RECIPES[head], **QUICK), seed=0, tested=True).answer


def boxes(kind, n=24, levels=1):
    """Studies with a box somewhere; a token knows which part of its patch the box takes, and every
    third study lacks a line of tokens.
    """
    rng, (tokens, patch) = np.random.default_rng(0), GRIDS[kind]
    scenes, encoded = [], []
    for i in range(n):
        own = (*tokens[:2], tokens[2] - (i % 3 == 0))
        shape = tuple(t * p for t, p in zip(own, patch))
        truth = np.zeros(shape, bool)
        y, x = rng.integers(0, shape[1] // 2), rng.integers(0, shape[2] // 2)
        truth[:, y : y + shape[1] // 2, x : x + shape[2] // 2] = i % 4 > 0 or i < 4
        cut_up = truth.reshape(own[0], patch[0], own[1], patch[1], own[2], patch[2]).mean(
            axis=(1, 3, 5)
        )
        cells = np.stack([cut_up, 1 - cut_up, *rng.normal(size=(4, *own)) * 0.05], axis=-1).astype(
            np.float32
        )
        kept = np.ones(own, bool)
        scenes.append(Scene(cells[kept], kept, truth, 1.0))
        encoded.append(
            Encoded(
                i,
                cells[kept].mean(axis=0),
                cells[kept],
                np.repeat(cells[kept][None], levels - 1, axis=0),
            )
        )
    return scenes, encoded, np.resize(["train", "train", "val", "test"], n)


@pytest.mark.parametrize(
    "head, kind",
    [
        ("linear", "planar"),
        ("global-local", "planar"),
        *(pytest.param(*long, marks=pytest.mark.full) for long in LONG),
    ],
)
def test_every_head_learns_what_the_tokens_tell(head, kind):
    scenes, _, split = given = boxes(kind, levels=4 if head == "multi-scale" else 1)
    found = fitted(head) if kind == "planar" else fit_head(head, *given)
    test = [scene for scene, s in zip(scenes, split) if s == "test"]
    assert [mask.shape for mask in found.masks] == [scene.truth.shape for scene in test]
    assert np.nanmean(found.dice) > 0.75
    assert "epoch" in found.choice


@cache
def fitted(head):
    """A head that was fitted to planar studies with seed 0."""
    return fit_head(head, *boxes("planar", levels=4 if head == "multi-scale" else 1))


def test_moving_the_test_masks_changes_no_choice_and_no_prediction():
    scenes, encoded, split = boxes("planar")
    moved = [replace(s, truth=~s.truth) if part == "test" else s for s, part in zip(scenes, split)]
    ours, theirs = fitted("linear"), fit_head("linear", moved, encoded, split)
    assert ours.choice == theirs.choice
    assert all((a == b).all() for a, b in zip(ours.masks, theirs.masks))


@pytest.mark.parametrize("head", ["linear", pytest.param("global-local", marks=pytest.mark.full)])
def test_the_same_seed_gives_the_same_masks(head):
    again = fit_head(head, *boxes("planar"))
    assert all((a == b).all() for a, b in zip(fitted(head).masks, again.masks))


def test_tokens_lie_in_their_places_and_what_lies_outside_a_view_is_not_counted():
    scenes, encoded, _ = boxes("planar", n=2)
    grids = TokenGrids.of(scenes, encoded)
    assert grids.levels.shape == (2, 1, 1, 4, 4, 6)
    assert not grids.levels[0, :, :, :, 3].any()  # the first study is a line of tokens narrower
    assert not grids.counted[0, ..., 12:].any()
    assert grids.counted[1].all()
    np.testing.assert_allclose(grids.levels[1, 0].reshape(-1, 6), encoded[1].patches, atol=1e-3)


def test_pixels_have_their_mean_for_cls():
    scenes, _, _ = boxes("planar", n=1)
    found = next(encoded_of(scenes))
    np.testing.assert_allclose(found.cls, scenes[0].tokens.mean(axis=0))
    assert len(found.early) == 0


def test_voxels_that_are_not_counted_do_not_matter():
    logits, truth, counted = (
        jnp.zeros((1, 1, 2, 2)),
        jnp.ones((1, 1, 2, 2)),
        jnp.array([[[[1, 1], [0, 0]]]]),
    )
    other = logits.at[..., 1, :].set(7)
    assert mask_loss(logits, truth * counted, counted) == mask_loss(other, truth * counted, counted)


def test_a_fit_is_stopped_by_the_loss_that_it_minimises():
    scenes, _, _ = boxes("planar", n=3)
    grids = TokenGrids.of(scenes, boxes("planar", n=3)[1])
    logits = np.random.default_rng(0).normal(size=grids.truth.shape).astype(np.float32)
    loss = mask_loss(jnp.asarray(logits), jnp.asarray(grids.truth), jnp.asarray(grids.counted))
    assert agreement(1 / (1 + np.exp(-logits)), scenes) == pytest.approx(-float(loss), abs=1e-5)


def test_features_are_standardised_on_the_studies_that_are_fitted_alone():
    rng = np.random.default_rng(0)

    def make(n, scale):
        cls, patches = rng.normal(size=3), rng.normal(1, 1, (5, 3))
        return Encoded(n, scale * cls, scale * patches, scale * rng.normal(size=(2, 5, 3)))

    encoded = [make(0, 1e-3), make(1, 1e-3), make(2, 100.0)]
    found = standardised(encoded, np.array([True, True, False]))
    for tokens in (
        [e.patches for e in found[:2]],
        [e.early[1] for e in found[:2]],
        [e.cls[None] for e in found[:2]],
    ):
        np.testing.assert_allclose(np.concatenate(tokens).mean(axis=0), 0, atol=1e-6)
        np.testing.assert_allclose(np.concatenate(tokens).std(axis=0), 1, atol=1e-6)
    assert np.abs(found[2].patches).mean() > 1000
    assert [e.study for e in found] == [0, 1, 2]
