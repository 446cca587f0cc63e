"""Tables of what can be chosen by name, which take entries from outside the package too."""

import difflib
from collections.abc import Iterator
from typing import Generic, TypeVar

from mmv_jax.errors import UserError

Entry = TypeVar("Entry")


class Registry(Generic[Entry]):
    """Entries by name, in the order in which they were registered.

    A plug-in file registers its own when it is loaded; the package's own entries stand first.

    Args:
      name: what an entry is, in the singular, as a message says it: "loss term".

    Example:
      >>> shapes = Registry("shape")
      >>> shapes.register("square", 4)
      4
      >>> shapes["square"], "circle" in shapes, list(shapes)
      (4, False, ['square'])
    """

    def __init__(self, name: str):
        self.name = name
        self._entries: dict[str, Entry] = {}

    def register(self, name: str, entry: Entry) -> Entry:
        """Adds an entry and returns it.

        Raises:
          UserError: the name is taken. A class or function of the same module and name is no other
            entry: a file that is loaded again replaces its own.
        """
        if name in self._entries and not _same(self._entries[name], entry):
            raise UserError(
                f"There is already a {self.name} named {name!r}. Register yours under another name."
            )
        self._entries[name] = entry
        return entry

    def __getitem__(self, name: str) -> Entry:
        """The entry of a name.

        Raises:
          UserError: there is none; the message has the nearest name.
        """
        if name in self._entries:
            return self._entries[name]
        close = difflib.get_close_matches(name, self._entries, n=1, cutoff=0.5)
        known = f"There are: {', '.join(self._entries) or 'none'}."
        raise UserError(
            f"There is no {self.name} named {name!r}."
            f" {f'Did you mean {close[0]}?' if close else known}"
            " A file that config.plugins names can register one."
        )

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def items(self) -> Iterator[tuple[str, Entry]]:
        """Pairs of a name and its entry."""
        yield from self._entries.items()


def _same(old: object, new: object) -> bool:
    """Whether two entries are equal, or the same class or function, perhaps loaded again."""
    return old == new or all(
        # A value without these names stands for itself, and `==` has already said that it differs.
        getattr(old, part, old) == getattr(new, part, new)
        for part in ("__module__", "__qualname__")
    )
