"""The linear probe of patch tokens, planar and volumetric, on tokens that know or do not know their
patch.
"""

from dataclasses import replace

import numpy as np
import pytest

from mmv_jax.errors import UserError
from mmv_jax.evaluate.kinds.mask_scores import THRESHOLDS, Segmented, cut, join, score_mask, sweep
from mmv_jax.evaluate.kinds.segmentation import PatchRidge, probe_masks, sweep_thresholds
from mmv_jax.evaluate.tasks.scenes import Scene, check_structure, tiles, untile
from mmv_jax.evaluate.tasks.task import Task
from mmv_jax.metrics.scores import dice

SHAPES = {"planar": ((1, 3, 4), (1, 12, 16)), "volumetric": ((2, 3, 2), (4, 12, 8))}


def scenes_of(places, shape, informed, n=30, seed=0):
    """A random box in each; an informed token is a random projection of its patch's mask, with
    noise.
    """
    rng = np.random.default_rng(seed)
    projection = rng.normal(size=(np.prod(shape) // np.prod(places), 12))
    out = []
    for _ in range(n):
        truth = np.zeros(shape, bool)
        low = [rng.integers(0, max(s // 2, 1)) for s in shape]
        truth[tuple(slice(a, a + max(s // 2, 1)) for a, s in zip(low, shape))] = True
        kept = rng.uniform(size=places) < 0.9
        kept[0, 0, 0] = True
        tokens = tiles(truth, kept) @ projection if informed else np.zeros((kept.sum(), 12))
        out.append(
            Scene(
                (tokens + 0.05 * rng.normal(size=tokens.shape)).astype(np.float32), kept, truth, 2.0
            )
        )
    return out, np.resize(["train", "train", "val", "test"], n)


@pytest.mark.parametrize("places, shape", SHAPES.values(), ids=SHAPES.keys())
def test_tiles_are_undone_where_patches_were_kept(places, shape):
    grid = np.random.default_rng(0).normal(size=shape)
    kept = np.ones(places, bool)
    np.testing.assert_array_equal(untile(tiles(grid, kept), kept, shape), grid)
    kept[0, 1, 1] = False
    back = untile(tiles(grid, kept), kept, shape)
    sides = [g // t for g, t in zip(shape, places)]
    hole = (slice(0, sides[0]), slice(sides[1], 2 * sides[1]), slice(sides[2], 2 * sides[2]))
    assert (back[hole] == 0).all()
    assert (back != grid).sum() == np.prod(sides)


@pytest.mark.parametrize("places, shape", SHAPES.values(), ids=SHAPES.keys())
def test_informed_tokens_find_the_structure_and_noise_does_not(places, shape):
    informed, noise = (probe_masks(*scenes_of(places, shape, which)) for which in (True, False))
    assert informed.dice.mean() > noise.dice.mean() + 0.1
    assert informed.scores["hd95"].mean() < noise.scores["hd95"].mean()
    assert informed.scores["nsd"].mean() > noise.scores["nsd"].mean()


def test_patches_that_were_not_encoded_count_as_missed():
    scenes, _ = scenes_of(*SHAPES["planar"], True, n=1)
    truth, kept = np.ones((1, 12, 16), bool), np.zeros((1, 3, 4), bool)
    kept[0, :, :2] = True
    scene = Scene(scenes[0].tokens[:6], kept, truth, 1.0)
    found = untile(np.ones((6, 16)), kept, truth.shape)
    assert cut([found], [scene], 0.5, "").dice[0] == pytest.approx(2 / 3)


def test_the_sweep_over_thresholds_is_dice_at_each():
    scenes, _ = scenes_of(*SHAPES["volumetric"], True, n=6)
    model = PatchRidge.of(scenes)
    weights = model.weights(1e-3)
    found = [
        untile(model.features(scene) @ weights, scene.kept, scene.truth.shape) for scene in scenes
    ]
    slow = [
        np.mean([dice(scene.truth, mask > t) for scene, mask in zip(scenes, found)])
        for t in THRESHOLDS
    ]
    np.testing.assert_allclose(sweep_thresholds(model, weights, scenes), slow, atol=1e-12)


def test_a_study_without_the_structure_has_no_score():
    scene = scenes_of(*SHAPES["planar"], True, n=1)[0][0]
    found = score_mask(np.zeros_like(scene.truth), np.ones_like(scene.truth), (1.0, 0.5, 2.0))
    assert np.isnan([found["dice"], found["nsd"], found["hd95"]]).all()
    assert found["false_positive"] == scene.truth.size  # mm², a pixel being 0.5 times 2 mm
    volume = score_mask(np.zeros((2, 3, 4), bool), np.ones((2, 3, 4), bool), (5.0, 2.0, 2.0))
    assert volume["false_positive"] == pytest.approx(0.48)  # mL


def test_a_threshold_that_finds_something_everywhere_loses_to_one_that_does_not():
    """A structure that scores 0.6 in studies that have it; noise of 0.3 in those that do not."""
    values = np.zeros((8, 1, 12, 16))
    values[:, :, 2:6, 2:6] = np.repeat([0.6, 0.3], 4)[:, None, None, None]
    values[:4, :, 6, 2:6] = 0.1
    blank = scenes_of(*SHAPES["planar"], True, n=1)[0][0]
    own = [replace(blank, truth=v > 0.05 if n < 4 else v > 1) for n, v in enumerate(values)]
    with_structure, all_studies = (sweep(values[:k], own[:k]) for k in (4, 8))
    assert THRESHOLDS[with_structure.argmax()] < 0.1  # alone they would also take the faint line
    assert 0.3 <= THRESHOLDS[all_studies.argmax()] < 0.6


def test_several_structures_are_scored_each_and_as_their_mean():
    nan = float("nan")
    one, two = (
        Segmented(
            [np.full((1, 1, 2), n)],
            {
                name: np.array(own)
                for name, own in zip(("dice", "nsd", "hd95", "false_positive"), s)
            },
            "x",
        )
        for n, s in (
            (False, ([0.8, nan, nan], [1.0, nan, nan], [2.0, nan, nan], [nan, 3.0, 1.0])),
            (True, ([0.4, 0.5, nan], [0.5, 0.5, nan], [4.0, 1.0, nan], [nan, nan, 2.0])),
        )
    )
    found = join({"heart": one, "lungs": two})
    np.testing.assert_allclose(found.dice, [0.6, 0.5, nan])
    np.testing.assert_allclose(found.scores["hd95"], [3.0, 1.0, nan])
    np.testing.assert_allclose(found.scores["false_positive"], [nan, 3.0, 3.0])
    np.testing.assert_allclose(found.scores["dice@heart"], [0.8, nan, nan])
    assert found.masks[0].all()


def test_a_structure_that_no_study_of_a_split_has_is_told():
    scenes, split = scenes_of(*SHAPES["planar"], True, n=8)
    task = Task("lungs", "segmentation", np.arange(8), split, split, mask="anatomy_mask")
    check_structure(task, scenes)
    empty = [
        replace(s, truth=np.zeros_like(s.truth)) if where == "val" else s
        for s, where in zip(scenes, split)
    ]
    with pytest.raises(
        UserError,
        match=(
            "config.tasks.lungs: none of the 2 studies of split 'val' has this structure .values"
            " .*in its mask 'anatomy_mask'"
        ),
    ):
        check_structure(task, empty)


def test_moving_the_test_masks_changes_no_choice_and_no_prediction():
    scenes, split = scenes_of(*SHAPES["planar"], True)
    moved = [
        Scene(s.tokens, s.kept, ~s.truth if where == "test" else s.truth, s.spacing_mm)
        for s, where in zip(scenes, split)
    ]
    ours, theirs = probe_masks(scenes, split), probe_masks(moved, split)
    assert ours.choice == theirs.choice
    assert all((a == b).all() for a, b in zip(ours.masks, theirs.masks))
