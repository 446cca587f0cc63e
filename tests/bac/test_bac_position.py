"""Where a patch lies in its breast: the distances, and a fit that is asked for them."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from bac_small import small_config

from mmv_jax.bac.fit import fit
from mmv_jax.bac.infer import Finder
from mmv_jax.bac.model import position_loss
from mmv_jax.bac.position import REACH_MM, distances, of_patches


def test_distances_are_those_to_air_and_to_the_image_s_border():
    breast = np.ones((20, 12), bool)
    breast[:, 9:] = False
    found = distances(breast, (0.1, 0.1))  # a cell has 1.6 mm
    assert found[10, 8, 0] == pytest.approx(1.6 / REACH_MM)
    assert found[10, 4, 0] == pytest.approx(5 * 1.6 / REACH_MM)  # the chest wall is no skin
    assert found[10, 0, 1] == pytest.approx(0.8 / REACH_MM)
    assert found[10, 5, 1] == pytest.approx(5.5 * 1.6 / REACH_MM)
    assert (found[:, 9:, 0] == 0).all()
    assert (distances(np.ones((60, 60), bool), (0.1, 0.1))[..., 0] == 1).all()


def test_patches_have_the_distance_of_the_cell_of_their_middle():
    places = np.stack(np.mgrid[:5, :6], axis=-1).astype(np.float32)
    found = of_patches(places, (16, 40), (4, 4), (8, 8))
    assert found[:, 0, 0].tolist() == [1, 1, 2, 2]
    assert found[0, :, 1].tolist() == [2, 3, 3, 4]
    assert of_patches(places, (64, 80), (4, 4), (8, 8)).max() == 5  # filled up


def test_dropped_patches_do_not_count():
    truth = np.zeros((1, 1, 3, 2), np.float32)
    placed = truth + np.array([1.0, 2.0, 50.0])[None, None, :, None]
    places = np.array([[[0, 1, -1]]])
    found = position_loss(*(jnp.asarray(x) for x in (placed.astype(np.float32), truth, places)))
    assert float(found) == pytest.approx((1 + 4) / 2)


def test_a_fit_learns_it_goes_on_and_measures_without_it(store, tmp_path):
    c = small_config(store)
    c.head.position, c.steps, c.data.mine_at = 1.0, 2, ()
    fit(c, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = [line["position"] for line in lines if "position" in line]
    assert len(losses) == 2 and all(np.isfinite(losses)) and losses[0] > 0
    finder = Finder.restore(tmp_path)
    assert set(finder.params) == {"encoder", "head"}
    values = np.random.default_rng(0).integers(1000, 2000, (80, 60)).astype(np.uint16)
    found, _ = finder.probabilities(values, (0.1, 0.1))
    assert np.isfinite(found).all()
