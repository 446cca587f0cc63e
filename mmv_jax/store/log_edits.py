"""What `quarantine.jsonl` and `warnings.jsonl` keep where studies are removed from a store, dealt
to other splits, or joined with those of another store.
"""

from collections.abc import Mapping

import pandas as pd
import tensorstore as ts

from mmv_jax.store.layout import QUARANTINE, WARNINGS
from mmv_jax.store.leaks import leaks
from mmv_jax.store.quarantine import (
    LEAKS,
    OF_COLUMNS,
    Quarantine,
    read_quarantine,
    told_entries,
)
from mmv_jax.store.task import Place


def places_of(index: pd.DataFrame) -> dict[Place, str]:
    """The study on each line of a manifest, as an index has them."""
    lines = zip(index["manifest"].tolist(), index["line"].tolist())
    return dict(zip(lines, index["study"]))


def forget_warnings(root: ts.KvStore, gone: pd.DataFrame, left: pd.DataFrame) -> None:
    """Drops the warnings of studies that go, and those of manifests of which none is left.

    Args:
      gone, left: lines of the index.
    """
    places, studies = places_of(gone), set(gone["study"])
    emptied = set(gone["manifest"]) - set(left["manifest"])
    warnings = Quarantine(root, WARNINGS)
    warnings.keep(
        lambda entry: (
            entry["manifest"] not in emptied
            and entry.get("study") not in studies
            and (entry["code"] in OF_COLUMNS or (entry["manifest"], entry["line"]) not in places)
        )
    )
    warnings.write()


def retell_leaks(root: ts.KvStore, index: pd.DataFrame) -> None:
    """Looks for leaks between splits anew: the other one of a pair may be gone, or moved."""
    warnings = Quarantine(root, WARNINGS)
    # Of every manifest: which pairs a change has made or parted cannot be told from its own lines.
    warnings.keep(lambda entry: entry["code"] not in LEAKS)
    for told in leaks(index, set(index["manifest"])):
        warnings.add(told)
    warnings.write()


def new_logs(root: ts.KvStore) -> dict[str, Quarantine]:
    """Empty logs of a store, by the names of their files."""
    for name in (QUARANTINE, WARNINGS):
        root.write(name, None).result()
    return {name: Quarantine(root, name) for name in (QUARANTINE, WARNINGS)}


def take_entries(
    logs: Mapping[str, Quarantine],
    root: ts.KvStore,
    index: pd.DataFrame,
    numbers: Mapping[int, int],
) -> None:
    """Writes what another store refused and warned of into the logs of a joined one.

    Args:
      index: of the studies that are taken from the other store.
      numbers: of its manifests in the joined store.
    """
    studies, places = set(index["study"]), places_of(index)
    for name, log in logs.items():
        entries = read_quarantine(root, name)
        # An ingest that was killed has left them in its parts.
        entries += told_entries(root) if name == WARNINGS else []
        for entry in entries:
            is_own = entry.get("study") in studies or (entry["manifest"], entry["line"]) in places
            if name == QUARANTINE or entry["code"] in OF_COLUMNS or is_own:
                log.put(entry | {"manifest": numbers.get(entry["manifest"], entry["manifest"])})
        log.write()
