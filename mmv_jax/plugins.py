"""Loads the files that a config or `--plugins` names; each registers entries in the tables.

A plug-in is Python of the user's own, and is run. Nothing else is: what a checkpoint says of the
plug-ins that it was made with is compared with those that are loaded, and never run.
"""

import hashlib
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from mmv_jax.errors import UserError

KEY = "plugins"  # of a config: what the user names, and once it is loaded, what those files were
_loaded: dict[str, "Plugin"] = {}  # by name: whose code has run in this process
_named: dict[str, "Plugin"] = {}  # by name: what this command names, and its workers get


@dataclass(frozen=True)
class Plugin:
    """A loaded file. To unpickle one loads it: what a worker process is sent comes with its code.

    Attributes:
      name: of the file, without its folder.
      source: its bytes, as they were run.
    """

    name: str
    source: bytes

    @property
    def digest(self) -> str:
        """sha256 of the bytes, 64 hex digits."""
        return hashlib.sha256(self.source).hexdigest()

    @property
    def said(self) -> dict[str, str]:
        """What a resolved config and a checkpoint say of it."""
        return {"name": self.name, "sha256": self.digest}

    def __reduce__(self):
        return _load, (self.name, self.source)


def load_plugins(names: Iterable[str | Path], folder: Path | None = None) -> list[Plugin]:
    """Runs each file once in this process; a file that is loaded already is left alone.

    Args:
      names: of files; absolute, or relative to `folder`, or else to the working directory.
      folder: that of the config that names them; None for the command line's.
    Raises:
      UserError: there is no such file, it fails while it runs, or registers a name that is taken.
    """
    plugins = []
    for name in names:
        # An absolute `name` replaces the folder in `Path(folder, name)`.
        places = [Path(folder, name)] if folder is not None else []
        path = next((place for place in (*places, Path(name)) if place.is_file()), None)
        if path is None:
            raise UserError(
                f"The plug-in {name} is neither in the config's folder nor in the working"
                " directory. Give its path."
            )
        plugins.append(_load(path.name, path.read_bytes()))
    return plugins


def named_plugins() -> tuple[Plugin, ...]:
    """What this command has named. Send it to a worker process before what is made of it."""
    return tuple(_named.values())


def forget_plugins() -> None:
    """Begins a command that has named no plug-in yet. What earlier ones registered stays."""
    _named.clear()


def resolve_plugins(config: ConfigDict, folder: Path | None = None) -> None:
    """Loads the plug-ins that a config names, and puts their names and digests in their place.

    Doing so twice changes nothing.

    Raises:
      UserError: as `load_plugins`; or a file that a resolved config names has changed.
    """
    named = config.get(KEY, ())
    if isinstance(named, str):
        named = (named,)
    fresh = [entry for entry in named if not isinstance(entry, Mapping)]
    # Mappings are what an earlier call has put there: names and digests, to be compared.
    check_plugins({KEY: [entry for entry in named if isinstance(entry, Mapping)]})
    if fresh:
        said = tuple(plugin.said for plugin in load_plugins(fresh, folder))
        with config.unlocked():
            config[KEY] = said
    elif KEY in config and not named:
        with config.unlocked():  # a config that names none is that of before there were any
            del config[KEY]


def check_plugins(made_with: Mapping[str, Any]) -> None:
    """Refuses what was made with plug-ins other than those that are loaded; runs no code.

    Args:
      made_with: the config that a checkpoint carries.
    Raises:
      UserError: a plug-in is missing, or has changed.
    """
    for entry in made_with.get(KEY) or ():
        name, digest = entry["name"], entry["sha256"]
        if name not in _named:
            raise UserError(
                f"The checkpoint was made with the plug-in {name} (sha256 {digest[:12]}…), which is"
                " not named here: name the file in config.plugins, or with --plugins FILE."
            )
        if _named[name].digest != digest:
            raise UserError(
                f"The plug-in {name} has changed since the checkpoint was made: its sha256 was"
                f" {digest[:12]}… and is {_named[name].digest[:12]}…; give the file as it was."
            )


def _load(name: str, source: bytes) -> Plugin:
    plugin = Plugin(name, source)
    # A plug-in is known by its name in configs, checkpoints and workers, so names must be unique.
    if name in _named and _named[name] != plugin:
        raise UserError(f"Two plug-ins are named {name}. Give one of the files another name.")
    _named[name] = plugin
    # The same bytes have run already, and their entries are in the tables.
    if _loaded.get(name) == plugin:
        return plugin
    # One name in every process, so that what a worker is sent finds its class again.
    module = ModuleType(f"mmv_plugin_{Path(name).stem}")
    module.__file__ = name
    # Before the code runs: dataclasses and pickle look their module up by name.
    sys.modules[module.__name__] = module
    try:
        exec(compile(source, name, "exec"), module.__dict__)
    except UserError as error:
        raise UserError(f"The plug-in {name}: {error}") from None
    except Exception as error:
        raise UserError(
            f"The plug-in {name} failed while it was loaded: {type(error).__name__}: {error}"
        ) from error
    _loaded[name] = plugin
    return plugin
