"""Columns and classes that several manifests of one store spell differently, so that one finding is
two labels, or one class is two.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import product

import pandas as pd

from mmv_jax.manifests.manifest import Manifest
from mmv_jax.missing import is_missing
from mmv_jax.store.index import carried_kinds, carried_texts
from mmv_jax.store.quarantine import HEADER
from mmv_jax.store.spelled_twice import spelled_twice
from mmv_jax.store.task import Told

MOST_NAMES = 300  # columns of a store that are compared, pair by pair


def odd_across(
    index: pd.DataFrame,
    manifests: Mapping[int, Manifest],
    chosen: Mapping[int, tuple[Mapping[str, type], Sequence[str]]],
) -> Iterator[Told]:
    """Warnings about manifests whose columns or classes the store, or an earlier manifest, has in
    another spelling.

    Args:
      index: of the store, without what is taken in now.
      chosen: of each manifest, the columns that are carried with their types, and the others.
    """
    # In the order of their numbers: each is compared with the store and what came before it.
    names = dict.fromkeys(carried_kinds(index))
    texts = {name: Counter(values) for name, values in carried_texts(index).items()}
    for ordinal, (columns, _) in chosen.items():
        for name, how in _other_names(list(columns), list(names)):
            what = f"{name} is a column of its own beside one that differs in spelling: {how}"
            yield Told((ordinal, HEADER), "odd_column", what)
        own = _texts(manifests[ordinal], columns)
        for name in sorted(own.keys() & texts.keys()):
            # What is told of the one manifest alone need not be told again.
            if spelled_twice(own[name]) or spelled_twice(texts[name]):
                continue
            if how := spelled_twice(own[name] + texts[name]):
                what = (
                    f"{name} has classes that other manifests of the store spell otherwise: {how}"
                )
                yield Told((ordinal, HEADER), "odd_column", what)
        names |= dict.fromkeys(columns)
        for name, counts in own.items():
            texts[name] = texts.get(name, Counter()) + counts


def _other_names(own: list[str], others: list[str]) -> Iterator[tuple[str, str]]:
    """Each new name that is an earlier one in another spelling, and how it differs."""
    new = [name for name in own if name not in others]
    # A name that the manifest has in both spellings is told once, of the first of them.
    gone = [name for name in others if name not in own]
    if len(new) * len(gone) > MOST_NAMES**2:
        return
    for name, other in product(new, gone):
        if how := spelled_twice({name: 1, other: 1}):
            yield name, how


def _texts(manifest: Manifest, columns: Mapping[str, type]) -> dict[str, Counter[str]]:
    """How often each value of the columns of text occurs."""
    return {
        name: Counter(
            line.labels[name].strip()
            for line in manifest.lines
            if name in line.labels and not is_missing(line.labels[name])
        )
        for name, kind in columns.items()
        if kind is str
    }
