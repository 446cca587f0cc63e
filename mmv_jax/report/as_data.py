"""Dataclasses to values that JSON knows, and back."""

import math
import typing
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any


def to_data(value: Any, kinds: Mapping[str, type]) -> Any:
    """A dataclass as a mapping of its fields.

    A field that is None is left out, and a number that is not defined becomes null, since JSON has
    no word for it. An instance of one of `kinds` is marked by its name.
    """
    if is_dataclass(value) and not isinstance(value, type):
        named = {f.name: getattr(value, f.name) for f in fields(value)}
        # None is left out and NaN is null, so that the way back can tell them apart.
        data = {name: to_data(v, kinds) for name, v in named.items() if v is not None}
        kind = next((name for name, cls in kinds.items() if type(value) is cls), None)
        return {"kind": kind, **data} if kind else data
    if isinstance(value, (list, tuple)):
        return [to_data(part, kinds) for part in value]
    if isinstance(value, (bool, str, int)):
        return value
    # NumPy's numbers too, which JSON does not know.
    number = float(value)
    return number if math.isfinite(number) else None


def from_data(cls: type, data: Any, kinds: Mapping[str, type], parts: Sequence[type]) -> Any:
    """The inverse of `to_data`: an instance of `cls`; sequences become tuples.

    Args:
      parts: dataclasses that may stand in the fields of others, beside `kinds`.
    """
    # By name: JSON marks only `kinds`; other dataclasses follow from the type of their field.
    known = {c.__name__: c for top in (*kinds.values(), *parts) for c in (top, *_within(top))}
    return _built(cls, data, kinds, known)


def _built(cls: type, data: Any, kinds: Mapping[str, type], known: Mapping[str, type]) -> Any:
    inner = _inner(cls)
    names = {f.name for f in fields(cls)}
    # A page of another version is refused, not read in part.
    if unknown := set(data) - names - {"kind"}:
        raise ValueError(f"{cls.__name__} has no {', '.join(sorted(unknown))}")
    return cls(
        **{
            name: _value(value, inner.get(name, ""), kinds, known=known)
            for name, value in data.items()
            if name != "kind"
        }
    )


def _value(value: Any, inner: str, kinds: Mapping[str, type], *, known: Mapping[str, type]) -> Any:
    if value is None:
        return math.nan
    if isinstance(value, dict):
        cls = kinds[value["kind"]] if "kind" in value else known[inner]
        return _built(cls, value, kinds, known)
    if isinstance(value, list):
        return tuple(_value(part, inner, kinds, known=known) for part in value)
    return value


@cache
def _inner(cls: type) -> dict[str, str]:
    """By field, the name of the dataclass that it holds a sequence of."""
    found = {}
    for name, hint in typing.get_type_hints(cls).items():
        # A field with two possible dataclasses is not guessed: its values bear a kind.
        held = [a for a in _arguments(hint) if isinstance(a, type) and is_dataclass(a)]
        if len(held) == 1:
            found[name] = held[0].__name__
    return found


def _arguments(hint: Any) -> list[Any]:
    """All types within a type."""
    return [hint, *(found for a in typing.get_args(hint) for found in _arguments(a))]


def _within(cls: type) -> list[type]:
    """The dataclasses that a dataclass holds, at any depth."""
    own = [
        a
        for hint in typing.get_type_hints(cls).values()
        for a in _arguments(hint)
        if is_dataclass(a) and isinstance(a, type)
    ]
    return [*own, *(deeper for c in own for deeper in _within(c))]
