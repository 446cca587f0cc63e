import shutil
from functools import partial

import jax
import numpy as np
import pandas as pd
import pytest
from bac_small import share_step, small_config

from mmv_jax.bac.fit import fit, init_state, spans
from mmv_jax.bac.infer import Finder
from mmv_jax.bac.mine import mistakes
from mmv_jax.bac.model import make_model
from mmv_jax.bac.sample import Sampler, _grained
from mmv_jax.bac.view import averaged
from mmv_jax.checkpoint import Checkpoints, restore_items
from mmv_jax.errors import UserError, WorkFailed
from mmv_jax.evaluate.encoders.trained import restore
from mmv_jax.store.ingest import ingest
from mmv_jax.store.read import Store
from mmv_jax.train.log import read_metrics
from mmv_jax.train.optimizer import make_optimizer


@pytest.fixture(scope="module")
def sampler(store):
    _, shape = make_model(small_config(store).to_dict())
    return Sampler(
        Store.open(store), shape, seed=3, splits=("train", "val", "test"), mix=(1.0, 0.0, 0.0, 0.0)
    )


def test_a_step_draws_the_same_tiles_again_and_another_step_others(sampler):
    first, again, other = sampler.batch(5, 2), sampler.batch(5, 2), sampler.batch(6, 2)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["images"], other["images"])


def test_tiles_drawn_around_calcium_hold_some_and_it_is_bright(sampler):
    batches = [sampler.batch(step, 4) for step in range(3)]
    truth, images = (
        np.concatenate([batch[name] for batch in batches]) for name in ("truth", "images")
    )
    assert (truth.sum(axis=(2, 3)) > 0).all()
    assert images[truth > 0].mean() > images[truth == 0].mean() + 0.5


def test_points_that_resemble_calcium_lie_off_the_arteries(sampler):
    for view in sampler._views:
        truth = (
            averaged(
                sampler._store.read_box(
                    view.study, (0, 0, 0), (1, *sampler._grid(view.study)), mask="bac"
                )[0],
                1,
            )
            > 0
        )
        assert not truth[tuple(view.bright.T)].any()


def test_grain_is_drawn_as_a_view_is_normalised_so_that_contrast_falls():
    """Tissue of sd 1 stays so, as the scale grows with the grain; what is bright becomes less."""
    rng = np.random.default_rng(0)
    tissue = rng.standard_normal((400, 400)).astype(np.float32)
    tissue[::20] = 10.0
    seen = np.sinh(_grained(np.arcsinh(tissue), rng))
    off = np.delete(seen, np.s_[::20], axis=0)
    assert off.std() == pytest.approx(1.0, abs=0.05)
    assert 6.3 < seen[::20].mean() < 9.9  # 10 / sqrt(1 + strength**2), strength 0.2 to 1.2
    assert abs(np.corrcoef(off[:, :-1].ravel(), off[:, 1:].ravel())[0, 1]) > 0.02  # not white


def test_a_store_without_truth_is_refused(store):
    _, shape = make_model(small_config(store).to_dict())
    with pytest.raises(UserError, match="bac_mask"):
        Sampler(Store.open(store), shape, seed=0, splits=("nobody",), mix=(1.0, 0.0, 0.0, 0.0))


def test_a_fit_leaves_numbers_and_a_model_that_can_be_restored(fitted):
    steps = read_metrics(fitted)
    assert [line["step"] for line in steps] == [0, 1, 2]
    assert all(np.isfinite(line["loss"]) and line["skipped"] == 0 for line in steps)
    finder = Finder.restore(fitted)
    assert finder.measure.severity_mm2 == (0.0, 10.0, 25.0)
    assert finder.shape.tile == 32


def test_a_fit_that_was_stopped_goes_on_as_if_it_had_not_been(store, fitted, tmp_path, monkeypatch):
    """What comes back is bitwise what an unbroken fit has: the learning rate is that of three steps
    in both.
    """
    shutil.copytree(fitted, tmp_path / "fit")
    shutil.rmtree(tmp_path / "fit/checkpoints/3")
    (tmp_path / "fit/seals/3.json").unlink()
    share_step(monkeypatch)
    fit(small_config(store), tmp_path / "fit")
    ours, theirs = (
        restore_items(where, ("encoder", "head"))[0] for where in (tmp_path / "fit", fitted)
    )
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_a_fit_does_not_go_on_with_other_studies(women, fitted, tmp_path):
    """As many, of women of the same names: the first file has the pixels of the second."""
    shutil.copytree(women, tmp_path / "phantoms")
    table = pd.read_csv(tmp_path / "phantoms/manifest.csv")
    table.loc[0, ["path", "bac_mask"]] = table.loc[1, ["path", "bac_mask"]]
    table.to_csv(tmp_path / "phantoms/manifest.csv", index=False)
    assert ingest([tmp_path / "phantoms/manifest.csv"], tmp_path / "store", engine="here").ok
    shutil.copytree(fitted, tmp_path / "fit")
    with pytest.raises(UserError, match="no longer those that this run began with"):
        fit(small_config(tmp_path / "store"), tmp_path / "fit")


