"""Each objective against slow NumPy that follows its paper's formula."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmv_jax.objectives.dino import distillation
from mmv_jax.objectives.ibot import masked_cross_entropy
from mmv_jax.objectives.koleo import koleo, numbers_of_crops
from mmv_jax.objectives.mae import masked_reconstruction
from mmv_jax.objectives.targets import sinkhorn_knopp


@pytest.fixture
def rng():
    return np.random.default_rng(0)


# Jitted, and given arrays of NumPy: each operation outside of a jit is compiled on its own.
reconstruction = jax.jit(masked_reconstruction)
spread = jax.jit(koleo)


@partial(jax.jit, static_argnames="iterations")
def targets_of(logits, weights, temperature=0.04, iterations=3):
    return sinkhorn_knopp(logits, weights, temperature, iterations).targets()


def f32(*arrays):
    return [np.asarray(x, np.float32) for x in arrays]


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def test_masked_reconstruction_is_the_error_of_hidden_normalised_patches(rng):
    predicted, patches = rng.normal(size=(2, 5, 8)), rng.normal(size=(2, 5, 8))
    weights = np.array([[1, 0, 1, 0, 0], [0, 1, 0, 0, 0]], float)
    errors = []
    for b, n in zip(*np.nonzero(weights)):
        target = (patches[b, n] - patches[b, n].mean()) / np.sqrt(patches[b, n].var() + 1e-3)
        errors.append(np.mean((predicted[b, n] - target) ** 2))
    got = reconstruction(*f32(predicted, patches, weights))
    np.testing.assert_allclose(got, np.mean(errors), rtol=1e-5)


def test_a_visible_patch_has_no_gradient(rng):
    given = f32(rng.normal(size=(3, 4)), rng.normal(size=(3, 4)), [1.0, 0.0, 1.0])
    grad = jax.jit(jax.grad(masked_reconstruction))(*given)
    assert (np.abs(grad).sum(axis=1) > 0).tolist() == [True, False, True]


def test_sinkhorn_equals_alternating_normalisation(rng):
    logits = rng.normal(size=(12, 5))
    q = np.exp(logits / 0.1)
    for _ in range(3):
        q *= 12 / 5 / q.sum(axis=0, keepdims=True)
        q /= q.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(targets_of(*f32(logits, np.ones(12)), 0.1), q, rtol=1e-4)


def test_sinkhorn_uses_prototypes_evenly_and_ignores_padding(rng):
    # one prototype is everybody's first choice
    logits = rng.normal(size=(40, 5)) + np.array([5, 0, 0, 0, 0])
    weights = np.r_[np.ones(30), np.zeros(10)]
    q = np.asarray(targets_of(*f32(logits, weights), 0.5, iterations=50))
    assert np.all(q[30:] == 0)
    np.testing.assert_allclose(q[:30].sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(q.sum(axis=0), 6, rtol=1e-2)
    alone = targets_of(*f32(logits[:30], np.ones(30)), 0.5, iterations=50)
    np.testing.assert_allclose(q[:30], alone, rtol=1e-5)


def test_sinkhorn_of_padding_alone_is_zero():
    assert np.all(np.asarray(targets_of(*f32(np.ones((4, 3)), np.zeros(4)))) == 0)


@pytest.mark.parametrize("temperature", [0.04, 0.07])
@pytest.mark.parametrize("spread", [0.02, 0.3], ids=["collapsed", "wide"])
def test_sinkhorn_of_cosines_at_the_teachers_temperatures(rng, temperature, spread):
    cosines = np.clip(rng.normal(0.5, spread, size=(40, 64)), -1, 1)
    # a prototype that everybody likes best, one that nobody does
    cosines[:, 0], cosines[:, 1] = 1, -1
    q = np.exp(cosines / temperature)
    for _ in range(3):
        q *= 40 / 64 / q.sum(axis=0, keepdims=True)
        q /= q.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(
        targets_of(*f32(cosines, np.ones(40)), temperature),
        q,
        rtol=1e-3,
        atol=1e-7,
    )


@pytest.mark.parametrize("cosine", [-1.0, 1.0])
def test_sinkhorn_of_the_least_and_the_largest_cosines_is_even(cosine):
    q = targets_of(*f32(np.full((2, 3, 5), cosine), np.ones((2, 3))))
    np.testing.assert_allclose(q, 0.2, rtol=1e-5)


def test_distillation_is_the_mean_cross_entropy_over_pairs(rng):
    student, targets = rng.normal(size=(2, 4, 6)), softmax(rng.normal(size=(2, 3, 6)))
    pairs = rng.random((2, 4, 3)) < 0.5
    log_p = np.log(softmax(student / 0.1))
    terms = [-(targets[b, t] * log_p[b, s]).sum() for b, s, t in zip(*np.nonzero(pairs))]
    got = jax.jit(distillation)(*f32(student, targets), pairs)
    np.testing.assert_allclose(got, np.mean(terms), rtol=1e-5)


@pytest.mark.parametrize(
    "at_once", [64, 5, 2, 3], ids=["whole", "whole exactly", "parts that overlap", "even parts"]
)
def test_masked_cross_entropy_whatever_goes_through_at_once(rng, at_once):
    masked = 6 if at_once == 3 else 5
    tokens, prototypes, teacher = (
        rng.normal(size=(2, masked, 4)),
        rng.normal(size=(7, 4)),
        rng.normal(size=(2, masked, 7)),
    )
    there = np.ones((2, masked))
    there[1, 3:] = 0
    tokens, prototypes, teacher, there = f32(tokens, prototypes, teacher, there)

    def loss(tokens, prototypes, teacher):
        targets = sinkhorn_knopp(teacher, jnp.asarray(there), 0.5)
        found = masked_cross_entropy(lambda x: x @ prototypes.T, tokens, targets, 0.2, at_once)
        return (found * there).sum(), found

    run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    (value, found), grads = run(tokens, prototypes, teacher)
    targets, p = np.asarray(targets_of(teacher, there, 0.5)), softmax(tokens @ prototypes.T / 0.2)
    cross = -(targets * np.log(p)).sum(-1)
    # Of the cross-entropy of a row of logits; its targets add up to 1.
    slope = (p * targets.sum(-1, keepdims=True) - targets) / 0.2
    by_hand = slope @ prototypes, np.einsum("bmk,bmd->kd", slope, tokens)
    np.testing.assert_allclose(found[there > 0], cross[there > 0], rtol=1e-4)
    assert np.isfinite(found).all()
    for grad, expected in zip(grads, by_hand, strict=True):
        np.testing.assert_allclose(grad, expected, atol=1e-4)


def test_koleo_measures_the_nearest_other_study(rng):
    x, study = rng.normal(size=(6, 4)), np.array([0, 0, 1, 2, 3, -1])
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    logs = []
    for i in range(5):
        others = [j for j in range(5) if study[j] != study[i]]
        logs.append(np.log(min(np.linalg.norm(unit[i] - unit[j]) for j in others)))
    np.testing.assert_allclose(spread(*f32(x), study), -np.mean(logs), rtol=1e-4)


with_slope = jax.jit(jax.value_and_grad(koleo))


@pytest.mark.parametrize("apart", [1e-2, 1e-4, 1e-6])
def test_koleo_pushes_hardest_where_features_are_closest(rng, apart):
    # Two pairs, each so close that 2 - 2 cos would have no digit left in float32.
    x = rng.normal(size=(4, 8))
    x[1], x[3] = x[0] + apart * rng.normal(size=8), x[2] + apart * rng.normal(size=8)
    x = x.astype(np.float32)
    study = np.arange(4)

    def exact(x):  # in float64, by differences
        unit = x / np.linalg.norm(x, axis=1, keepdims=True)
        return -np.mean([np.log(np.linalg.norm(unit[i] - unit[i ^ 1])) for i in range(4)])

    step, expected = apart * 1e-3, np.zeros((4, 8))
    for place in np.ndindex(4, 8):
        moved = np.zeros((4, 8))
        moved[place] = step
        wide = x.astype(np.float64)
        expected[place] = (exact(wide + moved) - exact(wide - moved)) / (2 * step)
    # Float32 holds the features themselves to 6e-8: closer than that nothing can be known.
    value, grad = with_slope(x, study)
    np.testing.assert_allclose(grad, expected, rtol=0.2, atol=0.05 / apart)
    np.testing.assert_allclose(value, exact(x.astype(np.float64)), rtol=0.02)
    assert np.linalg.norm(expected) > 0.1 / apart


def test_koleo_in_bfloat16_knows_the_nearest(rng):
    x, study = rng.normal(size=(8, 16)).astype(jnp.bfloat16), np.arange(8)
    wide = spread(x.astype(np.float32), study)
    np.testing.assert_allclose(spread(x, study), wide, rtol=1e-6)


def test_koleo_by_crop_adds_the_losses_of_the_first_and_of_the_second_crops(rng):
    (x,), study = f32(rng.normal(size=(6, 4))), np.array([[0, 0, 1, 1, 2, 2]], np.int32)
    crop = np.asarray(jax.jit(numbers_of_crops)(study))
    assert crop.tolist() == [[0, 1, 0, 1, 0, 1]]
    alone = sum(float(spread(x[n::2], np.arange(3))) for n in (0, 1))
    np.testing.assert_allclose(spread(x, study[0], crop[0]), alone, rtol=1e-5)


def test_koleo_of_collapsed_features_is_finite():
    (x,), study = f32(np.ones((4, 8))), np.arange(4)
    for collapsed in (x, 0 * x):
        value, grad = with_slope(collapsed, study)
        assert np.isfinite(value) and np.all(np.isfinite(grad))


def test_koleo_of_one_study_is_zero():
    assert spread(*f32(np.ones((3, 2))), np.array([7, 7, -1])) == 0


def test_targets_have_no_gradient(rng):
    targets, student = f32(softmax(rng.normal(size=(1, 2, 6))), np.ones((1, 2, 6)))
    slope = jax.jit(jax.grad(distillation, argnums=1))
    grad = slope(student, targets, np.ones((1, 2, 2), bool))
    assert np.all(np.asarray(grad) == 0)
