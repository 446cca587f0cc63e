"""Provenance of results: weights, data, config and versions.

It is written as `provenance.json` beside a result, or in the metadata of the file itself.
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

from mmv_jax.buckets import place
from mmv_jax.errors import UserError
from mmv_jax.files import replacing, write_whole

FILE = "provenance.json"
RESULTS = ("metrics.json", "features.parquet")  # files by which a folder of results is recognised
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
      config: of the command.
      weights: `checkpoint` (the name of the run's folder), `step` and `digest` of the encoder; None
        if a result needs none.
      data: `store` (a name), `digest` and `studies` that were read; None if none were.
    """
    # Every key is present, null if it does not apply, so that readers need no check.
    none = dict.fromkeys(("checkpoint", "step", "digest"))
    about = dict.fromkeys(("store", "digest", "studies")) | dict(data or {})
    return {
        "command": command,
        "date": now(),
        **none,
        **(weights or {}),
        "store": about.pop("store"),
        "store_digest": about.pop("digest"),
        **about,
        "config": config,
        "versions": versions(),
    }


def now() -> str:
    """Date and time, in UTC, as ISO 8601 writes them."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that affect numbers."""
    found = {"python": python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # a package that was not installed from a distribution
            found[name] = "unknown"
    return found


def date_in_words(date: str | None = None) -> str:
    """Day, hour and minute of a date of `now`, or of this moment."""
    return (date or now())[:16].replace("T", " ") + " UTC"


def versions_in_words(found: Mapping[str, str] | None = None) -> str:
    """As 'python 3.12.1, mmv_jax 0.1.0, ...', of a record or of this process."""
    return ", ".join(f"{name} {v}" for name, v in (found or versions()).items())


def digest_of(tensors: Mapping[str, Any]) -> str:
    """A digest of parameters, 16 hex digits, the same from a checkpoint and from its export.

    It changes with their names, shapes and values, and with nothing else.

    Args:
      tensors: name -> array.

    Example:
      >>> digest_of({"norm.scale": np.ones(2, np.float32)})
      '7ed1e1ef3bb94dfc'
    """
    digest = hashlib.sha256()
    # Sorted: an export may list its tensors in another order than the checkpoint.
    for name in sorted(tensors):
        for part in digest_line(name, tensors[name]):
            digest.update(part)
    return digest.hexdigest()[:16]


def digest_line(name: str, tensor: Any) -> tuple[bytes, memoryview]:
    """What `digest_of` takes of one tensor."""
    array = np.ascontiguousarray(tensor)
    # Type and shape too: the same bytes in another shape are other weights.
    return f"{name} {array.dtype} {array.shape}\n".encode(), array.reshape(-1).view(np.uint8).data


def of_file(path: str | Path) -> dict[str, Any]:
    """`file` and `file_digest` of a table or manifest, for a record's `data`."""
    path = place(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    return {"file": path.name, "file_digest": digest}


def refuse_others(folder: Path, digest: str | None, option: str) -> None:
    """Refuse a folder that holds the results of other weights.

    Args:
      digest: of the weights to be measured; None if there are none.
      option: the command-line option that names the folder.
    Raises:
      UserError: the results belong to another checkpoint, or do not say to which.
    """
    kept = [name for name in RESULTS if (folder / name).exists()]
    if not kept:
        return
    instead = f"Give another {option}, or move these results away."
    try:
        before = json.loads((folder / FILE).read_text())
        # The digest may be None: results of a cohort have no weights.
        theirs = before["digest"]
    except FileNotFoundError:
        raise UserError(
            f"{option} {folder}: its {kept[0]} does not say which checkpoint it belongs to"
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
    """(term, value) pairs of a record, as a report states them."""
    digest = record.get("digest")
    weights = [
        ("run", f"{record['checkpoint']}"),
        ("step", "unknown" if record["step"] is None else f"{record['step']:,}"),
        ("weights", f"digest {digest}"),
    ]
    file = [("file", f"{record.get('file')} (digest {record.get('file_digest')})")]
    return [
        *(weights if digest is not None else []),
        ("evaluated", date_in_words(record["date"])),
        *(file if record.get("file") else []),
        ("software", versions_in_words(record["versions"])),
    ]


def write_metrics(folder: Path, metrics: Mapping[str, Any], record: Mapping[str, Any]) -> None:
    """Write `provenance.json`, `metrics.csv`, and the same numbers as `metrics.json`.

    Each file is whole or absent. Call it after everything else is written: a folder with
    `metrics.json` counts as evaluated.

    Args:
      metrics: task -> encoder or level -> metric -> {"value", "ci95", "n"}.
      record: of `provenance`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # The record is written first, so that no metrics ever lie beside the record of others.
    write_whole(folder / FILE, json.dumps(record, indent=2, allow_nan=False) + "\n")
    # `allow_nan=False`: Python would write NaN, which other readers of JSON refuse.
    text = json.dumps(metrics, indent=2, allow_nan=False) + "\n"
    write_whole(folder / "metrics.csv", as_csv(metrics))
    write_whole(folder / "metrics.json", text)


def write_table(path: Path, table: Any, record: Mapping[str, Any]) -> None:
    """Write a Parquet file, whole or not at all, with its record in the file's metadata.

    The record is JSON under the key `METADATA` of `pyarrow.parquet.read_schema(path).metadata`.
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
    """The numbers of a `metrics.json`, one a line; a number that is not defined is empty.

    Example:
      >>> one = {"value": 0.5, "ci95": [0.25, None], "n": 8}
      >>> print(as_csv({"left": {"trained": {"auroc": one}}}), end="")
      task,encoder,metric,value,low,high,n,why,sd,fits
      left,trained,auroc,0.5,0.25,,8,,,
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(("task", "encoder", "metric", "value", "low", "high", "n", "why", "sd", "fits"))
    writer.writerows(_lines(metrics))
    return file.getvalue()


def _lines(metrics: Mapping[str, Any]) -> Iterator[tuple]:
    for task, encoders in metrics.items():
        for encoder, found in encoders.items():
            for metric, one in found.items():
                low, high = one.get("ci95", (None, None))
                rest = (one.get(name) for name in ("n", "why", "sd", "fits"))
                told = (one["value"], low, high, *rest)
                yield task, encoder, metric, *told
