"""Config files and what the command line changes in them."""

import json

import pytest

from mmv_jax.commands.keys import KINDS, all_keys, kind_of, load_for, pretraining_keys
from mmv_jax.config import NEEDED, load_config, packaged_configs, set_by_word, to_json
from mmv_jax.errors import UserError

FILE = """
from ml_collections import ConfigDict
def get_config():
    data = dict(store="here", mixture=dict(CT=0.5))
    return ConfigDict(dict(seed=0, rows=dict(length=64, share=0.5), data=data))
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "config.py"
    path.write_text(FILE)
    return path


def test_values_are_set_by_words(file):
    config = load_config(
        file, ["--config.rows.length=128", "--config.data.store=7", "--config.rows.share=1"]
    )
    assert (config.rows.length, config.data.store, config.rows.share) == (128, "7", 1.0)


@pytest.mark.parametrize(
    "word, says",
    [
        ("--config.rows.lenght=1", "Did you mean rows.length"),
        ("--config.row.length=1", "config.row is no group"),
        ("--config.rows=1", "is a group"),
        ("--config.rows.length=many", "is a int"),
        ("--config.rows.length", "not of the form"),
        ("--config.seed.x=1", "config.seed is no group"),
    ],
)
def test_a_wrong_word_is_named(file, word, says):
    with pytest.raises(UserError, match=says):
        load_config(file, [word])


@pytest.mark.parametrize("kind, name", [("mmv pretrain", "demo"), ("mmv evaluate", "eval_chest")])
def test_no_seed_is_below_0(kind, name):
    with pytest.raises(UserError, match="config.seed must be at least 0, but is -1"):
        load_for(kind, name, ["--config.seed=-1"])


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="there is no such file"):
        load_config(tmp_path / "nothing.py")


def test_json_holds_every_value(file):
    assert json.loads(to_json(load_config(file)))["rows"] == {"length": 64, "share": 0.5}


@pytest.mark.parametrize("path", packaged_configs(), ids=lambda path: path.stem)
def test_every_config_of_the_package_has_the_keys_of_its_kind(path):
    kind = kind_of(load_config(path))
    assert kind is not None
    assert load_for(kind.command, path).to_dict() == load_config(path).to_dict()


def test_an_evaluation_may_ask_for_all_that_is_documented(tmp_path):
    """Keys that no config of the package sets, as docs/architecture.md names them."""
    asked = {
        "shifts": ("soft kernel", "low dose"),
        "folds": 0,
        "heads": ("linear",),
        "protocols": ("linear",),
        "few_shot": {"shares": (0.5, 1.0), "draws": 2},
        "readout": {"blocks": (1, 3), "poolings": ("cls+mean",)},
    }
    task = {
        "kind": "classification",
        "label": "tube",
        "subgroups": {"sex": {}},
        "intersections": (("sex", "age"),),
        "mediators": {"tube": {}},
        "confounders": {"age": {"edges": (40, 60)}},
    }
    masks = {"kind": "segmentation", "mask": "organ", "structures": {"lungs": (1, 2)}}
    file = tmp_path / "mine.py"
    file.write_text(
        "from mmv_jax.config import load_config\n"
        "from ml_collections import ConfigDict\n"
        "def get_config():\n"
        "    c = load_config('eval_demo').unlock()\n"
        f"    c.update({asked!r})\n"
        f"    c.tasks = ConfigDict({{'tube': {task!r}, 'organs': {masks!r}}})\n"
        "    return c\n"
    )
    found = load_for("mmv evaluate", file)
    assert found.shifts == asked["shifts"]
    assert found.tasks.organs.structures.lungs == (1, 2)
    # A number of folds is of the whole evaluation.
    file.write_text(
        file.read_text().replace("    return c", "    c.tasks.tube.folds = 3\n    return c")
    )
    with pytest.raises(UserError, match="tasks.tube.folds does not exist"):
        load_for("mmv evaluate", file)


def test_every_key_can_be_set_also_where_the_file_leaves_it_out():
    keys = pretraining_keys()
    for name, key in keys.items():
        config, value = load_config("demo"), key.default
        if value is NEEDED or value is None:
            continue
        set_by_word(config, f"--config.{name}={value}", keys)
        *groups, leaf = name.split(".")
        for group in groups:
            config = config[group]
        assert config[leaf] == value, name


@pytest.mark.parametrize(
    "word, name, value",
    [
        ("--config.encoder.qk_norm=True", "encoder.qk_norm", True),
        ("--config.encoder.layer_scale=none", "encoder.layer_scale", None),
        ("--config.optimizer.b2=0.99", "optimizer.b2", 0.99),
        ("--config.encoder.dtype=bfloat16", "encoder.dtype", "bfloat16"),
        ("--config.data.mixture.CT=0.5", "data.mixture.CT", 0.5),
        ("--config.crops.planar.locals=2", "crops.planar.locals", 2),
        ("--config.augment.noise=0.1", "augment.noise", 0.1),
        ("--config.crops.volume.aspect=1.0", "crops.volume.aspect", 1.0),
        ("--config.topology=v5e:4x4", "topology", "v5e:4x4"),
    ],
)
def test_a_key_that_the_file_leaves_out_is_set(word, name, value):
    found = load_for("mmv pretrain", "demo", [word])
    for part in name.split("."):
        found = found[part]
    assert found == value


@pytest.mark.parametrize(
    "word, says",
    [
        ("--config.encoder.qknorm=True", "Did you mean encoder.qk_norm"),
        ("--config.encoder.qk_norm=2", "must be of the type bool, but 2 is a int"),
        ("--config.optimizer.clip=much", "must be of the type float, but 'much' is a str"),
        ("--config.stepps=2", "Did you mean steps"),
        ("--config.optimiser.clip=2.0", "Did you mean optimizer"),
        ("--config.steps=none", "must be of the type int"),
    ],
)
def test_a_wrong_key_is_named_with_the_nearest(word, says):
    with pytest.raises(UserError, match=says):
        load_for("mmv pretrain", "demo", [word])


def test_the_keys_of_every_kind_have_a_mark_and_a_meaning():
    for kind in KINDS:
        keys = kind.keys()
        assert any(name.split(".")[0] == kind.mark for name in keys), kind.noun
        assert not [name for name, key in all_keys(kind).items() if not key.meaning], kind.noun
