"""Where numbers come from: the weights, data, config and versions that a result was made with, in a
`provenance.json` beside it or in the metadata of the file itself.
"""

import csv
import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version
from typing import Any

import numpy as np

from mmv_jax.errors import UserError
from mmv_jax.files import replacing, write_whole

FILE = "provenance.json"
RESULTS = ("metrics.json", "features.parquet")  # what a folder of results is known by
METADATA = "mmv_jax"  # the key in the metadata of Parquet, zarr and safetensors
PACKAGES = ("mmv_jax", "jax", "jaxlib", "flax", "numpy")


def provenance(
    command: str,
    *,
    config: Any,
    weights: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The record of a result, made now; JSON types only.

    Args:
      command: such as "mmv evaluate".
      config: what it was asked for.
      weights: `checkpoint` (the name of the run's folder), `step` and `digest` of the encoder; None
        where a result needs none.
      data: `store` (a name), `digest` and `studies` of what was read; None where nothing was.
    """
    # Every key is there, with null where it does not apply, so that readers need not ask.
    none = dict.fromkeys(("checkpoint", "step", "digest"))
    about = dict.fromkeys(("store", "digest", "studies")) | dict(data or {})
    return {
        "command": command,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        **none,
        **(weights or {}),
        "store": about.pop("store"),
        "store_digest": about.pop("digest"),
        **about,
        "config": config,
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Of Python and of the packages that numbers rest on."""
    found = {"python": python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # a package that was not installed from a distribution
            found[name] = "unknown"
    return found


def digest_of(tensors: Mapping[str, Any]) -> str:
    """16 hex digits that change with the names, shapes and values of parameters, and with nothing
    else: the same from a checkpoint and from an export of it.

    Args:
      tensors: name -> array.

    Example:
      >>> digest_of({"norm.scale": np.ones(2, np.float32)})
      '7ed1e1ef3bb94dfc'
    """
    digest = hashlib.sha256()
    # Sorted: an export may list its tensors in another order than the checkpoint.
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        # Type and shape too: the same bytes in another shape are other weights.
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()[:16]


def of_file(path: str | Path) -> dict[str, Any]:
    """`file` and `file_digest` of a table or manifest, for a record's `data`."""
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]
    return {"file": Path(path).name, "file_digest": digest}


def refuse_others(folder: Path, digest: str | None, option: str) -> None:
    """Refuses a folder that holds the results of other weights.

    Args:
      digest: of the weights that are about to be measured; None where there are none.
      option: the word of the command line that names the folder.
    Raises:
      UserError: they are another checkpoint's, or do not say whose they are.
    """
    kept = [name for name in RESULTS if (folder / name).exists()]
    if not kept:
        return
    instead = f"Give another {option}, or move these results away."
    try:
        before = json.loads((folder / FILE).read_text())
        # `theirs` may be None: results of a cohort have no weights.
        theirs = before["digest"]
    except FileNotFoundError:
        raise UserError(
            f"{option} {folder}: its {kept[0]} does not say of which checkpoint it is"
            f" ({FILE} is missing). {instead}"
        ) from None
    except (ValueError, TypeError, KeyError):
        raise UserError(f"{option} {folder}: {FILE} cannot be read. {instead}") from None
    if theirs != digest:
        raise UserError(
            f"{option} {folder} holds the results of {named(before)}, and these weights are"
            f" {f'others ({digest})' if digest else 'none'}. {instead}"
        )


def named(record: Mapping[str, Any]) -> str:
    """The weights of a record in words."""
    if record.get("digest") is None:
        return "no checkpoint"
    return f"{record['checkpoint']}, step {record['step']} ({record['digest']})"


def facts(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(term, what it is) of a record, as a report states them."""
    digest = record.get("digest")
    weights = [
        ("run", f"{record['checkpoint']}"),
        ("step", "unknown" if record["step"] is None else f"{record['step']:,}"),
        ("weights", f"digest {digest}"),
    ]
    file = [("file", f"{record.get('file')} (digest {record.get('file_digest')})")]
    return [
        *(weights if digest is not None else []),
        ("evaluated", record["date"][:16].replace("T", " ") + " UTC"),
        *(file if record.get("file") else []),
        ("software", ", ".join(f"{name} {v}" for name, v in record["versions"].items())),
    ]


def write_metrics(folder: Path, metrics: Mapping[str, Any], record: Mapping[str, Any]) -> None:
    """Writes `provenance.json`, then `metrics.json` and the same numbers as `metrics.csv`, each
    whole or not at all.

    Args:
      metrics: task -> encoder or level -> metric -> {"value", "ci95", "n"}.
      record: of `provenance`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # First, so that no metrics ever lie beside another's record: `refuse_others` has passed.
    write_whole(folder / FILE, json.dumps(record, indent=2, allow_nan=False) + "\n")
    # `allow_nan=False`: Python would write NaN, which other readers of JSON refuse.
    text = json.dumps(metrics, indent=2, allow_nan=False) + "\n"
    write_whole(folder / "metrics.json", text)
    write_whole(folder / "metrics.csv", as_csv(metrics))


def write_table(path: Path, table: Any, record: Mapping[str, Any]) -> None:
    """Writes a Parquet file, whole or not at all, with its record as JSON in the file's metadata
    (the key `METADATA` of `pyarrow.parquet.read_schema(path).metadata`).
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    content = pa.Table.from_pandas(table, preserve_index=False)
    about = {METADATA: json.dumps(record, allow_nan=False)}
    # pandas keeps its column types in the metadata too, so ours is added to it.
    content = content.replace_schema_metadata({**(content.schema.metadata or {}), **about})
    with replacing(path) as part:
        pq.write_table(content, part)


def as_csv(metrics: Mapping[str, Any]) -> str:
    """The numbers of a `metrics.json`, a line each; what is not defined is empty.

    Example:
      >>> one = {"value": 0.5, "ci95": [0.25, None], "n": 8}
      >>> print(as_csv({"left": {"trained": {"auroc": one}}}), end="")
      task,encoder,metric,value,low,high,n,why
      left,trained,auroc,0.5,0.25,,8,
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(("task", "encoder", "metric", "value", "low", "high", "n", "why"))
    writer.writerows(_lines(metrics))
    return file.getvalue()


def _lines(metrics: Mapping[str, Any]) -> Iterator[tuple]:
    for task, encoders in metrics.items():
        for encoder, found in encoders.items():
            for metric, one in found.items():
                low, high = one.get("ci95", (None, None))
                told = (one["value"], low, high, one.get("n"), one.get("why"))
                yield task, encoder, metric, *told
