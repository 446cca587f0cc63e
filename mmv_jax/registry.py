"""Tables of choices by name, which also take entries from outside the package."""

import difflib
from collections.abc import Iterator
from typing import Generic, TypeVar

from mmv_jax.errors import UserError

Entry = TypeVar("Entry")


class Registry(Generic[Entry]):
    """Entries by name, in the order of their registration.

    A plug-in file registers its entries when it is loaded; the package's own entries come first.

    Args:
      name: of an entry in messages, in the singular: "loss term".

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
        """Add an entry and return it.

        A class or function of the same module and name replaces the old one: the file was loaded
        again.

        Raises:
          UserError: the name is taken by another entry.
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
    """Whether two entries are equal, or are the same class or function, perhaps loaded again."""
    return old == new or all(
        # A value without these names is compared itself, and `==` has already found a difference.
        getattr(old, part, old) == getattr(new, part, new)
        for part in ("__module__", "__qualname__")
    )
