"""The benches of the step, packing and probes: their contract, and that ours and the peer do
the same work.
"""

import json

import jax
import numpy as np
import pytest

from mmv_jax.bench.packing import LENGTH, bench_packing, grain_fill, plan_fill
from mmv_jax.bench.probe import bench_probe
from mmv_jax.bench.step import (
    Crop,
    TimedRows,
    bench_step,
    config_of,
    describe,
    equal_crops,
    make_batch,
    mixed_crops,
)
from mmv_jax.train.loop import make_parts

ROW = (Crop(0, True, 30, 0), Crop(0, True, 20, 8), Crop(0, False, 9))
TINY = TimedRows(
    "2 rows",
    64,
    56,
    (ROW, ROW),
    size="nano",
    patch=(2, 4, 4),
    registers=1,
    prototypes=32,
    hidden=16,
    bottleneck=8,
)


def check_contract(found: dict, bench: str) -> None:
    assert found["bench"] == bench
    for c in found["cases"]:
        assert set(c) == {"case", "ours", "peer", "peer_name", "ratio", "unit"}
        assert 0 < c["ratio"] < float("inf")


@pytest.mark.full
def test_a_step_is_timed_beside_two_ways_of_pytorch():
    pytest.importorskip("torch", exc_type=ImportError)
    found = bench_step([TINY], turns=1)
    check_contract(found, "step")
    assert [c["peer_name"] for c in found["cases"]] == [
        "PyTorch, a loop over lengths",
        "PyTorch, padded",
    ]


def test_the_timed_rows_make_a_config_from_which_a_step_is_made():
    """Also where PyTorch is not installed and no time is taken."""
    objective, tx, ema = make_parts(config_of(TINY))
    assert objective.most_visible is None


def test_pytorch_trains_as_many_parameters():
    pytest.importorskip("torch", exc_type=ImportError)
    from mmv_jax.bench.torch_step import make_model

    objective, _, _ = make_parts(config_of(TINY))
    batch = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in make_batch(TINY).items()}
    student, _ = jax.eval_shape(objective.init, jax.random.key(0), batch)
    ours = sum(np.prod(x.shape) for x in jax.tree.leaves(student))
    assert sum(p.numel() for p in make_model(describe(TINY)).parameters()) == ours


def test_pytorch_computes_as_many_tokens_without_padding_and_more_with_it():
    pytest.importorskip("torch", exc_type=ImportError)
    from mmv_jax.bench.torch_step import make_groups

    work = json.loads(json.dumps(describe(TINY)))
    tokens = {
        padded: sum(
            group["coords"].shape[0] * group["coords"].shape[1]
            for group in make_groups(work, padded)
        )
        for padded in (False, True)
    }
    assert tokens == {False: 2 * (30 + 20 + 9), True: 2 * (30 + 30 + 9)}


@pytest.mark.parametrize("work", [equal_crops(), mixed_crops()], ids=lambda work: work.name)
def test_rows_hold_what_they_say(work):
    batch = make_batch(work)
    for b, row in enumerate(work.rows):
        fronts = [crop.is_global for crop in row]
        assert fronts == sorted(fronts, reverse=True)  # global crops first, within the prefix
        assert sum(crop.tokens for crop in row if crop.is_global) <= work.prefix
        np.testing.assert_array_equal(
            np.bincount(batch["segment_ids"][b])[1:], [crop.tokens for crop in row]
        )
        assert (
            batch["masked"][b].sum()
            == sum(crop.masked for crop in row)
            == (batch["masked_index"][b] >= 0).sum()
        )


def test_the_plan_is_beside_both_packers_of_grain():
    found = bench_packing(crops=60, bins=(4,))
    check_contract(found, "packing")
    assert len(found["cases"]) == 2


def test_fill_counts_every_row():
    sizes = np.array([LENGTH, LENGTH // 2])  # two rows, three quarters full
    assert plan_fill(sizes) == grain_fill("FirstFit", sizes, 2) == 75.0


def test_probes_are_timed_and_agree():
    # Large enough that no clock of processor time that counts in ticks finds nothing.
    found = bench_probe(studies=(400,), width=96, tasks=2, strengths=(0.01, 0.1, 1.0))
    check_contract(found, "probe")
    seconds, auroc = found["cases"]
    assert (seconds["unit"], auroc["unit"]) == ("ms", "AUROC")
    assert auroc["ours"] == pytest.approx(auroc["peer"], abs=0.002)
