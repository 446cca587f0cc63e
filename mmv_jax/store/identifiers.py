"""Table that joins a store's keyed names with the user's own identifiers.

It needs the key and the manifests, and like them it stays with the user.
"""

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from mmv_jax.errors import UserError
from mmv_jax.files import replacing
from mmv_jax.manifests.manifest import read_manifest
from mmv_jax.readers.deidentify import Key
from mmv_jax.store.read import Store

COLUMNS = ("study", "patient", "manifest", "line", "study_id", "patient_id")


def write_identifiers(
    store: str | Path, manifests: Sequence[Path], key_path: Path, out: Path
) -> str:
    """Write a CSV with a line for each study of a store that a manifest names.

    Only its owner can read the file. Its columns are `COLUMNS`: four as in `features.parquet` and
    `predictions.parquet`, then the manifest's own names.

    Args:
      manifests: some or all of the ingested manifests.
      key_path: the key that the store was made with.
    Returns:
      A sentence with the number of studies found; it contains no name.
    Raises:
      UserError: wrong key, unusable `out`, no manifest, or none of its studies is in the store.
    """
    opened, key = Store.open(store), Key.load(key_path)
    if key.fingerprint != opened.key_fingerprint:
        raise UserError(
            f"--key: this key is {key.fingerprint}, and the store names its studies by the key"
            f" {opened.key_fingerprint}. Give that one."
        )
    if out.is_dir() or not out.parent.is_dir():
        raise UserError(f"--out {out}: give the name of a file in a folder that exists.")
    named = _named(manifests, key)
    columns = ["study", "patient", "manifest", "line"]
    found = opened.index[columns].merge(named, on=["study", "patient"], how="inner")
    if found.empty:
        raise UserError("No study of these manifests is in the store. Give those it was made from.")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(found[list(COLUMNS)].itertuples(index=False))
    with replacing(out) as part:
        # created for its owner only, before any name is in it
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(text.getvalue())
    return f"{out}: {len(found)} of the store's {len(opened)} studies. It holds your identifiers."


def _named(manifests: Sequence[Path], key: Key) -> pd.DataFrame:
    """Keyed and original names of the manifests' lines, each pair once."""
    lines = [line for path in manifests for line in read_manifest(path).lines]
    table = pd.DataFrame(
        {
            "study": [key.hash("study", line.study_id) for line in lines],
            "patient": [key.hash("patient", line.patient_id) for line in lines],
            "study_id": [line.study_id for line in lines],
            "patient_id": [line.patient_id for line in lines],
        },
        dtype=str,
    )
    return table.drop_duplicates(["study", "patient"])
