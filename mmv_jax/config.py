"""Config files: run one, apply `--config.a.b=v`, check its keys, and write it as JSON."""

import ast
import difflib
import importlib.util
import inspect
import json
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from mmv_jax.errors import UserError
from mmv_jax.plugins import KEY, resolve_plugins

PREFIX = "--config."
NEEDED = object()  # the default of a key that the file must set
SIMPLE = (bool, int, float, str)  # types that a value is checked for
SECTIONS = ("Args:", "Attributes:", "Fields:")  # of a docstring


@dataclass(frozen=True)
class ConfigKey:
    """The description of one value of a config.

    Attributes:
      default: NEEDED if the file must set it.
      meaning: a sentence or two.
      kind: the type of the value, one of SIMPLE; None if any type will do.
      is_open: the value is a group whose names are the user's own, such as `tasks`.
      least: of a number; None for no limit.
    """

    default: Any = NEEDED
    meaning: str = ""
    kind: type | None = None
    is_open: bool = False
    least: int | None = None

    def refusal(self, value: Any) -> str | None:
        """The reason why a value is not allowed here, in words; None if it is."""
        if self.kind is None or value == self.default:
            return None
        # A whole number is accepted as a float. True is an int in Python, but not in a config.
        fits = isinstance(value, (int, float) if self.kind is float else self.kind)
        if fits and (self.kind is bool or not isinstance(value, bool)):
            if self.least is not None and value < self.least:
                return f"must be at least {self.least}, but is {value!r}"
            return None
        told = type(value).__name__
        return f"must be of the type {self.kind.__name__}, but {value!r} is a {told}"


Keys = Mapping[str, ConfigKey]  # by full name: "rows.length"


def keys_of(function: Callable, without: Iterable[str] = ()) -> dict[str, ConfigKey]:
    """The keys of a group whose values are the arguments of a function, or the fields of a class.

    Meanings are read from the docstring's `Args`, `Attributes` or `Fields`.

    Args:
      without: arguments that do not come from the config.
    """
    # A class need not repeat what the class below it says of its fields.
    documented = reversed(inspect.getmro(function)) if inspect.isclass(function) else (function,)
    meanings: dict[str, str] = {}
    for one in documented:
        meanings |= _meanings(inspect.getdoc(one) or "")
    kinds = inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL
    keys = {}
    for name, argument in inspect.signature(function).parameters.items():
        if name not in without and argument.kind not in kinds:
            # Only plain types are checked here; unions and tuples are left to the function.
            simple = argument.annotation if argument.annotation in SIMPLE else None
            has_default = argument.default is not inspect.Parameter.empty
            default = argument.default if has_default else NEEDED
            keys[name] = ConfigKey(default, meanings.get(name, ""), simple)
    return keys


def load_config(
    path: str | Path, overrides: Sequence[str] = (), keys: Keys | None = None
) -> ConfigDict:
    """Run `get_config()` of a Python file, and set the values of the command line.

    Args:
      path: a file such as `experiments/demo.py`, which is the user's code and is run; or the name
        of a config of the package, such as `demo`.
      overrides: words of the form `--config.rows.length=1024`. A value is a Python literal, or else
        text.
      keys: every key that the config can have. With it, a word can set keys that the file leaves
        out. A file with another key, or without a needed one, is refused.
    Returns:
      The config, locked: a name that it does not have cannot be set. The files in `plugins`
      (relative
      to the config's folder, or else to the working directory) are loaded; the config then holds
      their
      names and digests.
    Raises:
      UserError: no such file, no `get_config`, code that fails, an unknown name, or a value of
        another type.
    """
    path = find_config(path)
    config = _run(path)
    if KEY not in config:
        config[KEY] = ()  # so that the command line can name plug-ins
    config.lock()
    for word in overrides:
        set_by_word(config, word, keys)
    if keys is not None:
        _check(config, keys, path)
    resolve_plugins(config, path.parent)
    return config


