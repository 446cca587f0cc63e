"""The verdict: collapse is named soon, and nothing is said of a healthy run."""

import math

import numpy as np
import pytest

from mmv_jax.train.health import Health

BASIS = np.random.default_rng(1).normal(size=(48, 64)) / 7


def words_of(features_of_step, steps, every=20, **metrics):
    """What is said in a run whose step n has the features `features_of_step(n)`, and at which step
    first.
    """
    health, said = Health({"dino": 1.0, "prototypes": 64}), []
    for n in range(steps):
        health.add(features_of_step(n).astype(np.float32))
        if n % every == 0 and n:
            figures = health.figures()
            said += [(n, words) for words in health.verdict({**metrics, **figures}, figures)]
    return said


def spread(rng, rank=48):
    return rng.normal(size=(8, rank)) @ BASIS[:rank]


def test_features_that_are_constant_from_the_start_are_named_within_100_steps():
    rng = np.random.default_rng(0)
    same = rng.normal(size=64)
    step, words = words_of(lambda n: same + 1e-4 * rng.normal(size=(8, 64)), 101)[0]
    assert step <= 100
    assert words.startswith("COLLAPSE: all studies have nearly the same features (rank ")
    assert "std 0.0" in words


@pytest.mark.parametrize("noise", [1e-4, 0.0])
def test_features_that_collapse_later_are_named_within_100_steps(noise):
    rng = np.random.default_rng(0)
    same = rng.normal(size=64)
    said = words_of(
        lambda n: spread(rng) if n < 200 else same + noise * rng.normal(size=(8, 64)), 301
    )
    assert any("COLLAPSE" in words for step, words in said)
    assert 200 <= said[0][0] <= 300


def test_a_line_is_a_collapse_too():
    rng = np.random.default_rng(0)
    direction = rng.normal(size=64)
    assert "COLLAPSE" in words_of(lambda n: rng.normal(size=(8, 1)) * direction[None], 101)[0][1]


def test_a_falling_rank_is_named_before_it_is_a_collapse():
    rng = np.random.default_rng(0)
    said = words_of(lambda n: spread(rng, 48 if n < 100 else 4), 400)
    assert said
    assert all("are about to collapse" in words for _, words in said)


def test_a_healthy_run_of_1000_steps_is_silent():
    rng = np.random.default_rng(0)
    assert (
        words_of(
            lambda n: spread(rng),
            1001,
            every=50,
            teacher_entropy=2.0,
            prototypes_used=0.7,
            dino=3.0,
        )
        == []
    )


def test_a_deep_encoder_that_wakes_up_is_not_called_collapsed():
    rng = np.random.default_rng(0)
    same = rng.normal(size=64)
    assert words_of(lambda n: same + 1e-3 * 1.03**n * spread(rng), 301) == []


def test_a_teacher_with_few_prototypes_or_no_opinion_is_named():
    rng = np.random.default_rng(0)
    few = words_of(lambda n: spread(rng), 41, teacher_entropy=0.01, prototypes_used=0.03)
    assert "same few prototypes (3.0% are used)" in few[0][1]
    flat = words_of(
        lambda n: spread(rng),
        41,
        teacher_entropy=math.log(64),
        prototypes_used=0.5,
        dino=math.log(64),
    )
    assert "ln(prototypes) = 4.159" in flat[0][1]


def test_few_features_and_padding_have_no_figures():
    health = Health({"dino": 1.0, "prototypes": 64})
    health.add(np.random.default_rng(0).normal(size=(31, 64)).astype(np.float32))
    health.add(np.zeros((100, 64), np.float32))
    assert health.figures() == {}
