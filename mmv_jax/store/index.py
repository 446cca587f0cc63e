"""Index of a part: a Parquet file with one line a study; and the index of all parts together.

The file name carries the checksum of the content.
"""

import io

import google_crc32c
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import tensorstore as ts
from pandas.api.types import is_numeric_dtype

from mmv_jax.errors import WorkFailed
from mmv_jax.store.layout import PARTS, part_prefix, prefix_range

# Followed by eight hex digits of crc32c: Parquet's own page checksums do not cover its headers and
# footer.
INDEX = "index-"
WHOLE = "index/"  # a folder of one file

LABEL = "label_"


class Corrupt(WorkFailed):
    """Stored data do not pass their checksums, or are missing."""


def write_index(root: ts.KvStore, part: str, lines: list[dict]) -> None:
    """Write the index of a part in one piece. From then on the part exists for readers."""
    _write(root, part_prefix(part), pd.DataFrame(lines), f"part {part}")


def replace_index(root: ts.KvStore, part: str, lines: pd.DataFrame) -> None:
    """Writes the index of a part anew, then takes away what was there before."""
    # `part` is no column of a part's own index: `read_index` adds it.
    kept = lines.drop(columns="part", errors="ignore")
    name = _write(root, part_prefix(part), kept, f"part {part}")
    for key in root.list(prefix_range(part_prefix(part))).result():
        if key.decode().split("/")[2].startswith(INDEX) and key.decode() != name:
            root.write(key, None).result()


def remove_older_indices(root: ts.KvStore) -> None:
    """Removes what a killed `replace_index` left: a second index beside the one that is read."""
    current = set(finished_parts(root).values())
    for key in map(bytes.decode, root.list(prefix_range(PARTS)).result()):
        if key.split("/")[2].startswith(INDEX) and key not in current:
            root.write(key, None).result()


def write_whole_index(root: ts.KvStore) -> int:
    """Write the indices of all finished parts into one more file; return the number of studies.

    Opening a store of 100,000 parts then reads one file and lists none of them.
    """
    # The name carries a checksum, so a new file would stand beside the old one.
    remove_whole_index(root)
    index = read_index(root)
    if not index.empty:
        _write(root, WHOLE, index, "the index of all parts")
    return len(index)


def remove_whole_index(root: ts.KvStore) -> None:
    """Delete the index of all parts, before parts are added or removed.

    The indices of the parts remain valid, but are slower to read.
    """
    root.delete_range(prefix_range(WHOLE)).result()


def whole_index_keys(root: ts.KvStore) -> list[str]:
    """The key of the index of all parts, which carries its checksum; empty where there is none."""
    return [key.decode() for key in root.list(prefix_range(WHOLE)).result()]


def read_whole_index(root: ts.KvStore) -> pd.DataFrame:
    """Index of all parts, as from `read_index`.

    It comes from the file of `write_whole_index` if that exists and is undamaged.
    """
    keys = whole_index_keys(root)
    content = root.read(keys[0]).result().value if len(keys) == 1 else b""
    # If missing, doubled or damaged: the parts themselves hold the same lines.
    if not content or not _is_whole(keys[0], content):
        return read_index(root)
    return pq.read_table(io.BytesIO(content)).to_pandas()


def finished_parts(root: ts.KvStore, part: str | None = None) -> dict[str, str]:
    """Key of the index of every finished part, or only of `part`, by the part's name."""
    prefix = PARTS if part is None else part_prefix(part)
    keys = [key.decode() for key in root.list(prefix_range(prefix)).result()]
    # A key is parts/NAME/FILE.
    return {key.split("/")[1]: key for key in sorted(keys) if key.split("/")[2].startswith(INDEX)}


def read_index(root: ts.KvStore, part: str | None = None) -> pd.DataFrame:
    """Indices of all finished parts (or of `part`) as one table, sorted by manifest and line.

    The table is empty if there is no finished part.

    Raises:
      Corrupt: the content of an index does not match the checksum in its name.
    """
    # All at once: each is a small file.
    answers = {name: (key, root.read(key)) for name, key in finished_parts(root, part).items()}
    tables = [_table(name, key, answer.result().value) for name, (key, answer) in answers.items()]
    if not tables:
        return pd.DataFrame({"study": [], "patient": [], "split": [], "manifest": [], "line": []})
    _agree(tables)
    return _filled(
        # Parts are ordered by hashed names. The order of manifests stays when parts are added.
        pd.concat(tables).sort_values(["manifest", "line"], kind="stable").reset_index(drop=True)
    )


def damaged_indices(root: ts.KvStore) -> list[str]:
    """Message for each part whose index is damaged.

    `read_whole_index` does not notice such damage, but the next ingest does.
    """
    faults = []
    for part, key in finished_parts(root).items():
        try:
            _table(part, key, root.read(key).result().value)
        except Corrupt as error:
            faults.append(str(error))
    return faults


def carried_kinds(index: pd.DataFrame) -> dict[str, type]:
    """Type (float or str) of each label in an index, by its name in the manifests."""
    # A column of NaN only looks numeric and does not reveal its type.
    filled = index.loc[:, index.notna().any()]
    return {
        c.removeprefix(LABEL): float if is_numeric_dtype(filled[c]) else str
        for c in map(str, filled)
        if c.startswith(LABEL)
    }


def carried_texts(index: pd.DataFrame) -> dict[str, set[str]]:
    """The values of each label that holds texts, by its name in the manifests."""
    kinds = carried_kinds(index)
    return {name: set(index[LABEL + name].dropna()) for name, kind in kinds.items() if kind is str}


def _agree(tables: list[pd.DataFrame]) -> None:
    """Convert a numeric label to text if another part has it as text.

    A later manifest can have words where an earlier one had numbers.
    """
    kinds = [carried_kinds(table) for table in tables]
    for name in {name for own in kinds for name, kind in own.items() if kind is str}:
        for table, own in zip(tables, kinds):
            if own.get(name) is float:
                # 15 digits survive float64 unchanged, and 1.0 becomes "1".
                table[LABEL + name] = table[LABEL + name].map(
                    lambda x: f"{x:.15g}", na_action="ignore"
                )


def _table(part: str, key: str, content: bytes) -> pd.DataFrame:
    if not _is_whole(key, content):
        raise Corrupt(
            f"The index of part {part} is damaged. Remove the folders parts/{part} and index from"
            " the store and ingest again."
        )
    return pq.read_table(io.BytesIO(content)).to_pandas().assign(part=part)


def _write(root: ts.KvStore, prefix: str, lines: pd.DataFrame, name: str) -> str:
    """Writes an index; returns its key."""
    # In memory first: the checksum is part of the name, and a store writes whole values.
    file = io.BytesIO()
    try:
        table = pa.Table.from_pandas(lines, preserve_index=False)
    except pa.ArrowException:  # its message quotes a cell
        raise ValueError(f"{name}: the lines do not agree in the type of a column") from None
    pq.write_table(table, file, compression="zstd")
    content = file.getvalue()
    key = f"{prefix}{INDEX}{google_crc32c.value(content):08x}.parquet"
    root.write(key, content).result()
    return key


def _is_whole(key: str, content: bytes) -> bool:
    return f"{google_crc32c.value(content):08x}" in key


def _filled(index: pd.DataFrame) -> pd.DataFrame:
    """Index with None in every empty cell of a non-numeric column."""
    for column in index.select_dtypes(exclude=["number", "bool"]):
        # pandas 3 reads text as `str`, which cannot hold None
        cells = index[column].astype(object)
        index[column] = cells.where(cells.notna(), None)
    return index
