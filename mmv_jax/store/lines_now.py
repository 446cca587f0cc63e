"""What a store holds of the lines of manifests that were edited since these were read."""

from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping
from typing import Any

import pandas as pd

from mmv_jax.buckets import is_address
from mmv_jax.manifests.manifest import Manifest
from mmv_jax.readers.deidentify import Key
from mmv_jax.readers.sources import versions_now
from mmv_jax.store.index import LABEL
from mmv_jax.store.quarantine import HEADER
from mmv_jax.store.task import Told

# Columns of the index that a manifest's line is compared with, beside its labels.
COMPARED = frozenset(
    ("manifest", "line", "study", "patient", "split", "modality", "masks", "unit")
    + ("spacing_x", "stamp", "content")
)


class StoredRows:
    """What a line is compared with, study by study.

    A dictionary a study would take more memory than all else of an ingest.
    """

    def __init__(self, index: pd.DataFrame):
        names = [str(n) for n in index if n in COMPARED or str(n).startswith(LABEL)]
        self._columns = {name: index[name].to_numpy() for name in names}
        self._at = {study: n for n, study in enumerate(index["study"])}

    def __len__(self) -> int:
        return len(self._at)

    def of(self, study: str) -> Mapping[Hashable, Any]:
        """The columns of a study; none where the store does not hold it."""
        at = self._at.get(study)
        return {} if at is None else {name: cells[at] for name, cells in self._columns.items()}


def versions_of_stored(rows: StoredRows, manifests: Iterable[Manifest], key: Key) -> dict[str, str]:
    """Versions of the objects in buckets that lines of stored studies name, see `Source`."""
    if not len(rows):
        return {}
    return versions_now(
        str(path)
        for manifest in manifests
        for line in manifest.lines
        if any(map(is_address, (line.path, *line.masks.values())))
        and rows.of(key.hash("study", line.study_id))
        for path in (line.path, *line.masks.values())
        if is_address(path)
    )


def gone_from(
    index: pd.DataFrame, manifests: Mapping[int, Manifest], named: Collection[str]
) -> Iterator[Told]:
    """A warning for each manifest that no longer has the lines of studies that the store holds.

    Args:
      manifests: by their number in the store.
      named: studies of their lines, refused or not.
    """
    gone = index[index["manifest"].isin(list(manifests)) & ~index["study"].isin(named)]
    # Of a line that is refused now the quarantine speaks.
    refused = {(n, line.number) for n, manifest in manifests.items() for line in manifest.refused}
    places = zip(gone["manifest"].tolist(), gone["line"].tolist())
    counts = Counter(place[0] for place in places if place not in refused)
    for ordinal, count in sorted(counts.items()):
        what = f"{count} studies of the store are on no line of it now; mmv remove takes out"
        yield Told((ordinal, HEADER), "line_gone", f"{what} what shall not stay")