def test_views_of_unknown_spacing_are_learned_from(store):
    """At the size that a large film would have: a step that they are in is finite."""
    _, shape = make_model(small_config(store).to_dict())
    opened = Store.open(store)
    opened.index[["spacing_y", "spacing_x"]] = np.nan
    batch = Sampler(
        opened, shape, seed=3, splits=("train", "val", "test"), mix=(0.0, 0.0, 0.0, 1.0)
    ).batch(0, 2)
    assert np.isfinite(batch["coords_mm"]).all()


def test_a_fit_that_is_not_finite_stops(store, tmp_path, monkeypatch):
    monkeypatch.setattr(
        Sampler,
        "batch",
        lambda self, *_, whole=Sampler.batch: (
            (b := whole(self, *_)) | {"images": b["images"] * np.nan}
        ),
    )
    share_step(monkeypatch)
    config = small_config(store)
    config.data.mine_at = ()  # in one span; three steps are all that are needed
    with pytest.raises(WorkFailed, match="not finite for 3 steps in a row"):
        fit(config, tmp_path)


@pytest.mark.full
def test_the_last_step_of_a_span_counts_among_those_that_are_not_finite(
    store, tmp_path, monkeypatch
):
    """Spans end at step 2 and at step 3: three steps in a row, of which two end a span."""
    batch = Sampler.batch

    def spoilt(self, *step):
        whole = batch(self, *step)
        return whole | {"images": whole["images"] * np.nan}

    monkeypatch.setattr(Sampler, "batch", spoilt)
    with pytest.raises(WorkFailed, match=r"3 steps in a row \(to step 2\)"):
        fit(small_config(store), tmp_path)


@pytest.mark.full
def test_a_fit_that_begins_anew_does_not_take_the_mistakes_of_another(store, tmp_path):
    # of a store of one view: refused where it is read
    np.savez(tmp_path / "mistakes-2.npz", view_0=np.zeros((1, 2), np.int64))
    fit(small_config(store), tmp_path)
    with np.load(tmp_path / "mistakes-2.npz", allow_pickle=False) as file:
        assert len(file.files) == len(Store.open(store).index)


def test_what_is_mistaken_for_artery_lies_off_the_arteries_and_is_drawn_from_then_on(
    store, fitted, tmp_path
):
    model, shape = make_model(small_config(store).to_dict())
    sampler = Sampler(
        Store.open(store), shape, seed=3, splits=("train", "val", "test"), mix=(0.0, 0.0, 1.0, 0.0)
    )
    everything = Finder.restore(fitted)
    bias = everything.params["head"]["logit"]["bias"]
    # takes every pixel of a breast for artery
    everything.params["head"]["logit"]["bias"] = bias + 100.0
    points = mistakes(everything, sampler, tmp_path / "points.npz")
    for view, mistaken in zip(sampler._views, points, strict=True):
        truth = (
            averaged(
                sampler._store.read_box(
                    view.study, (0, 0, 0), (1, *sampler._grid(view.study)), mask="bac"
                )[0],
                1,
            )
            > 0
        )
        assert len(mistaken) and not truth[tuple(mistaken.T)].any()
    here = [np.array([[40, 30]])] * len(sampler)
    before = sampler.batch(0, 2)
    sampler.look_at(here)
    assert not np.array_equal(sampler.batch(0, 2)["images"], before["images"])
    again = mistakes(everything, sampler, tmp_path / "points.npz")
    assert all(np.array_equal(a, b) for a, b in zip(points, again, strict=True))
    np.savez(tmp_path / "other.npz", view_0=points[0])
    with pytest.raises(UserError, match="is of 1 views"):
        mistakes(everything, sampler, tmp_path / "other.npz")


@pytest.mark.parametrize("threshold, mistaken", [(0.3, True), (0.5, False)])
def test_a_pixel_is_mistaken_from_the_threshold_of_measuring_on(
    store, fitted, tmp_path, monkeypatch, threshold, mistaken
):
    """A model that says 0.4 everywhere."""
    _, shape = make_model(small_config(store).to_dict())
    sampler = Sampler(Store.open(store), shape, seed=3, splits=("train",), mix=(0.0, 0.0, 1.0, 0.0))
    view = sampler._views[0].frame.shape
    monkeypatch.setattr(Finder, "probabilities", lambda *_: (np.full(view, 0.4), None))
    finder = Finder.restore(fitted).with_measure(threshold=threshold)
    points = mistakes(finder, sampler, tmp_path / "points.npz")
    assert {len(each) > 0 for each in points} == {mistaken}


def test_a_fit_is_cut_where_mistakes_are_looked_for():
    assert spans(0, 30, (10, 20)) == [(0, 10), (10, 20), (20, 30)]
    assert spans(10, 30, (10, 20)) == [(10, 20), (20, 30)]
    assert spans(30, 30, (10, 20)) == [(30, 30)]