def find_config(path: str | Path) -> Path:
    """The file of a config, by its path or by its name among those of the package.

    Raises:
      UserError: there is neither.
    """
    # A file wins over a config of the package that has the same name.
    if Path(path).is_file():
        return Path(path)
    named = {file.stem: file for file in packaged_configs()}
    if str(path) in named:
        return named[str(path)]
    close = difflib.get_close_matches(Path(path).stem, named, n=1)
    raise UserError(
        f"--config {path}: there is no such file, and no config of that name."
        f" {f'Did you mean {close[0]}?' if close else ''} `mmv configs` lists them."
    )


def packaged_configs() -> list[Path]:
    """The files of the configs that come with the package, sorted by name."""
    room = Path(__file__).resolve().parent
    # In a checkout they are beside the package, in a wheel inside it.
    folders = (room / "experiments", room.parent / "experiments")
    found = next((sorted(f.glob("*.py")) for f in folders if f.is_dir()), [])
    return [path for path in found if path.stem != "__init__"]


def _run(path: Path) -> ConfigDict:
    """The return value of `get_config()` of a file."""
    spec = importlib.util.spec_from_file_location("mmv_config", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        if hasattr(module, "get_config"):
            config = module.get_config()
            assert isinstance(config, ConfigDict), "get_config() returns no ConfigDict"
            return config
    except SyntaxError as error:
        raise UserError(f"--config {path}, line {error.lineno}: {error.msg}.") from error
    except Exception as error:  # the file is the user's code: it may raise anything
        # The last frame in the file itself is the user's line; deeper ones are in libraries.
        stack = traceback.extract_tb(error.__traceback__)
        steps = [step for step in stack if Path(step.filename).absolute() == path.absolute()]
        where = f", line {steps[-1].lineno}" if steps else ""
        raise UserError(f"--config {path}{where}: {type(error).__name__}: {error}.") from error
    raise UserError(
        f"--config {path}: the file has no function get_config(). See experiments/demo.py for"
        " the form."
    )


def set_by_word(config: ConfigDict, word: str, keys: Keys | None = None) -> None:
    """Set one value of a locked config from a word such as `--config.rows.length=1024`.

    Args:
      keys: that may be set although the config does not have them.
    Raises:
      UserError: the name does not exist, or the value has another type.
    """
    name, equals, text = word.removeprefix(PREFIX).partition("=")
    if not word.startswith(PREFIX) or not equals:
        raise UserError(f"{word!r} is not of the form --config.name=value.")
    *groups, leaf = name.split(".")
    key = find_key(keys or {}, name)
    node, names = config, _names(config, keys)
    # Group by group, so that a message names the first part that does not exist.
    for depth, group in enumerate(groups):
        node = _child(node, group, name=".".join(groups[: depth + 1]), key=key, names=names)
    if leaf not in node and key is None:
        raise UserError(f"config.{name} does not exist. {nearest(name, names)}")
    old, new = node.get(leaf), _value(text)
    if isinstance(old, ConfigDict):
        raise UserError(
            f"config.{name} is a group; set one of its values:"
            f" {', '.join(f'config.{name}.{key}' for key in old)}."
        )
    if new is not None and (isinstance(old, str) or (key is not None and key.kind is str)):
        # Text stays text where it looks like a number: a store may be a folder named 2024.
        new = text
    if key is not None and (refusal := key.refusal(new)):
        raise UserError(f"config.{name} {refusal}.")
    try:
        with node.unlocked():
            # ConfigDict itself refuses a value of another type than the old one.
            node[leaf] = new
    except TypeError as error:
        raise UserError(
            f"config.{name} is a {type(old).__name__} ({old!r}), but {text!r} is a"
            f" {type(new).__name__}."
        ) from error


def find_key(keys: Keys, name: str) -> ConfigKey | None:
    """The key of a full name. In `keys`, `*` matches a part of a name that the user chooses."""
    parts = name.split(".")
    for pattern, key in keys.items():
        own = pattern.split(".")
        # `zip` ends with the shorter name; the lengths are compared on the next line.
        same = all(mine in ("*", theirs) for mine, theirs in zip(own, parts))
        if same and (len(own) == len(parts) or (key.is_open and len(own) < len(parts))):
            return key
    return None


def values_of(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Full names and values of a config; an empty group counts as a value."""
    for name, value in config.items():
        if isinstance(value, ConfigDict) and len(value):
            yield from values_of(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _check(config: ConfigDict, keys: Keys, path: Path) -> None:
    """Refuse a config with an unknown key, without a needed one, or with a value of a wrong type.

    Raises:
      UserError: the config has an unknown key, or lacks a needed one, or has a value of a wrong
        type.
    """
    values = dict(values_of(config))
    for name, value in values.items():
        key = find_key(keys, name)
        # `values_of` returns an empty group as a value; a known group may be empty.
        is_group = any(known.startswith(f"{name}.") for known in keys)
        if key is None and not (is_group and isinstance(value, ConfigDict)):
            told = "is a group of values" if is_group else "does not exist"
            raise UserError(f"--config {path}: config.{name} {told}. {nearest(name, keys)}")
        if key is not None and (refusal := key.refusal(value)):
            raise UserError(f"--config {path}: config.{name} {refusal}.")
    asked = [(name, key) for pattern, key in keys.items() for name in _concrete(pattern, config)]
    for name, key in asked:
        if key.default is NEEDED and not key.is_open and name not in values:
            meaning = f" ({key.meaning.rstrip('.')})" if key.meaning else ""
            raise UserError(
                f"--config {path}: config.{name}{meaning} is missing. Set it in the file, or with"
                f" {PREFIX}{name}=VALUE."
            )


def _concrete(pattern: str, config: ConfigDict) -> list[str]:
    """The names that a name with `*` stands for in a config: "tasks.*.kind", a task each."""
    before, star, after = pattern.partition(".*.")
    if not star:
        return [pattern]
    groups = config.get(before)
    return [f"{before}.{own}.{after}" for own in groups or ()]


def to_dict(config: ConfigDict | Mapping) -> dict:
    """The config as plain dicts and lists, as in JSON."""
    return json.loads(to_json(config))


def to_json(config: ConfigDict | Mapping) -> str:
    """The config as JSON, one value a line, in a fixed order."""
    plain = config.to_dict() if isinstance(config, ConfigDict) else dict(config)
    return json.dumps(plain, indent=2, sort_keys=True)


def nearest(name: str, names: Iterable[str]) -> str:
    """A sentence with the names that may be meant, or with all of them."""
    known = sorted(set(names))
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    # The group may be wrong or missing: a value with the same last name is a good guess.
    leaf = name.rpartition(".")[2]
    close = close or [other for other in known if other.rpartition(".")[2] == leaf]
    return f"Did you mean {' or '.join(close)}?" if close else f"There are: {', '.join(known)}."


def _child(
    node: ConfigDict, group: str, name: str, key: ConfigKey | None, names: Iterable[str]
) -> ConfigDict:
    """A group of a config; it is made if it is absent and `key` in it is known."""
    if key is not None and node.get(group) is None:
        with node.unlocked():
            node[group] = ConfigDict()
    child = node.get(group)
    if not isinstance(child, ConfigDict):
        raise UserError(f"config.{name} is no group of this config. {nearest(group, names)}")
    return child


def _value(text: str):
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        # These words as in shells and YAML; anything else is text.
        return {"true": True, "false": False, "none": None}.get(text.lower(), text)


def _names(config: ConfigDict, keys: Keys | None = None) -> list[str]:
    return [*(name for name, _ in values_of(config)), *(keys or ())]


def _meanings(docstring: str) -> dict[str, str]:
    """The text on each name in the sections of a docstring."""
    meanings: dict[str, str] = {}
    names: list[str] = []
    inside = False
    for line in docstring.splitlines():
        # `getdoc` has removed the common indentation:
        # sections stand at 0, names at 2, further lines deeper.
        depth, text = len(line) - len(line.lstrip()), line.strip()
        if depth == 0 and text:
            inside, names = text in SECTIONS, []
        elif inside and depth == 2:
            listed, _, said = text.partition(": ")
            names = [name.strip() for name in listed.split(",")]
            meanings |= dict.fromkeys(names, said)
        elif inside and text:
            # A further line of the entry; names that are listed together share its text.
            meanings |= {name: f"{meanings[name]} {text}".strip() for name in names}
    return meanings
