"""The index of a part: one Parquet file, a line a study, whose name carries the checksum of its
content; and that of all parts together.
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

# then eight hex digits of crc32c: the format's own page checksums leave its headers and its footer
# uncovered
INDEX = "index-"
WHOLE = "index/"  # a folder of one file

LABEL = "label_"


class Corrupt(WorkFailed):
    """What was written does not pass its checksums, or is gone."""


def write_index(root: ts.KvStore, part: str, lines: list[dict]) -> None:
    """Writes the index of a part, in one piece; from then on the part is there."""
    _write(root, part_prefix(part), pd.DataFrame(lines), f"part {part}")


def write_whole_index(root: ts.KvStore) -> None:
    """Writes the indices of all finished parts as one file more, so that opening a store of 100,000
    parts reads one file and lists none of them.
    """
    # The name carries a checksum, so a new file would stand beside the old one.
    remove_whole_index(root)
    index = read_index(root)
    if not index.empty:
        _write(root, WHOLE, index, "the index of all parts")


def remove_whole_index(root: ts.KvStore) -> None:
    """Before parts are added or taken away: what is left tells the truth, if more slowly."""
    root.delete_range(prefix_range(WHOLE)).result()


def read_whole_index(root: ts.KvStore) -> pd.DataFrame:
    """As `read_index` of all parts; from the one file of `write_whole_index`, where the last ingest
    has ended with it and it is undamaged.
    """
    keys = root.list(prefix_range(WHOLE)).result()
    content = root.read(keys[0]).result().value if len(keys) == 1 else b""
    # Gone, doubled or damaged: the parts themselves hold the same lines.
    if not content or not _is_whole(keys[0].decode(), content):
        return read_index(root)
    return pq.read_table(io.BytesIO(content)).to_pandas()


def finished_parts(root: ts.KvStore, part: str | None = None) -> dict[str, str]:
    """Where the index of every finished part is (or of `part`, if it is finished), by part."""
    prefix = PARTS if part is None else part_prefix(part)
    keys = [key.decode() for key in root.list(prefix_range(prefix)).result()]
    # A key is parts/NAME/FILE.
    return {key.split("/")[1]: key for key in sorted(keys) if key.split("/")[2].startswith(INDEX)}


def read_index(root: ts.KvStore, part: str | None = None) -> pd.DataFrame:
    """The indices of all finished parts (or of `part`) as one, sorted by manifest and line; without
    a line where there is none.

    Raises:
      Corrupt: the content of an index is not that which its name says.
    """
    # all at once: each is a small file
    answers = {name: (key, root.read(key)) for name, key in finished_parts(root, part).items()}
    tables = [_table(name, key, answer.result().value) for name, (key, answer) in answers.items()]
    if not tables:
        return pd.DataFrame({"study": [], "patient": [], "split": [], "manifest": [], "line": []})
    _agree(tables)
    return _filled(
        # The order of parts is that of hashed names; that of manifests stays when parts are added.
        pd.concat(tables).sort_values(["manifest", "line"], kind="stable").reset_index(drop=True)
    )


def damaged_indices(root: ts.KvStore) -> list[str]:
    """A line for each part whose index is damaged. `read_whole_index` does not notice, the next
    ingest does.
    """
    faults = []
    for part, key in finished_parts(root).items():
        try:
            _table(part, key, root.read(key).result().value)
        except Corrupt as error:
            faults.append(str(error))
    return faults


def carried_kinds(index: pd.DataFrame) -> dict[str, type]:
    """The type (float or str) of each label that an index holds, by the name that the manifests
    gave it.
    """
    # A column of NaN alone looks numeric and says nothing of its type.
    filled = index.loc[:, index.notna().any()]
    return {
        c.removeprefix(LABEL): float if is_numeric_dtype(filled[c]) else str
        for c in map(str, filled)
        if c.startswith(LABEL)
    }


def _agree(tables: list[pd.DataFrame]) -> None:
    """Makes text of the numbers of a label that is text in another part: a later manifest can have
    words where an earlier one had numbers.
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


def _write(root: ts.KvStore, prefix: str, lines: pd.DataFrame, name: str) -> None:
    # In memory first: the checksum is part of the name, and a store writes whole values.
    file = io.BytesIO()
    try:
        table = pa.Table.from_pandas(lines, preserve_index=False)
    except pa.ArrowException:  # its message quotes a cell
        raise ValueError(f"{name}: the lines do not agree in the type of a column") from None
    pq.write_table(table, file, compression="zstd")
    content = file.getvalue()
    root.write(f"{prefix}{INDEX}{google_crc32c.value(content):08x}.parquet", content).result()


def _is_whole(key: str, content: bytes) -> bool:
    return f"{google_crc32c.value(content):08x}" in key


def _filled(index: pd.DataFrame) -> pd.DataFrame:
    """None where a column that holds no numbers has nothing, whichever parts lack it."""
    for column in index.select_dtypes(exclude=["number", "bool"]):
        # pandas 3 reads text as `str`, which cannot hold None
        cells = index[column].astype(object)
        index[column] = cells.where(cells.notna(), None)
    return index
