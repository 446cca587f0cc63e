"""Reads a config file, applies `--config.a.b=v`, and writes it as JSON."""

import ast
import difflib
import importlib.util
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from mmv_jax.errors import UserError
from mmv_jax.plugins import KEY, resolve_plugins

PREFIX = "--config."


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> ConfigDict:
    """Runs `get_config()` of a Python file and sets what the command line says.

    Args:
      path: a file such as `experiments/demo.py`; it is code of the user's own, and is run.
      overrides: words of the form `--config.rows.length=1024`. A value is a Python literal, or else
        text.
    Returns:
      The config, locked: a name that it does not have cannot be set. `plugins`, the files that it
      names (relative to its own folder, or else to the working directory), are loaded, and it says
      their names and digests.
    Raises:
      UserError: no such file, no `get_config`, an unknown name, or a value of another type.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"--config {path}: there is no such file. The configs of the project are in"
            " experiments/."
        )
    spec = importlib.util.spec_from_file_location("mmv_config", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise UserError(
            f"--config {path}: the file has no function get_config(). See experiments/demo.py for"
            " the form."
        )
    config = module.get_config()
    if KEY not in config:
        config[KEY] = ()  # so that the command line can name some
    config.lock()
    for word in overrides:
        set_by_word(config, word)
    resolve_plugins(config, path.parent)
    return config


def set_by_word(config: ConfigDict, word: str) -> None:
    """Sets one value of a locked config from a word such as `--config.rows.length=1024`."""
    name, equals, text = word.removeprefix(PREFIX).partition("=")
    if not word.startswith(PREFIX) or not equals:
        raise UserError(f"{word!r} is not of the form --config.name=value.")
    *groups, leaf = name.split(".")
    node = config
    for depth, group in enumerate(groups):
        node = _child(node, group, ".".join(groups[: depth + 1]))
    if leaf not in node:
        raise UserError(f"config.{name} does not exist. {_nearest(config, name)}")
    old, new = node[leaf], _value(text)
    if isinstance(old, ConfigDict):
        raise UserError(
            f"config.{name} is a group; set one of its values:"
            f" {', '.join(f'config.{name}.{key}' for key in old)}."
        )
    if isinstance(old, str) and new is not None:
        new = text
    try:
        node[leaf] = new
    except TypeError as error:
        raise UserError(
            f"config.{name} is a {type(old).__name__} ({old!r}), but {text!r} is a"
            f" {type(new).__name__}."
        ) from error


def to_dict(config: ConfigDict | Mapping) -> dict:
    """The config as plain dicts and lists, as JSON holds it."""
    return json.loads(to_json(config))


def to_json(config: ConfigDict | Mapping) -> str:
    """The config as JSON, one value a line, in a fixed order."""
    plain = config.to_dict() if isinstance(config, ConfigDict) else dict(config)
    return json.dumps(plain, indent=2, sort_keys=True)


def _child(node: ConfigDict, group: str, name: str) -> ConfigDict:
    child = node.get(group)
    if not isinstance(child, ConfigDict):
        raise UserError(f"config.{name} is no group of this config. {_nearest(node, group)}")
    return child


def _value(text: str):
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return {"true": True, "false": False, "none": None}.get(text.lower(), text)


def _nearest(config: ConfigDict, name: str) -> str:
    names = list(_flat_names(config))
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    return f"Did you mean {' or '.join(close)}?" if close else f"There are: {', '.join(names)}."


def _flat_names(config: ConfigDict, prefix: str = ""):
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            yield from _flat_names(value, f"{prefix}{key}.")
        else:
            yield prefix + key
