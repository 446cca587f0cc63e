"""KoleoTerm in groups of rows: the mean of the groups' losses, and nothing leaves a device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from mmv_jax.errors import UserError
from mmv_jax.models.sizes import make_encoder
from mmv_jax.objectives.koleo import KoleoTerm, koleo
from mmv_jax.objectives.term import STUDENT, Seen, Work
from mmv_jax.parallel import make_mesh
from mmv_jax.preflight.hlo import count

ROWS, SEGMENTS, WIDTH = 8, 5, 6


def seen_of(cls, study) -> Seen:
    return Seen(
        batch={"study": study},
        prefix=(),
        tokens={},
        blocks={},
        cls={STUDENT: cls},
        is_global=study >= 0,
        temperature=jnp.float32(0.1),
        key=jax.random.key(0),
    )


def term_of(**options) -> KoleoTerm:
    return KoleoTerm(encoder=make_encoder("mini", (8, 16, 16)), **options)


def loss(term: KoleoTerm):
    return jax.jit(jax.value_and_grad(lambda cls, study: term.loss({}, {}, seen_of(cls, study))[0]))


@pytest.fixture(scope="module")
def rows():
    """CLS tokens [B, S, D]; two crops of each of two studies a row, and an empty place."""
    cls = np.random.default_rng(3).normal(size=(ROWS, SEGMENTS, WIDTH)).astype(np.float32)
    study = 2 * np.arange(ROWS, dtype=np.int32)[:, None] + np.array([0, 0, 1, 1, 0])
    study[:, -1] = -1
    return cls, study


@pytest.mark.parametrize("by_crop", [False, True])
def test_the_loss_of_groups_is_the_mean_of_theirs(rows, by_crop):
    cls, study = rows
    crop = np.tile(np.array([0, 1, 0, 1, 0]), (ROWS, 1))
    groups = [slice(first, first + 2) for first in range(0, ROWS, 2)]
    each = [
        jax.jit(koleo)(
            cls[group].reshape(-1, WIDTH),
            study[group].reshape(-1),
            crop[group].reshape(-1) if by_crop else None,
        )
        for group in groups
    ]
    found, _ = loss(term_of(koleo_by_crop=by_crop, koleo_rows=2))(cls, study)
    np.testing.assert_allclose(found, np.mean(each), rtol=1e-5)
    whole, _ = loss(term_of(koleo_by_crop=by_crop))(cls, study)
    assert abs(float(whole) - float(found)) > 0.05  # fewer neighbours lie farther away


@pytest.mark.parametrize("group, sends", [(2, False), (0, True)])
def test_nothing_but_sums_leaves_a_device_that_holds_whole_groups(rows, group, sends):
    alone, gradient = loss(term_of(koleo_rows=group))(*rows)
    mesh = make_mesh(2, 2, jax.devices()[:4])
    spread = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    shared = [jax.device_put(x, spread) for x in rows]
    step = loss(term_of(koleo_rows=group)).lower(*shared).compile()
    np.testing.assert_allclose(step(*shared)[0], alone, rtol=1e-5)
    np.testing.assert_allclose(step(*shared)[1], gradient, atol=1e-5)
    sent = sum(count(step.as_text()).sent.values())
    assert (sent >= rows[0].nbytes // 4) == sends  # the features of a device; a sum is a few bytes


def test_rows_that_are_no_whole_groups_are_refused(rows):
    with pytest.raises(UserError, match="koleo_rows is 3, but does not divide the 8 rows"):
        loss(term_of(koleo_rows=3))(*rows)


def test_fewer_than_no_rows_are_refused(rows):
    with pytest.raises(UserError, match="koleo_rows is -1, but is a number of rows"):
        loss(term_of(koleo_rows=-1))(*rows)


def test_a_step_of_fewer_rows_is_one_group(rows):
    assert loss(term_of(koleo_rows=16))(*rows)[0] == loss(term_of())(*rows)[0]


def test_the_pairs_that_are_counted_are_those_within_groups():
    work = Work(rows=8, length=0, prefix=0, visible=0, masked=0, segments=SEGMENTS)
    whole, of_two = (term_of(koleo_rows=n).flops(work)["koleo"].forward for n in (0, 2))
    assert whole == 4 * of_two == 2 * (8 * SEGMENTS) ** 2 * 192
