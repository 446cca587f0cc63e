"""Gram anchoring beside its own arithmetic in NumPy, and DINOv3's recipe."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmv_jax.errors import UserError
from mmv_jax.models.sizes import make_encoder
from mmv_jax.objectives.dino import distillation
from mmv_jax.objectives.gram import GramTerm, gram_distance
from mmv_jax.objectives.ibot import IbotTerm
from mmv_jax.objectives.recipes import RECIPES, with_recipe
from mmv_jax.objectives.table import make_terms, weights_of
from mmv_jax.objectives.term import Work
from mmv_jax.train.optimizer import make_ema

WIDTH = 6
# Segments of two rows: (tokens that are no patches, patches) of each crop; 0 is padding.
ROWS = ([(1, 5), (1, 3)], [(2, 4)])
LENGTH = 12


@pytest.fixture(scope="module")
def tokens():
    rng = np.random.default_rng(0)
    ids, there = np.zeros((2, LENGTH), np.int32), np.zeros((2, LENGTH), bool)
    for row, crops in enumerate(ROWS):
        at = 0
        for n, (special, patches) in enumerate(crops, start=1):
            ids[row, at : at + special + patches] = n
            there[row, at + special : at + special + patches] = True
            at += special + patches
    student, teacher = rng.normal(size=(2, 2, LENGTH, WIDTH)).astype(np.float32)
    return student, teacher, ids, there


def reference(student, teacher, ids, there):
    """Loss and gradient in float64: ‖U Uᵀ - V Vᵀ‖² / N² of each crop, the mean over crops."""
    losses, grads = [], np.zeros(student.shape)
    for row in range(len(ids)):
        for n in set(ids[row][there[row]]):
            own = there[row] & (ids[row] == n)
            x, y = student[row, own].astype(float), teacher[row, own].astype(float)
            length = np.linalg.norm(x, axis=1, keepdims=True)
            u, v = x / length, y / np.linalg.norm(y, axis=1, keepdims=True)
            apart = u @ u.T - v @ v.T
            losses.append((apart**2).mean())
            of_unit = 4 * apart @ u / apart.size
            # Only what turns a vector changes its unit vector.
            grads[row, own] = (of_unit - (of_unit * u).sum(1, keepdims=True) * u) / length
    return np.mean(losses), grads / len(losses)


def test_loss_and_gradient_are_those_of_the_paper(tokens):
    found, grad = jax.jit(jax.value_and_grad(gram_distance))(*map(jnp.asarray, tokens))
    loss, expected = reference(*tokens)
    np.testing.assert_allclose(found, loss, rtol=1e-5)
    np.testing.assert_allclose(grad, expected, atol=1e-6)
    assert np.abs(expected).max() > 1e-3
    assert not np.asarray(grad)[~tokens[3]].any()  # CLS, registers and padding


def test_it_is_the_released_loss_where_crops_are_equal(tokens):
    torch = pytest.importorskip("torch")
    normalize = torch.nn.functional.normalize
    student, teacher = (torch.tensor(x[:, :4]) for x in tokens[:2])
    student.requires_grad_(True)
    u, v = normalize(student, dim=-1), normalize(teacher, dim=-1)
    loss = torch.nn.functional.mse_loss(u @ u.transpose(1, 2), v @ v.transpose(1, 2))
    loss.backward()
    given = jnp.ones((2, 4), jnp.int32), jnp.ones((2, 4), bool)
    own = (jnp.asarray(x[:, :4]) for x in tokens[:2])
    found, grad = jax.jit(jax.value_and_grad(gram_distance))(*own, *given)
    np.testing.assert_allclose(found, loss.item(), rtol=1e-5)
    np.testing.assert_allclose(grad, student.grad.numpy(), atol=1e-6)


def test_patches_that_turn_together_stay_as_they_are(tokens):
    student, _, ids, there = tokens
    turn, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(WIDTH, WIDTH)))
    turned = 3 * student @ turn.astype(np.float32)  # of another length too
    given = (jnp.asarray(x) for x in (student, turned, ids, there))
    loss, grad = jax.jit(jax.value_and_grad(gram_distance))(*given)
    assert loss < 1e-10 and np.abs(grad).max() < 1e-5
    nothing = jax.jit(jax.value_and_grad(gram_distance))
    loss, grad = nothing(
        jnp.zeros((1, 3, 2)), jnp.ones((1, 3, 2)), jnp.zeros((1, 3), int), jnp.zeros((1, 3), bool)
    )
    assert loss == 0 and not np.asarray(grad).any()


def test_its_teacher_costs_a_forward_pass_and_is_never_adapted():
    encoder = make_encoder("nano", (2, 4, 4))
    work = Work(2, length=16, prefix=12, visible=0, masked=0, segments=3, prefix_squares=50.0)
    parts = GramTerm(encoder).flops(work)
    assert parts["gram teacher"] == encoder.forward_flops(24, 100.0)
    assert parts["gram"].forward == parts["gram"].backward == 2 * 2 * 2 * 144 * 64
    few = GramTerm(encoder.clone(frozen=1))
    assert few.earlier.frozen == 0 and few.held and not few.follows
    assert GramTerm(encoder).stored_bytes(work, False)["gram"] > 5 * 2 * 144


def test_the_recipe_has_the_released_values_and_no_gram_before_its_phase():
    own = with_recipe({"recipe": "dinov3", "gram": 2.0, "dino_local": 0.5})
    assert own == RECIPES["dinov3"] | {"gram": 2.0, "dino_local": 0.5}
    assert list(weights_of(with_recipe({"recipe": "dinov3"}))) == ["dino", "ibot", "koleo"]
    assert list(make_terms(make_encoder("nano", (2, 4, 4)), own)) == [
        "dino",
        "ibot",
        "koleo",
        "gram",
    ]
    with pytest.raises(UserError, match="Did you mean dinov3"):
        with_recipe({"recipe": "dinov4"})


def test_local_views_may_weigh_less():
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(1, 3, 4)), jnp.float32)
    targets = jnp.full((1, 3, 4), 0.25)
    pairs = jnp.asarray([[[False, True, False], [True, False, False], [True, True, False]]])
    weights = jnp.asarray([[1.0, 1.0, 0.5]])
    each = -jax.nn.log_softmax(logits / 0.1).mean(-1)[0]
    expected = (each[0] + each[1] + 0.5 * 2 * each[2]) / 4
    found = jax.jit(distillation)(logits, targets, pairs, weights=weights)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_ibot_may_have_a_smaller_head():
    term = IbotTerm(make_encoder("nano", (2, 4, 4)), prototypes=32, hidden=16, bottleneck=8)
    assert term.sizes == (32, 16, 8)
    small = replace(term, ibot_prototypes=12, ibot_hidden=10, ibot_bottleneck=6)
    assert (small.head.prototypes, small.head.hidden, small.head.bottleneck) == (12, 10, 6)
    assert small.head_flops(1).forward < term.head_flops(1).forward


def test_the_momentum_may_be_constant():
    ema = make_ema(1000, 4, start=0.96, at_rows=4, end=0.96)
    np.testing.assert_allclose([ema(0), ema(500), ema(1000)], 0.96, rtol=1e-6)
    with pytest.raises(UserError, match="config.ema.end is 0.0"):
        make_ema(1000, 4, start=0.96, at_rows=4, end=0.0)
