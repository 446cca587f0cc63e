"""Features of all studies of a store, for use elsewhere: a Parquet file, and patch tokens as zarr.

Axes: N studies, n tokens, D width.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tensorstore as ts

from mmv_jax.buckets import kvstore_spec
from mmv_jax.data.crops import Geometry
from mmv_jax.errors import UserError
from mmv_jax.evaluate.encoders.features import Features, encode_parts, together
from mmv_jax.evaluate.encoders.trained import TrainedEncoder, restore
from mmv_jax.files import write_whole
from mmv_jax.provenance import FILE, METADATA, provenance, refuse_others, write_table
from mmv_jax.report.progress import progress
from mmv_jax.store.read import Store

ROWS = {"length": 4096, "rows": 1}
TOKENS = ("cls", "patch")
TABLE, TOKENS_FILE = "features.parquet", "patches.zarr"


def embed(
    checkpoint: Path, store: str | Path, out: Path, tokens: tuple[str, ...] = ("cls",)
) -> str:
    """Encode each study whole and write `OUT/features.parquet`; resume where an earlier call was
    stopped.

    One row a study: `study` and `patient` (keyed hashes), `manifest` (1, 2, ... in the store's
    order) and its `line`, `split`, `modality`, `cls` and `patch_mean` (lists of float), and the
    labels under their names in the manifests. `OUT/provenance.json` and the metadata of both files
    say how they were made.

    Args:
      tokens: with "patch", `OUT/patches.zarr` (zarr3) holds all patch tokens `[T, D]` float32, one
        study after the other. In the Parquet file, `first_patch` and `patches` give the rows of a
        study. `patch_z`, `patch_y`, `patch_x` (lists) give their places in the view's token grid.
    Returns:
      What was written, in words.
    Raises:
      UserError: an unknown kind of tokens, no checkpoint or store, `out` holds the features of
        another checkpoint or tokens that would not fit the table, or the store was changed while
        it was read.
    """
    unknown = sorted(set(tokens) - set(TOKENS))
    if unknown:
        raise UserError(f"--tokens has {', '.join(unknown)}. Use {', '.join(TOKENS)}.")
    opened = Store.open(store)
    trained, _ = restore(checkpoint, ROWS)
    refuse_others(out, trained.origin["digest"], "--out")
    if "patch" not in tokens and (out / TOKENS_FILE).exists():
        raise UserError(
            f"--out {out} holds {TOKENS_FILE} of an earlier call, whose rows the new table would"
            " not name. Ask for --tokens cls,patch again, or give another --out."
        )
    record = provenance(
        "mmv embed",
        config={"tokens": list(tokens), "rows": ROWS},
        weights=trained.origin,
        data=opened.provenance(),
    )
    everything = np.arange(len(opened))
    wanted = everything if "patch" in tokens else everything[:0]
    parts: Iterable[Features] = encode_parts(
        trained,
        opened,
        studies=everything,
        with_tokens=wanted,
        folder=out / "parts",
        report=progress("encoded"),
    )
    places = _places(trained, Geometry.of(opened.index)) if "patch" in tokens else pd.DataFrame()
    if "patch" in tokens:
        parts = _writing_tokens(parts, out / TOKENS_FILE, places, record)
    # Tokens are dropped part by part: `_writing_tokens` has written them before.
    features = together([replace(part, tokens={}) for part in parts])
    table = pd.concat([feature_table(opened.index, features), places], axis=1)
    # The table is the first to go and the last to come: the files beside it are of its call.
    (out / TABLE).unlink(missing_ok=True)
    write_whole(out / FILE, json.dumps(record, indent=2) + "\n")
    write_table(out / TABLE, table, record)
    return f"{len(table)} studies, {features.cls.shape[1]} numbers each: {out / TABLE}"


def feature_table(index: pd.DataFrame, features: Features) -> pd.DataFrame:
    """The table of `embed`, from an index and the features of all its studies."""
    known = ("study", "patient", "manifest", "line", "split", "modality")
    table = index[list(known)].copy()
    table["cls"], table["patch_mean"] = list(features.cls), list(features.patch_mean)
    taken = set(table)
    # A label with the name of one of our columns keeps the prefix `label_`.
    labels = {c: c.removeprefix("label_") for c in map(str, index) if c.startswith("label_")}
    return pd.concat(
        [
            table,
            index[list(labels)].rename(
                columns={c: n if n not in taken else c for c, n in labels.items()}
            ),
        ],
        axis=1,
    )


def _places(encoder: TrainedEncoder, geometry: Geometry) -> pd.DataFrame:
    crops, kept = encoder.views(geometry)
    places = [
        np.argwhere(k[tuple(slice(t) for t in tokens)]) for k, tokens in zip(kept, crops.tokens)
    ]
    # The sum of the counts before a study is the row of its first patch.
    counts = np.array([len(p) for p in places])
    columns: dict = {"first_patch": np.cumsum(counts) - counts, "patches": counts}
    columns |= {
        f"patch_{axis}": [p[:, a].astype(np.int32) for p in places] for a, axis in enumerate("zyx")
    }
    return pd.DataFrame(columns)


def _writing_tokens(
    parts: Iterable[Features], path: Path, places: pd.DataFrame, record: Mapping[str, Any]
) -> Iterator[Features]:
    """Pass on the parts, and write the tokens of each, so that only one part is in memory."""
    array = None
    for part in parts:
        tokens = np.concatenate([part.tokens[study] for study in part.studies.tolist()])
        # The width of the tokens is known only with the first part.
        if array is None:
            # A table of an earlier call would name rows of what is only half written.
            (path.parent / TABLE).unlink(missing_ok=True)
            spec = {
                "driver": "zarr3",
                "kvstore": kvstore_spec(path),
                "metadata": {"attributes": {METADATA: record}},
            }
            shape = int(places["patches"].sum()), tokens.shape[1]
            array = ts.open(
                spec,
                create=True,
                # A stopped call may have written a part of it: all is
                # written again from kept features.
                delete_existing=True,
                dtype=ts.float32,
                shape=shape,
                chunk_layout=_chunks(shape),
            ).result()
        first = int(places["first_patch"][part.studies[0]])
        array[first : first + len(tokens)].write(tokens).result()
        yield part


def _chunks(shape: tuple[int, int]) -> ts.ChunkLayout:
    # A chunk holds whole tokens, and at least one: a size of 0 is no chunk.
    return ts.ChunkLayout(chunk_shape=(min(4096, max(shape[0], 1)), shape[1]))
