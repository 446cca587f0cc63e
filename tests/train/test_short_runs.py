"""Runs of seven steps: what they say of themselves, what ends them, and what takes them back."""

import json

import jax
import numpy as np
import pytest
from test_probe import labelled

from mmv_jax.checkpoint import restore_items
from mmv_jax.errors import WorkFailed
from mmv_jax.store.read import Store
from mmv_jax.train import loop
from mmv_jax.train.guard import Guard
from mmv_jax.train.log import read_metrics
from mmv_jax.train.opening import devices_in_words

SPIKES = (4, 5)


@pytest.fixture
def spiking(short, monkeypatch):
    """A config whose steps 4 and 5 count as spikes."""
    plain = Guard.limits

    def low(guard, step):
        spike = step in SPIKES and not guard.is_left_out(step)
        return np.zeros(2, np.float32) if spike else plain(guard, step)

    monkeypatch.setattr(Guard, "limits", low)
    short.checkpoint.keep = 9
    return short


def test_a_run_with_spikes_goes_back_once_and_comes_to_its_end(spiking, tmp_path, capsys):
    spiking.guard = {"skips": 2}
    spiking.health.every = 3
    state = loop.pretrain(spiking, tmp_path / "back")
    said = capsys.readouterr().err
    assert "step 4: left out, since its loss" in said
    assert said.count("Going back to checkpoint 3;") == 1
    lines = read_metrics(tmp_path / "back")
    assert [line["step"] for line in lines if line["spike"]] == list(SPIKES)
    kept = restore_items(tmp_path / "back", ())[1]["pretraining"]["guard"]
    assert kept["left_out"] == [[4, 5]] and kept["rollbacks"] == [5]
    # Bit for bit: it is the run that has left these two steps out and went on.
    spiking.guard = {"skips": 9}
    plain = loop.pretrain(spiking, tmp_path / "on")
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(plain), jax.device_get(state))
    shares = [sum(v for k, v in line.items() if k.startswith("share_")) for line in lines]
    assert sum(share > 0 for share in shares) >= 2
    np.testing.assert_allclose([share for share in shares if share], 1.0)


def test_a_run_that_spikes_before_its_first_checkpoint_ends(spiking, tmp_path):
    spiking.update({"guard": {"skips": 2}, "checkpoint": {"every": 10, "keep": 9}})
    with pytest.raises(WorkFailed, match="spiked at steps 4 .*no checkpoint from before"):
        loop.pretrain(spiking, tmp_path)


def test_three_steps_in_a_row_that_are_not_finite_end_the_run(short, tmp_path, monkeypatch):
    good = loop.device_batches

    def broken(*args):
        for n, batch in enumerate(good(*args)):
            yield batch | {"patches": batch["patches"] * (np.nan if n in (0, 2, 3, 4) else 1.0)}

    monkeypatch.setattr(loop, "device_batches", broken)
    with pytest.raises(WorkFailed, match=r"3 steps in a row \(to step 4\)") as failed:
        loop.pretrain(short, tmp_path)
    assert failed.value.exit_code == 1
    assert [line["skipped"] for line in read_metrics(tmp_path)][:5] == [1, 0, 1, 1, 1]


def test_the_line_of_a_step_is_written_where_the_next_rows_cannot_be_read(
    short, tmp_path, monkeypatch
):
    plain = loop.device_batches

    def two_and_an_end(*given):
        for n, batch in enumerate(plain(*given)):
            if n == 2:
                raise WorkFailed("no more")
            yield batch

    monkeypatch.setattr(loop, "device_batches", two_and_an_end)
    with pytest.raises(WorkFailed, match="no more"):
        loop.pretrain(short, tmp_path)
    lines = read_metrics(tmp_path)
    assert [line["step"] for line in lines] == [0, 1]
    assert all(line["input_s"] >= 0 for line in lines)


def test_a_run_says_what_it_runs_on_and_logs_its_speed_and_its_probe(
    short, store, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(loop.Store, "open", lambda path: labelled(store))
    short.health = {"every": 2, "knn_every": 2, "knn": {"CXR": "odd", "CT": "sex"}}
    loop.pretrain(short, tmp_path / "run")
    said = capsys.readouterr().err
    words = {
        line.split(None, 1)[0]: line.split(None, 1)[1] for line in said.splitlines() if " " in line
    }
    rows = loop.make_rows(Store.open(store), short)
    assert words["devices"] == devices_in_words(loop.make_mesh(**short.mesh))
    assert "that are trained (dino_head" in words["parameters"]
    assert words["store"] == f"{store}, {len(rows.patients)} patients to train on"
    assert words["workdir"].startswith(str(tmp_path / "run"))
    assert words["mfu"].startswith("not logged: the peak of a cpu is not known")
    lines = read_metrics(tmp_path / "run")
    assert lines[0]["lr"] == 0.0 and lines[1]["lr"] > 0
    assert "tokens_per_s" not in lines[0]
    for step, line in enumerate(lines):
        batch = rows.batch(step)
        shown = sum(len(set(own[own >= 0].tolist())) for own in batch["study"])
        assert line["studies"] == shown
        assert step == 0 or line["studies_per_s"] / line["tokens_per_s"] == pytest.approx(
            shown / line["tokens"]
        )
    about = json.loads((tmp_path / "run" / "running.json").read_text())
    assert {"pid", "host", "since", "beat"} <= set(about)
    probed = [line for line in lines if "knn_CXR" in line]
    assert [line["step"] for line in probed] == [1, 3, 5, 6]
    assert all(0 <= line["knn_CXR"] <= 1 for line in probed)
    assert "leaves CT out: the store has no label 'sex'" in said