def test_a_fit_goes_on_from_another_with_its_head_or_from_a_pretrained_encoder(
    store, fitted, tmp_path
):
    config = small_config(store)
    model, shape = make_model(config.to_dict())
    tx = make_optimizer(3, 1, **config.optimizer)
    begin = partial(init_state, model, shape, tx, 99)
    fresh, own = begin("")["params"], restore_items(fitted, ("encoder", "head"))[0]
    jax.tree.map(np.testing.assert_array_equal, begin(str(fitted))["params"], own)
    # as `mmv pretrain` leaves one: without a head
    with Checkpoints(
        tmp_path, {"encoder": config.encoder.to_dict()}, every=1, keep=1
    ) as checkpoints:
        checkpoints.save_if_due(
            1, {"encoder": own["encoder"], "state": {"step": np.zeros((), np.int32)}}
        )
    jax.tree.map(
        np.testing.assert_array_equal,
        begin(str(tmp_path))["params"],
        {"encoder": own["encoder"], "head": fresh["head"]},
    )


OTHER = [
    pytest.param(
        *("encoder", "depth", 3, "encoder has depth 1 and not 3. Set config.encoder"),
        marks=pytest.mark.full,
    ),
    # of the same shape, and other positions
    ("encoder", "scale_mm", 16.0, "encoder has scale_mm 6.4 and not 16.0"),
    ("head", "channels", 8, "head is another. Set config.head to that of its run: .'channels': 4"),
]


@pytest.mark.parametrize("group, name, value, message", OTHER)
def test_a_fit_does_not_go_on_from_another_model(store, fitted, group, name, value, message):
    config = small_config(store)
    config[group][name] = value
    model, shape = make_model(config.to_dict())
    with pytest.raises(UserError, match=message):
        init_state(model, shape, make_optimizer(3, 1, **config.optimizer), 99, str(fitted))


@pytest.mark.full
def test_a_fit_names_the_patients_of_the_encoder_that_it_starts_from(store, fitted, tmp_path):
    own = restore_items(fitted, ())[1]["pretraining"]
    config = small_config(store)
    config.update({"init": str(fitted), "steps": 2})
    config.data.splits = ("train",)
    fit(config, tmp_path)
    carried = restore_items(tmp_path, ())[1]["pretraining"]
    assert (carried["patients"], carried["key_fingerprint"]) == (
        own["patients"],
        own["key_fingerprint"],
    )
    assert carried["studies"] != own["studies"]  # fewer
    index = Store.open(store).index
    assert set(index["patient"][index["split"] == "train"]) < set(carried["patients"])


def test_a_fit_of_other_steps_is_another_fit(store, fitted):
    config = small_config(store)
    config.steps = 6
    with pytest.raises(UserError, match="steps was 3 and is now 6"):
        fit(config, fitted)


def test_rules_of_measuring_can_be_changed_for_a_run(fitted):
    assert Finder.restore(fitted, ["--config.measure.of_views=max"]).measure.of_views == "max"
    with pytest.raises(UserError, match="measure"):
        Finder.restore(fitted, ["--config.measure.of_view=max"])
    with pytest.raises(UserError, match="config.steps"):
        Finder.restore(fitted, ["--config.steps=7"])


def test_a_wrong_rule_of_measuring_is_told_before_the_first_step(store, tmp_path):
    config = small_config(store)
    config.measure.threshold = 1.5
    with pytest.raises(UserError, match="threshold is 1.5"):
        fit(config, tmp_path / "fit")
    assert not (tmp_path / "fit").exists()


def test_the_encoder_of_a_fit_is_no_encoder_of_whole_studies(fitted):
    with pytest.raises(UserError, match="fitted to tiles of mammograms"):
        restore(fitted, {"length": 128, "rows": 4}, {"planar": (1, 24, 24)})


def test_the_last_checkpoint_is_a_mean_with_the_weights_that_a_fit_began_with(
    store, fitted, tmp_path, monkeypatch
):
    """The one before is that of any fit, as a resume must not go on from a mean."""
    share_step(monkeypatch)
    config = small_config(store)
    config.init = str(fitted)
    config.checkpoint.keep = 9
    fit(config, tmp_path / "plain")
    config.init_share = 0.25
    fit(config, tmp_path / "mean")
    steps = {name: tmp_path / name / "checkpoints" for name in ("plain", "mean")}
    began, plain, mean = (
        restore_items(where, ("encoder", "head"))[0]
        for where in (fitted, tmp_path / "plain", tmp_path / "mean")
    )
    expected = jax.tree.map(lambda old, new: 0.25 * old + 0.75 * new, began, plain)
    jax.tree.map(np.testing.assert_array_equal, mean, expected)
    assert any(
        not np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (began, plain)), strict=True)
    )
    before = [restore_items(where / "2", ("head",))[0] for where in steps.values()]
    jax.tree.map(np.testing.assert_array_equal, *before)


@pytest.mark.parametrize("share, says", [(0.5, "no fit to mammograms"), (1.0, "must be 0 or")])
def test_a_mean_with_nothing_is_refused(store, tmp_path, share, says):
    config = small_config(store)
    config.init_share = share
    with pytest.raises(UserError, match=says):
        fit(config, tmp_path)
