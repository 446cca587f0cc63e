"""The folder of results: one writer, no leftovers, and never the results of two calls."""

import fcntl
import json

import pytest

from mmv_jax import provenance as records
from mmv_jax.errors import UserError
from mmv_jax.provenance import provenance, write_metrics
from mmv_jax.result_folder import LOCK, WRITTEN, clear_results, only_writer, told_of_other

METRICS = {"left": {"trained": {"auroc": {"value": 0.5, "ci95": [0.25, 0.75], "n": 8}}}}


def test_a_second_writer_is_refused_and_the_next_one_is_not(tmp_path):
    folder = tmp_path / "my results é"
    with only_writer(folder, "--workdir"):
        with (
            pytest.raises(UserError, match="--workdir .*my results é: another process writes"),
            only_writer(folder, "--workdir"),
        ):
            pass
        assert (folder / LOCK).exists()  # the one that was refused has not taken it away
    assert not folder.exists()  # since nothing was written there
    folder.mkdir()
    (folder / LOCK).touch()  # of a killed one
    with only_writer(folder, "--workdir"):
        pass
    assert folder.exists() and not any(folder.iterdir())


def test_a_writer_that_fails_gives_the_folder_back(tmp_path):
    with pytest.raises(KeyboardInterrupt), only_writer(tmp_path, "--out"):
        raise KeyboardInterrupt
    with only_writer(tmp_path, "--out"):
        pass


def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path):
    left = ["metrics.json.0a1b2c3d.part", "features/ab.npz.0a1b2c3d.part", "fitted/c.npz.1.part"]
    others = ["mine.part", "features/notes.txt", "fitted/c.npz", "checkpoints/x.npz.1.part"]
    for name in (*left, *others):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with only_writer(tmp_path, "--workdir"):
        there = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert there == {LOCK, *others}


def test_a_file_system_without_locks_holds_nobody_out(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(95, "not supported")

    (tmp_path / "metrics.json.1.part").touch()  # perhaps of one that is at work
    monkeypatch.setattr(fcntl, "flock", none)
    with only_writer(tmp_path, "--workdir"), only_writer(tmp_path, "--workdir"):
        assert (tmp_path / "metrics.json.1.part").exists()


def test_metrics_are_the_first_to_go_and_the_last_to_come(tmp_path, monkeypatch):
    for name in WRITTEN:
        (tmp_path / name).touch()
    clear_results(tmp_path)
    assert not list(tmp_path.iterdir()) and WRITTEN[0] == "metrics.json"
    written = []
    monkeypatch.setattr(records, "write_whole", lambda path, content: written.append(path.name))
    write_metrics(tmp_path, METRICS, provenance("mmv evaluate", config={}))
    assert written == ["provenance.json", "metrics.csv", "metrics.json"]


def test_results_of_another_config_are_told(tmp_path):
    config = {"seed": 1, "only": [], "plugins": ["mine.py"]}
    assert told_of_other(tmp_path, config) == ""
    said = config | {"plugins": [{"name": "mine.py", "digest": "d"}]}
    write_metrics(tmp_path, METRICS, provenance("mmv evaluate", config=said))
    assert told_of_other(tmp_path, config) == ""
    told = told_of_other(tmp_path, config | {"only": ["left"], "weights": ["student"]})
    assert "of another config (only, weights)" in told
    (tmp_path / "provenance.json").write_text(json.dumps([1]))
    assert told_of_other(tmp_path, config) == ""  # `refuse_others` speaks of it
