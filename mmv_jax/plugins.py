"""Loading of plug-ins: files that a config or `--plugins` names; each registers entries in the
tables.

A plug-in is the user's own Python code, and is run. No other code is: a checkpoint's record of its
plug-ins is compared with the loaded ones, and never run.
"""

import hashlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from mmv_jax.errors import UserError

OURS = "mmv_jax."  # begins the names of the package's modules
MODULE = "mmv_plugin_"  # begins the names of their modules
KEY = "plugins"  # of a config: the user's names, and after loading also the files' digests
_loaded: dict[str, "Plugin"] = {}  # by name: plug-ins whose code has run in this process
_named: dict[str, "Plugin"] = {}  # by name: plug-ins of this command; its workers get them too


@dataclass(frozen=True)
class Plugin:
    """A loaded file. Unpickling loads it, so a worker process gets its code.

    Attributes:
      name: of the file, without its folder.
      source: its bytes, as they were run.
    """

    name: str
    source: bytes

    @property
    def digest(self) -> str:
        """The sha256 of the bytes, 64 hex digits."""
        return hashlib.sha256(self.source).hexdigest()

    @property
    def said(self) -> dict[str, str]:
        """The record of the plug-in in a resolved config and in a checkpoint."""
        return {"name": self.name, "sha256": self.digest}

    def __reduce__(self):
        return _load, (self.name, self.source)


def load_plugins(names: Iterable[str | Path], folder: Path | None = None) -> list[Plugin]:
    """Run each file once in this process; a file that is loaded already is not run again.

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
    """The plug-ins of this command. Send them to a worker process before any object of theirs."""
    return tuple(_named.values())


def source_of(entry: object) -> str:
    """The digests of all plug-ins, if an entry of a table is of one; "" for the package's own."""
    if not type(entry).__module__.startswith(MODULE):
        return ""
    # One plug-in may use what another one defines.
    return " ".join(sorted(plugin.digest for plugin in _named.values()))


@contextmanager
def naming_plugin(entry: object, what: str) -> Iterator[None]:
    """Turn an exception in the code of a plug-in into one sentence.

    The package's own mistakes keep their traceback.

    Args:
      entry: of a table.
      what: begins the sentence.
    Raises:
      UserError: code failed, and the entry is none of the package.
    """
    try:
        yield
    except (UserError, OSError):
        raise
    except Exception as error:
        if type(entry).__module__.startswith(OURS):
            raise
        raise UserError(f"{what}: {type(error).__name__}: {error}") from error


def forget_plugins() -> None:
    """Begin a command without plug-ins. Entries that earlier ones registered stay."""
    _named.clear()


def resolve_plugins(config: ConfigDict, folder: Path | None = None) -> None:
    """Load the plug-ins that a config names, and replace them by their names and digests.

    A second call changes nothing.

    Raises:
      UserError: as `load_plugins`; or a file that a resolved config names has changed.
    """
    named = config.get(KEY, ())
    if isinstance(named, str):
        named = (named,)
    fresh = [entry for entry in named if not isinstance(entry, Mapping)]
    # Mappings come from an earlier call: names and digests, to be compared.
    check_plugins({KEY: [entry for entry in named if isinstance(entry, Mapping)]})
    if fresh:
        said = tuple(plugin.said for plugin in load_plugins(fresh, folder))
        with config.unlocked():
            config[KEY] = said
    elif KEY in config and not named:
        with config.unlocked():  # without plug-ins the config stays in its older form
            del config[KEY]


def check_plugins(made_with: Mapping[str, Any]) -> None:
    """Refuse a checkpoint that was made with other plug-ins than the loaded ones; no code is run.

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
                " not named here. Name the file in config.plugins, or with --plugins FILE."
            )
        if _named[name].digest != digest:
            raise UserError(
                f"The plug-in {name} has changed since the checkpoint was made: its sha256 was"
                f" {digest[:12]}… and is {_named[name].digest[:12]}…. Give the file as it was."
            )


def _load(name: str, source: bytes) -> Plugin:
    plugin = Plugin(name, source)
    # Configs, checkpoints and workers know a plug-in by its name, so names must be unique.
    if name in _named and _named[name] != plugin:
        raise UserError(f"Two plug-ins are named {name}. Give one of the files another name.")
    _named[name] = plugin
    # The same bytes have run already, and their entries are in the tables.
    if _loaded.get(name) == plugin:
        return plugin
    # The same module name in every process, so that a worker can unpickle the plug-in's classes.
    module = ModuleType(f"{MODULE}{Path(name).stem}")
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
