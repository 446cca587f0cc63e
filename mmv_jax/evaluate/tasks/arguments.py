"""The forms that arguments of a task have in a config."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmv_jax.errors import UserError


def named(value: Any, asked_by: str, *, known: Sequence[str] = ()) -> Mapping[str, Any]:
    """A group of named values; an absent one is empty.

    Args:
      known: the names that there are; none where they are the user's own.
    Raises:
      UserError: it is no group, or has another name.
    """
    if value is None:
        return {}
    there = f"with {', '.join(known)}, or empty" if known else "such as {'NAME': ...}"
    if not isinstance(value, Mapping):
        raise UserError(f"{asked_by} is {value!r}, but must be a dict {there}.")
    if known and (unknown := [name for name in value if name not in known]):
        raise UserError(f"{asked_by}.{unknown[0]} does not exist. Write a dict {there}.")
    return value


def names_among(value: Any, asked_by: str, known: Sequence[str]) -> tuple[str, ...]:
    """A list of names of `known`, each once.

    Raises:
      UserError: it is no list, or has another name.
    """
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
        listed = ", ".join(map(repr, known))
        raise UserError(f"{asked_by} is {value!r}, but must be a list of names: ({listed}).")
    if unknown := [name for name in value if name not in known]:
        raise UserError(f"{asked_by}: {unknown[0]!r} is not known. There are: {', '.join(known)}.")
    return tuple(dict.fromkeys(value))


def whole_numbers(value: Any, asked_by: str) -> tuple[int, ...]:
    """One whole number or a list of them, as a tuple.

    Raises:
      UserError: it is neither, or empty.
    """
    found = tuple(value) if isinstance(value, list | tuple) else (value,)
    if not found or not all(isinstance(n, int) and not isinstance(n, bool) for n in found):
        raise UserError(f"{asked_by} is {value!r}, but must be whole numbers: values of the mask.")
    return found


def whole_numbers_of(value: Any, asked_by: str) -> dict[str, tuple[int, ...]]:
    """A group of `whole_numbers`."""
    return {key: whole_numbers(x, f"{asked_by}.{key}") for key, x in named(value, asked_by).items()}
