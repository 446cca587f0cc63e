"""The index of a part: one Parquet file, a line a study, whose name carries the checksum of its content."""

import io

import google_crc32c
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import tensorstore as ts
from pandas.api.types import is_numeric_dtype

from mmv_jax.errors import WorkFailed
from mmv_jax.store.layout import PARTS, part_prefix, prefix_range

INDEX = "index-"  # then eight hex digits of crc32c: the format's own page checksums leave its headers and its footer uncovered


LABEL = "label_"


class Corrupt(WorkFailed):
    """What was written does not pass its checksums, or is gone."""


def write_index(root: ts.KvStore, part: str, lines: list[dict]) -> None:
    """Writes the index of a part, in one piece; from then on the part is there."""
    file = io.BytesIO()
    try:
        table = pa.Table.from_pandas(pd.DataFrame(lines), preserve_index=False)
    except pa.ArrowException:  # its message quotes a cell
        raise ValueError(f"part {part}: the lines do not agree in the type of a column") from None
    pq.write_table(table, file, compression="zstd")
    content = file.getvalue()
    root.write(f"{part_prefix(part)}{INDEX}{google_crc32c.value(content):08x}.parquet", content).result()


def finished_parts(root: ts.KvStore, part: str | None = None) -> dict[str, str]:
    """Where the index of every finished part is (or of `part`, if it is finished), by part."""
    prefix = PARTS if part is None else part_prefix(part)
    keys = [key.decode() for key in root.list(prefix_range(prefix)).result()]
    return {key.split("/")[1]: key for key in sorted(keys) if key.split("/")[2].startswith(INDEX)}


def read_index(root: ts.KvStore, part: str | None = None) -> pd.DataFrame:
    """The indices of all finished parts (or of `part`) as one, sorted by manifest and line; without a line where there is none.

    Raises:
      Corrupt: the content of an index is not that which its name says.
    """
    answers = {name: (key, root.read(key)) for name, key in finished_parts(root, part).items()}  # all at once: each is a small file
    tables = [_table(name, key, answer.result().value) for name, (key, answer) in answers.items()]
    if not tables:
        return pd.DataFrame({"study": [], "patient": [], "split": [], "manifest": [], "line": []})
    _agree(tables)
    return pd.concat(tables).sort_values(["manifest", "line"], kind="stable").reset_index(drop=True)


def carried_kinds(index: pd.DataFrame) -> dict[str, type]:
    """The type (float or str) of each label that an index holds, by the name that the manifests gave it."""
    filled = index.loc[:, index.notna().any()]
    return {c.removeprefix(LABEL): float if is_numeric_dtype(filled[c]) else str for c in map(str, filled) if c.startswith(LABEL)}


def _agree(tables: list[pd.DataFrame]) -> None:
    """Makes text of the numbers of a label that is text in another part: a later manifest can have words where an earlier one had numbers."""
    kinds = [carried_kinds(table) for table in tables]
    for name in {name for own in kinds for name, kind in own.items() if kind is str}:
        for table, own in zip(tables, kinds):
            if own.get(name) is float:
                table[LABEL + name] = table[LABEL + name].map(lambda x: f"{x:.15g}", na_action="ignore")


def _table(part: str, key: str, content: bytes) -> pd.DataFrame:
    if f"{google_crc32c.value(content):08x}" not in key:
        raise Corrupt(f"The index of part {part} is damaged. Remove the folder parts/{part} from the store and ingest again.")
    return pq.read_table(io.BytesIO(content)).to_pandas().assign(part=part)
