"""Files that a user names: a reader, a data set, worker processes, and what a checkpoint says."""

import json
import os
import sys
from pathlib import Path

import pytest
from examples import example

from mmv_jax import cli, plugins
from mmv_jax.config import load_config, to_dict
from mmv_jax.errors import UserError
from mmv_jax.manifests.listing import DATASETS
from mmv_jax.plugins import (
    check_plugins,
    forget_plugins,
    load_plugins,
    named_plugins,
    resolve_plugins,
)
from mmv_jax.readers.read import FORMATS
from mmv_jax.registry import Registry
from mmv_jax.store import jobs
from mmv_jax.store.read import Store
from mmv_jax.train.workdir import keep_config

READER = example("digits_reader.py")
DATASET = example("digits_set.py")


@pytest.fixture(autouse=True)
def _tables_as_before(monkeypatch):
    """No test leaves an entry in the tables, nor a name behind."""
    for table in (FORMATS, DATASETS):
        monkeypatch.setattr(table, "_entries", dict(table._entries))
    monkeypatch.setattr(plugins, "_loaded", {})
    monkeypatch.setattr(plugins, "_named", {})


def write(folder: Path, name: str, source: str) -> Path:
    path = folder / name
    path.write_text(source)
    return path


@pytest.mark.parametrize("engine", ["local", "ray"])
def test_a_reader_and_a_data_set_from_outside_with_two_workers(
    tmp_path, capsys, monkeypatch, engine
):
    if engine == "ray":
        pytest.importorskip("ray", reason="the extra ray is not installed")
    monkeypatch.setattr(jobs, "TASK_LINES", 2)  # two tasks, one for each
    data = tmp_path / "data"
    data.mkdir()
    for n in range(4):
        write(data, f"s{n}.txt", f"DIGITS\n12345\n6789{n}\n")
    ours = [
        "--plugins",
        str(write(tmp_path, "digits_reader.py", READER)),
        "--plugins",
        str(write(tmp_path, "digits_set.py", DATASET)),
    ]
    manifest, store = str(tmp_path / "m.csv"), str(tmp_path / "store")
    assert cli.main(["manifest", "digits-set", str(data), "--out", manifest, *ours]) == 0
    assert (
        cli.main(
            ["ingest", manifest, "--store", store, "--workers", "2", *ours, "--engine", engine]
        )
        == 0
    )
    assert "4 studies ingested" in capsys.readouterr().out
    assert list(Store.open(store).index["high"]) == [9] * 4


def test_without_its_plugin_a_data_set_is_unknown(tmp_path, capsys):
    assert cli.main(["manifest", "digits-set", str(tmp_path), "--out", str(tmp_path / "m")]) == 2
    assert "no data set named 'digits-set'" in capsys.readouterr().err


def test_a_config_carries_names_and_digests(tmp_path, monkeypatch):
    write(tmp_path, "mine.py", "X = 1\n")
    file = write(
        tmp_path,
        "config.py",
        "from ml_collections import ConfigDict\n"
        "def get_config():\n    return ConfigDict(dict(seed=0, plugins=('mine.py',)))\n",
    )
    config = load_config(file)
    (said,) = to_dict(config)["plugins"]
    assert (said["name"], len(said["sha256"])) == ("mine.py", 64)
    assert named_plugins()[0].said == said
    resolve_plugins(config)  # a second time changes nothing
    assert to_dict(config)["plugins"] == [said]
    # one that names none is as it was before there were any
    file.write_text(file.read_text().replace("('mine.py',)", "()"))
    assert "plugins" not in load_config(file)
    monkeypatch.chdir(tmp_path)
    assert load_config(file, ["--config.plugins=('mine.py',)"]).plugins[0]["name"] == "mine.py"


def test_the_same_file_twice_is_harmless_and_two_of_one_name_are_not(tmp_path):
    table: Registry = Registry("thing")
    sys.modules["a_table_of_things"] = table  # type: ignore[assignment]
    source = "import a_table_of_things as t\nt.register('a', object)\n"
    file = write(tmp_path, "mine.py", source)
    load_plugins([file, file])
    load_plugins(["mine.py"], tmp_path)
    assert len(named_plugins()) == 1
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match=r"Two plug-ins are named mine\.py"):
        load_plugins([write(tmp_path / "other", "mine.py", source + "#\n")])
    with pytest.raises(UserError, match="already a thing named 'a'"):
        load_plugins([write(tmp_path, "yours.py", source.replace("object", "str"))])
    del sys.modules["a_table_of_things"]


@pytest.mark.parametrize("source", ["1 / 0\n", "def\n", "import no_such_module_anywhere\n"])
def test_a_broken_plugin_is_a_sentence(tmp_path, source):
    with pytest.raises(UserError, match=r"The plug-in mine\.py failed while it was loaded"):
        load_plugins([write(tmp_path, "mine.py", source)])


def test_what_a_checkpoint_says_is_compared_and_never_run(tmp_path):
    trap = tmp_path / "ran"
    file = write(tmp_path, "mine.py", f"open({str(trap)!r}, 'w').close()\n")
    (plugin,) = load_plugins([file])
    trap.unlink()
    forget_plugins()
    made_with = {"plugins": [plugin.said]}
    with pytest.raises(UserError, match="not named here"):
        check_plugins(made_with)
    file.write_text("X = 2\n")
    load_plugins([file])
    with pytest.raises(UserError, match="has changed since") as refused:
        check_plugins(made_with)
    assert refused.value.exit_code == 2
    assert not trap.exists()
    check_plugins({})  # of before there were any


def test_a_run_does_not_go_on_with_a_changed_or_missing_plugin(tmp_path):
    write(tmp_path, "mine.py", "X = 1\n")
    source = (
        "from ml_collections import ConfigDict\n"
        "def get_config():\n    return ConfigDict(dict(seed=0, plugins=('mine.py',)))\n"
    )
    file, run = write(tmp_path, "config.py", source), tmp_path / "run"
    keep_config(load_config(file), run, ())
    (run / "metrics.jsonl").write_text("{}\n")
    keep_config(load_config(file), run, ())
    assert json.loads((run / "config.json").read_text())["plugins"][0]["name"] == "mine.py"
    forget_plugins()
    write(tmp_path, "mine.py", "X = 2\n")
    with pytest.raises(UserError, match="has changed since"):
        keep_config(load_config(file), run, ())
    forget_plugins()
    os.remove(tmp_path / "mine.py")
    with pytest.raises(UserError, match="neither in the config's folder"):
        load_config(file)
    file.write_text(source.replace("('mine.py',)", "()"))
    with pytest.raises(UserError, match="not named here"):
        keep_config(load_config(file), run, ())
