"""The loss of packed rows: finite, with gradients where they belong, and blind to what a study is
packed with.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nano import drawn_weights, nano_config

from mmv_jax.errors import UserError
from mmv_jax.models.kinds import PATCH
from mmv_jax.objectives.dino import pairs_of_views
from mmv_jax.objectives.mae import MaeTerm
from mmv_jax.objectives.targets import Balanced
from mmv_jax.train.loop import make_parts, row_shape
from mmv_jax.train.objective import Objective

SUMS = {
    "reconstruction": {"mae": 1.0},
    "self-distillation": {"dino": 1.0, "ibot": 1.0, "koleo": 0.1},
    "all of them": {"mae": 0.5, "dino": 1.0, "ibot": 1.0, "koleo": 0.1},
}
KEY = jax.random.key(5)


def objective_of(**weights):
    return make_parts(nano_config(**weights))[0]


def jitted(objective):
    """The loss and what is logged; the gradients of student and teacher."""
    return jax.jit(jax.value_and_grad(objective.loss, argnums=(0, 1), has_aux=True))


class Whole(NamedTuple):
    """All objectives together, a student, and a teacher that is another encoder."""

    objective: Objective
    student: dict
    teacher: dict
    run: Callable


def padded(batch):
    """The batch with empty rows, as many as `one_study_a_row` has, so that one program serves."""
    rows = sum(len(set(table[table >= 0].tolist())) for table in batch["study"])
    empty = row_shape(nano_config()).empty(rows - len(batch["study"]))
    return {name: np.concatenate([batch[name], empty[name]]) for name in batch}


@pytest.fixture(scope="module")
def whole(drawn):
    objective = objective_of(**SUMS["all of them"])
    (student, _), (_, teacher) = jax.device_put(drawn)
    return Whole(objective, student, teacher, jitted(objective))


@pytest.mark.parametrize(
    "weights",
    [
        SUMS["all of them"],
        *(pytest.param(SUMS[name], marks=pytest.mark.full) for name in list(SUMS)[:2]),
    ],
    ids=["all of them", *list(SUMS)[:2]],
)
def test_every_parameter_learns_and_the_teacher_does_not(whole, batch, weights):
    _, student, teacher, run = whole
    if weights != SUMS["all of them"]:
        objective = objective_of(**weights)
        run = jitted(objective)
        student, teacher = jax.jit(objective.init)(jax.random.key(0), batch)
    found = run(student, teacher, padded(batch), KEY, np.int32(0))
    (loss, seen), (grads, of_teacher) = jax.device_get(found)
    terms = {name: float(seen[name]) for name in weights}
    np.testing.assert_allclose(
        loss, sum(weights[name] * value for name, value in terms.items()), rtol=1e-6
    )
    assert all(np.isfinite(value) for value in terms.values())
    parts = {"mae": "decoder", "dino": "dino_head", "ibot": "ibot_head"}
    assert set(student) == {"encoder"} | {part for term, part in parts.items() if term in weights}
    for path, grad in jax.tree_util.tree_leaves_with_path(grads):
        assert np.isfinite(grad).all(), path
        assert np.any(grad != 0), path
    assert not any(np.any(grad != 0) for grad in jax.tree.leaves(of_teacher))


class Given(nn.Module):
    """A decoder that says what it is told: voxels of patches of the given shape."""

    voxels: int

    @nn.compact
    def __call__(self, seen, index, coords_mm, kinds, segment_ids):
        return self.param("predicted", nn.initializers.normal(1.0), (*kinds.shape, self.voxels))


class GivenTerm(MaeTerm):
    decoder = Given(256)


def test_a_visible_patch_is_not_reconstructed(batch):
    objective = objective_of(mae=1.0)
    prefix = objective.prefix
    given = dataclasses.replace(objective, terms={"mae": GivenTerm(objective.encoder)})
    shapes = jax.eval_shape(given.init, jax.random.key(0), batch)
    student, teacher = map(drawn_weights, shapes)
    grad_fn = jax.jit(jax.grad(given.loss, has_aux=True))
    grads, _ = grad_fn(student, teacher, batch, KEY, jnp.int32(0))
    asked = np.any(np.asarray(grads["decoder"]["predicted"]) != 0, axis=-1)
    segment_is_global = np.take_along_axis(
        np.pad(batch["is_global"], ((0, 0), (1, 0))), batch["segment_ids"], axis=1
    )
    hidden = ((batch["kinds"] == PATCH) & segment_is_global)[:, :prefix]
    for row, index in zip(hidden, batch["visible_index"]):
        row[index[index >= 0]] = False
    assert 0.5 < hidden.sum() / (batch["kinds"][:, :prefix] == PATCH).sum() < 0.8
    np.testing.assert_array_equal(asked, hidden)


def one_study_a_row(batch):
    """The same crops with the same masked and visible tokens, but every study in a row of its
    own.
    """
    pieces = []
    for b, table in enumerate(batch["study"]):
        for study in np.unique(table[table >= 0]):
            segments = np.flatnonzero(table == study)
            order = np.concatenate(
                [np.flatnonzero(batch["segment_ids"][b] == s + 1) for s in segments]
            )
            row = {
                name: np.full_like(
                    x[b], -1 if name in ("study", "masked_index", "visible_index") else 0
                )
                for name, x in batch.items()
            }
            for name in ("patches", "coords_mm", "kinds"):
                row[name][: len(order)] = batch[name][b, order]
            row["segment_ids"][: len(order)] = (
                np.searchsorted(segments, batch["segment_ids"][b, order] - 1) + 1
            )
            for name in ("study", "is_global", "planar"):
                row[name][: len(segments)] = batch[name][b, segments]
            places = np.full(batch["kinds"].shape[1] + 1, -1)
            places[order] = np.arange(len(order))
            row["cls_index"][: len(segments)] = places[batch["cls_index"][b, segments]]
            for name in ("masked_index", "visible_index"):
                moved = places[batch[name][b]]  # -1 looks up the last place, which is -1
                row[name][: (moved >= 0).sum()] = moved[moved >= 0]
            row["masked"][row["masked_index"][row["masked_index"] >= 0]] = True
            pieces.append(row)
    return {name: np.stack([row[name] for row in pieces]) for name in batch}


def test_the_loss_does_not_depend_on_what_a_study_is_packed_with(whole, batch):
    apart = one_study_a_row(batch)
    assert len(apart["study"]) > len(batch["study"])
    (_, packed), (_, alone) = (
        whole.run(whole.student, whole.teacher, rows, KEY, np.int32(0))[0]
        for rows in (padded(batch), apart)
    )
    for term in ("mae", "dino", "ibot", "koleo", "teacher_entropy", "prototypes_used"):
        np.testing.assert_allclose(packed[term], alone[term], rtol=2e-5, err_msg=term)


def balanced_alone(logits, weights, temperature):
    return Balanced(jax.nn.softmax(logits / temperature), weights, jnp.ones(logits.shape[-1]))


def test_a_study_adds_to_the_loss_whatever_the_others_show(whole, batch, monkeypatch):
    # Sinkhorn-Knopp balances prototypes over all studies, and KoLeo compares them: both are left
    # out.
    monkeypatch.setattr("mmv_jax.objectives.prototypes.sinkhorn_knopp", balanced_alone)
    objective, student, teacher, _ = whole
    terms = {name: term for name, term in objective.terms.items() if name != "koleo"}
    objective = dataclasses.replace(objective, terms=terms)
    first = (batch["segment_ids"] > 0) & np.isin(
        batch["segment_ids"], np.flatnonzero(batch["study"][0] == batch["study"][0, 0]) + 1
    )
    first[1:] = False
    other = (batch["segment_ids"] > 0) & ~first
    loss = jax.jit(objective.loss)

    def with_changed(*where):
        changed = np.logical_or.reduce(where) if where else np.zeros_like(first)
        patches = np.where(changed[..., None], -batch["patches"][:, ::-1], batch["patches"])
        seen = loss(student, teacher, batch | {"patches": patches}, KEY, jnp.int32(0))[1]
        return np.array([seen[name] for name in ("mae", "dino", "ibot")], np.float64)

    neither, one, rest, both = (
        with_changed(),
        with_changed(first),
        with_changed(other),
        with_changed(first, other),
    )
    assert (np.abs(one - neither) > 1e-4).all()
    assert (np.abs(rest - neither) > 1e-4).all()
    np.testing.assert_allclose(both - rest, one - neither, atol=5e-6)


def test_pairs_are_other_global_views_of_the_same_study():
    rng = np.random.default_rng(0)
    study, is_global = rng.integers(-1, 3, (4, 7)), rng.random((4, 7)) < 0.5
    slow = np.zeros((4, 7, 7), bool)
    for b in range(4):
        for learns in range(7):
            for teaches in range(7):
                same = study[b, learns] == study[b, teaches] and study[b, learns] >= 0
                slow[b, learns, teaches] = same and is_global[b, teaches] and learns != teaches
    np.testing.assert_array_equal(pairs_of_views(jnp.asarray(study), jnp.asarray(is_global)), slow)


@pytest.mark.parametrize(
    "change, told",
    [
        ({"kolo": 1.0}, r"config\.objective\.kolo does not exist\. Did you mean koleo"),
        ({"dino": -1.0}, r"config\.objective\.dino is -1\.0"),
        ({"ibot": "much"}, r"config\.objective\.ibot is 'much'"),
        ({"decoder_heads": 16}, r"config\.objective\.decoder_heads is 16.*decoder_heads=2"),
        ({"decoder_width": 11}, r"config\.objective\.decoder_width"),
        (dict.fromkeys(("mae", "dino", "ibot", "koleo"), 0), "no loss term with a weight above 0"),
    ],
    ids=["a name", "below 0", "no number", "too many heads", "too narrow", "nothing"],
)
def test_a_mistake_in_the_config_names_its_key(change, told):
    config = nano_config()
    config.objective = config.objective.to_dict() | change
    with pytest.raises(UserError, match=told):
        make_parts(config)


def test_a_term_that_the_config_leaves_out_has_no_part():
    config = nano_config()
    config.objective = {"mae": 1.0, "decoder_width": 32, "decoder_depth": 1, "decoder_heads": 2}
    assert list(make_parts(config)[0].terms) == ["mae"]


def test_short_visible_segments_give_the_loss_and_gradients_of_blocks(whole, batch):
    """`most_visible` changes how attention is computed, and no number."""
    objective = objective_of(**SUMS["reconstruction"])
    assert objective.most_visible is not None
    student = {name: whole.student[name] for name in ("encoder", "decoder")}
    given = (student, {"encoder": whole.teacher["encoder"]}, batch, KEY, jnp.int32(0))
    ((short, _), ours), ((blocks, _), theirs) = (
        jitted(dataclasses.replace(objective, most_visible=n))(*given)
        for n in (objective.most_visible, None)
    )
    np.testing.assert_allclose(short, blocks, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), ours, theirs)
