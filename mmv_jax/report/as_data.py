"""Dataclasses as JSON values, and back."""

import math
import typing
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any


def to_data(value: Any, kinds: Mapping[str, type]) -> Any:
    """A dataclass as a mapping of its fields.

    A field that is None is left out. A number that is not defined becomes null, since JSON has no
    NaN. An instance of one of `kinds` is marked by its name.
    """
    if is_dataclass(value) and not isinstance(value, type):
        named = {f.name: getattr(value, f.name) for f in fields(value)}
        # None is left out and NaN is null, so that `from_data` can tell them apart.
        data = {name: to_data(v, kinds) for name, v in named.items() if v is not None}
        kind = next((name for name, cls in kinds.items() if type(value) is cls), None)
        return {"kind": kind, **data} if kind else data
    if isinstance(value, (list, tuple)):
        return [to_data(part, kinds) for part in value]
    if isinstance(value, (bool, str, int)):
        return value
    # NumPy's numbers become Python's, which JSON can write.
    number = float(value)
    return number if math.isfinite(number) else None


def from_data(cls: type, data: Any, kinds: Mapping[str, type], parts: Sequence[type]) -> Any:
    """An instance of `cls` from the output of `to_data`; sequences become tuples.

    Args:
      parts: dataclasses, beside `kinds`, that fields of others may hold.
    Raises:
      ValueError: the data has a field that its dataclass does not have.
    """
    # By name: JSON marks only `kinds`; the type of a field gives the other dataclasses.
    known = {c.__name__: c for top in (*kinds.values(), *parts) for c in (top, *_within(top))}
    return _built(cls, data, kinds, known)


def _built(cls: type, data: Any, kinds: Mapping[str, type], known: Mapping[str, type]) -> Any:
    inner = _inner(cls)
    names = {f.name for f in fields(cls)}
    # Refuse a page of another version rather than read a part of it.
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
    """The name of the dataclass in each field that holds a sequence of them."""
    found = {}
    for name, hint in typing.get_type_hints(cls).items():
        # With two possible dataclasses the type is ambiguous: then each value has a kind.
        held = [a for a in _arguments(hint) if isinstance(a, type) and is_dataclass(a)]
        if len(held) == 1:
            found[name] = held[0].__name__
    return found


def _arguments(hint: Any) -> list[Any]:
    """All types within a type, itself included."""
    return [hint, *(found for a in typing.get_args(hint) for found in _arguments(a))]


def _within(cls: type) -> list[type]:
    """The dataclasses within a dataclass, at any depth."""
    own = [
        a
        for hint in typing.get_type_hints(cls).values()
        for a in _arguments(hint)
        if is_dataclass(a) and isinstance(a, type)
    ]
    return [*own, *(deeper for c in own for deeper in _within(c))]
