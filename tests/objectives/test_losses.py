"""Each objective against slow NumPy that follows its paper's formula."""

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
    got = masked_reconstruction(jnp.array(predicted), jnp.array(patches), jnp.array(weights))
    np.testing.assert_allclose(got, np.mean(errors), rtol=1e-5)


def test_a_visible_patch_has_no_gradient(rng):
    weights = jnp.array([1.0, 0.0, 1.0])
    grad = jax.grad(masked_reconstruction)(
        jnp.array(rng.normal(size=(3, 4))), jnp.array(rng.normal(size=(3, 4))), weights
    )
    assert (np.abs(grad).sum(axis=1) > 0).tolist() == [True, False, True]


def test_sinkhorn_equals_alternating_normalisation(rng):
    logits = rng.normal(size=(12, 5))
    q = np.exp(logits / 0.1)
    for _ in range(3):
        q *= 12 / 5 / q.sum(axis=0, keepdims=True)
        q /= q.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(
        sinkhorn_knopp(jnp.array(logits), jnp.ones(12), 0.1).targets(), q, rtol=1e-4
    )


def test_sinkhorn_uses_prototypes_evenly_and_ignores_padding(rng):
    # one prototype is everybody's first choice
    logits = rng.normal(size=(40, 5)) + np.array([5, 0, 0, 0, 0])
    weights = np.r_[np.ones(30), np.zeros(10)]
    q = np.asarray(
        sinkhorn_knopp(jnp.array(logits), jnp.array(weights), 0.5, iterations=50).targets()
    )
    assert np.all(q[30:] == 0)
    np.testing.assert_allclose(q[:30].sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(q.sum(axis=0), 6, rtol=1e-2)
    alone = sinkhorn_knopp(jnp.array(logits[:30]), jnp.ones(30), 0.5, iterations=50).targets()
    np.testing.assert_allclose(q[:30], alone, rtol=1e-5)


def test_sinkhorn_of_padding_alone_is_zero():
    assert np.all(np.asarray(sinkhorn_knopp(jnp.ones((4, 3)), jnp.zeros(4)).targets()) == 0)


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
        sinkhorn_knopp(jnp.array(cosines), jnp.ones(40), temperature).targets(),
        q,
        rtol=1e-3,
        atol=1e-7,
    )


@pytest.mark.parametrize("cosine", [-1.0, 1.0])
def test_sinkhorn_of_the_least_and_the_largest_cosines_is_even(cosine):
    q = sinkhorn_knopp(jnp.full((2, 3, 5), cosine), jnp.ones((2, 3)), 0.04).targets()
    np.testing.assert_allclose(q, 0.2, rtol=1e-5)


def test_distillation_is_the_mean_cross_entropy_over_pairs(rng):
    student, targets = rng.normal(size=(2, 4, 6)), softmax(rng.normal(size=(2, 3, 6)))
    pairs = rng.random((2, 4, 3)) < 0.5
    log_p = np.log(softmax(student / 0.1))
    terms = [-(targets[b, t] * log_p[b, s]).sum() for b, s, t in zip(*np.nonzero(pairs))]
    got = distillation(jnp.array(student), jnp.array(targets), jnp.array(pairs))
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
    targets = sinkhorn_knopp(jnp.array(teacher), jnp.array(there), 0.5)

    def loss(tokens, prototypes):
        found = masked_cross_entropy(lambda x: x @ prototypes.T, tokens, targets, 0.2, at_once)
        return (found * there).sum(), found

    def slow(tokens, prototypes):
        log_p = jax.nn.log_softmax(tokens @ prototypes.T / 0.2)
        return -(targets.targets() * log_p).sum()

    (value, found), grads = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(
        jnp.array(tokens), jnp.array(prototypes)
    )
    cross = -(np.asarray(targets.targets()) * np.log(softmax(tokens @ prototypes.T / 0.2))).sum(-1)
    np.testing.assert_allclose(found[there > 0], cross[there > 0], rtol=1e-4)
    assert np.isfinite(found).all()
    for grad, expected in zip(
        grads, jax.grad(slow, argnums=(0, 1))(jnp.array(tokens), jnp.array(prototypes))
    ):
        np.testing.assert_allclose(grad, expected, atol=1e-4)


def test_koleo_measures_the_nearest_other_study(rng):
    x, study = rng.normal(size=(6, 4)), np.array([0, 0, 1, 2, 3, -1])
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    logs = []
    for i in range(5):
        others = [j for j in range(5) if study[j] != study[i]]
        logs.append(np.log(min(np.linalg.norm(unit[i] - unit[j]) for j in others)))
    np.testing.assert_allclose(koleo(jnp.array(x), jnp.array(study)), -np.mean(logs), rtol=1e-4)


@pytest.mark.parametrize("apart", [1e-2, 1e-4, 1e-6])
def test_koleo_pushes_hardest_where_features_are_closest(rng, apart):
    # Two pairs, each so close that 2 - 2 cos would have no digit left in float32.
    x = rng.normal(size=(4, 8))
    x[1], x[3] = x[0] + apart * rng.normal(size=8), x[2] + apart * rng.normal(size=8)
    x = x.astype(np.float32)
    study, grad = jnp.arange(4), jax.jit(jax.grad(koleo))

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
    np.testing.assert_allclose(grad(jnp.array(x), study), expected, rtol=0.2, atol=0.05 / apart)
    np.testing.assert_allclose(koleo(jnp.array(x), study), exact(x.astype(np.float64)), rtol=0.02)
    assert np.linalg.norm(expected) > 0.1 / apart


def test_koleo_in_bfloat16_knows_the_nearest(rng):
    x, study = jnp.array(rng.normal(size=(8, 16)), jnp.bfloat16), jnp.arange(8)
    wide = koleo(x.astype(jnp.float32), study)
    np.testing.assert_allclose(koleo(x, study), wide, rtol=1e-6)


def test_koleo_by_crop_adds_the_losses_of_the_first_and_of_the_second_crops(rng):
    x, study = jnp.array(rng.normal(size=(6, 4)), jnp.float32), jnp.array([[0, 0, 1, 1, 2, 2]])
    crop = numbers_of_crops(study)
    assert crop.tolist() == [[0, 1, 0, 1, 0, 1]]
    alone = sum(koleo(x[n::2], jnp.arange(3)) for n in (0, 1))
    np.testing.assert_allclose(koleo(x, study[0], crop[0]), alone, rtol=1e-5)


def test_koleo_of_collapsed_features_is_finite():
    x, study = jnp.ones((4, 3)), jnp.arange(4)
    value, grad = jax.value_and_grad(koleo)(x, study)
    assert np.isfinite(value) and np.all(np.isfinite(grad))
    assert np.all(np.isfinite(jax.grad(koleo)(0 * x, study)))


def test_koleo_of_one_study_is_zero():
    assert koleo(jnp.ones((3, 2)), jnp.array([7, 7, -1])) == 0


def test_targets_have_no_gradient(rng):
    targets = jnp.array(softmax(rng.normal(size=(1, 2, 6))))
    grad = jax.grad(lambda t: distillation(jnp.ones((1, 2, 6)), t, jnp.ones((1, 2, 2), bool)))(
        targets
    )
    assert np.all(np.asarray(grad) == 0)
