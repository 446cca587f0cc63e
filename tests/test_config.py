"""Config files and what the command line changes in them."""

import json

import pytest

from mmv_jax.config import load_config, to_json
from mmv_jax.errors import UserError

FILE = """
from ml_collections import ConfigDict
def get_config():
    return ConfigDict(dict(seed=0, rows=dict(length=64, share=0.5), data=dict(store="here", mixture=dict(CT=0.5))))
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


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="there is no such file"):
        load_config(tmp_path / "nothing.py")


def test_json_holds_every_value(file):
    assert json.loads(to_json(load_config(file)))["rows"] == {"length": 64, "share": 0.5}
