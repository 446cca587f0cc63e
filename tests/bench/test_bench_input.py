"""The bench of the input: the published store, the peers' crops, and the rates of rows."""

import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

import mmv_jax
from mmv_jax import cli
from mmv_jax.bench import input as bench
from mmv_jax.bench.crop_peers import PEERS, crop_readers
from mmv_jax.bench.published_store import PUBLISHED, Collection, body, thinned, write_published
from mmv_jax.bench.row_process import leave_out_unknown
from mmv_jax.bench.row_rates import Rate, _host, _is_busy, _used
from mmv_jax.config import load_config

SMALL = (
    Collection("CXR", 30, 10, {(1, 40, 60): 0.5, (1, 60, 40): 0.5}),
    Collection("CT", 20, 20, {(20, 48, 48): 0.8, (20, 64, 64): 0.2}),
)
RATE = Rate(
    rows_per_s=2.0, cpu_s=0.5, loop_s=0.001, sent_bytes=8.4e6, read_bytes=1.7e7, first_batch_s=9.0
)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_published(tmp_path_factory.mktemp("published") / "store", SMALL)


def test_a_published_store_has_a_line_for_every_study_and_reads_real_blocks(store):
    assert store.index.groupby("modality").size().to_dict() == {"CT": 20, "CXR": 30}
    assert store.index["study"].is_unique
    assert store.index.groupby("modality")["patient"].nunique().to_dict() == {"CT": 20, "CXR": 10}
    ct = store.index.index[store.index["modality"] == "CT"]
    for i in ct[:6]:
        grid = tuple(map(int, store.index.loc[i, ["grid_z", "grid_y", "grid_x"]]))
        np.testing.assert_array_equal(store.read_box(i, (0, 0, 0), grid), body(grid))


def test_one_of_many_lines_keeps_the_shares(store):
    thin = thinned(store, 5)
    assert thin.index.groupby("modality").size().to_dict() == {"CT": 4, "CXR": 6}


def test_the_published_numbers_are_those_of_the_training_splits():
    assert [(c.modality, c.studies) for c in PUBLISHED] == [("CXR", 368_960), ("CT", 47_149)]
    assert all(sum(c.grids.values()) == pytest.approx(1) for c in PUBLISHED)


@pytest.mark.filterwarnings("ignore")  # of MONAI's imports
def test_every_peer_reads_the_same_voxels_and_an_absent_one_is_named(tmp_path):
    voxels, crop, start = body((24, 40, 48)), (8, 16, 16), np.array([3, 11, 20])
    readers, notes = crop_readers(tmp_path, voxels, crop)
    expected = voxels[3:11, 11:27, 20:36]
    for name, read in readers.items():
        np.testing.assert_array_equal(read(start), expected, err_msg=name)
        np.testing.assert_array_equal(read(start * 0), voxels[:8, :16, :16], err_msg=name)
    there = {name for name, (package, _) in PEERS.items() if find_spec(package)}
    assert set(readers) == there and len(notes) == len(PEERS) - len(there)
    assert all("is not installed" in note for note in notes)


def test_rates_are_set_beside_the_version_before_and_what_steps_consume(monkeypatch):
    monkeypatch.setattr(bench, "_eaten_here", lambda config: 0.25)
    slow = Rate(**{**vars(RATE), "rows_per_s": 0.5, "left_out": ("data.packing",)})
    rates = {(bench.OURS, 1): RATE, (bench.BEFORE, 1): slow}
    found = bench._rows(rates, load_config("vitb_mimic_ctrate"), studies=50)
    ratios = [c["ratio"] for c in found["cases"]]
    assert ratios[:2] == [pytest.approx(4), pytest.approx(8)]  # 2 rows/s by 0.5 and by 0.25
    assert ratios[2:] == [pytest.approx(2 / 262.3, rel=0.01), pytest.approx(2 / 163.9, rel=0.01)]
    assert found["notes"][1].startswith("before: that version does not know config.data.packing")
    pod = next(own for title, own in found["metrics"].items() if "40% MFU" in title)
    assert pod[bench.OURS]["workers needed a host"]["value"] == 132  # 262.3 / 2, rounded up


def test_keys_that_a_version_does_not_know_are_left_out_and_named():
    known = load_config("vitb_mimic_ctrate")
    config = ConfigDict(known.to_dict())
    assert leave_out_unknown(config) == [] and config.to_dict() == known.to_dict()
    config.data.of_later = config.crops.volume.of_later = 1
    config.augment = {"noise": 0.1, "of_later": 1}
    left_out = leave_out_unknown(config)
    assert left_out == ["data.of_later", "augment.of_later", "crops.volume.of_later"]
    assert config.augment.to_dict() == {"noise": 0.1}
    del config.augment
    assert config.to_dict() == known.to_dict()


def test_the_row_process_of_an_older_version_makes_rows_without_what_it_does_not_know(store):
    config = ConfigDict(load_config("demo").to_dict())
    config.data.update({"packing": "fewest", "of_later": 1})
    few = thinned(store, 2)
    few.index.to_parquet(f"{few.path}/index.parquet")
    with _host(few.path, config, str(Path(mmv_jax.__file__).parents[1]), workers=0) as host:
        assert host.left_out == ("data.of_later",) and host.first_batch_s > 0
        figures = host.batches(1)
    assert figures["rows_per_s"] > 0 and figures["sent_bytes"] > 0


def test_a_group_of_processes_is_busy_while_it_works():
    work = "import sys, time\nwhile time.process_time() < 0.3: pass\nprint('done', flush=True)\n"
    with subprocess.Popen(
        [sys.executable, "-c", work + "sys.stdin.read()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        busy = False
        while not busy and process.poll() is None and _used(process.pid)[0] < 0.25:
            busy = _is_busy(process.pid)
            time.sleep(0.005)
        process.stdout.readline()
        assert busy and _used(process.pid)[0] >= 0.25
        time.sleep(0.05)
        assert not _is_busy(process.pid)
        os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize(
    "words, said",
    [
        (["input", "--before", "nowhere"], "is no checkout"),
        (["packing", "--before", "."], "mmv bench input"),
    ],
)
def test_a_turn_that_there_is_not_is_refused(words, said, capsys):
    assert cli.main(["bench", *words]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.full
def test_the_whole_bench_times_crops_and_rows_of_processes():
    config = load_config("demo")
    found = bench.bench_input(
        (24, 40, 48), (8, 16, 16), 1, collections=SMALL, workers=[1], config=config
    )
    assert found["bench"] == "input"
    for c in found["cases"]:
        assert set(c) == {"case", "ours", "peer", "peer_name", "ratio", "unit"}
        assert 0 < c["ratio"] < float("inf")
    rows = found["metrics"]["rows of a host, 1 worker"][bench.OURS]
    assert rows["rows a second"]["value"] > 0 and rows["MiB to the devices, a row"]["value"] > 0
