"""The bench of attention: its contract, and that ours and peers run in turn."""

import numpy as np
import pytest

from mmv_jax.bench.attention import Layout, bench_attention, segment_ids, short_segments
from mmv_jax.bench.run import case, in_turn

SMALL = (Layout("2 rows of 64", 64, ((20, 30), (64,)), 2, 32),)


@pytest.fixture
def without_torch(monkeypatch):
    monkeypatch.setattr("mmv_jax.bench.attention.find_spec", lambda name: None)


def test_every_case_has_what_the_contract_names(without_torch):
    found = bench_attention(SMALL, lengths=(64, 128), turns=1)
    assert found["bench"] == "attention"
    assert "PyTorch is not installed" in found["notes"][0]
    assert [c["peer_name"] for c in found["cases"]] == ["dense-masked XLA", "linear"]
    for c in found["cases"]:
        assert set(c) == {"case", "ours", "peer", "peer_name", "ratio", "unit"}
        assert c["ratio"] == pytest.approx(c["peer"] / c["ours"])


def test_torch_runs_in_a_process_of_its_own():
    pytest.importorskip("torch", exc_type=ImportError)
    from mmv_jax.bench.attention import _torch_worker

    with _torch_worker(SMALL[0]) as run:
        assert all(0 < run() < 60 for _ in range(2))


def test_runs_take_turns_and_the_first_turn_does_not_count():
    seen = []

    def run(name, results):
        seen.append(name)
        return next(results)

    slow_first, steady = iter([100.0, 3.0, 1.0, 2.0]), iter([100.0, 5.0, 5.0, 5.0])
    found = in_turn({"a": lambda: run("a", slow_first), "b": lambda: run("b", steady)}, turns=3)
    assert seen == ["a", "b"] * 4
    assert found == {"a": 2.0, "b": 5.0}


def test_a_ratio_above_one_means_that_ours_is_faster():
    assert case("x", ours_s=0.5, peer_s=1.0, peer_name="p")["ratio"] == 2


def test_short_segments_fill_rows_without_spilling():
    rows = short_segments(8, 512)
    assert all(5 <= n <= 200 for row in rows for n in row)
    assert all(312 < sum(row) <= 512 for row in rows)


def test_ids_are_numbered_from_one_and_end_in_padding():
    expected = np.repeat([1, 2, 0], [20, 30, 14])
    np.testing.assert_array_equal(segment_ids(SMALL[0])[0], expected)
