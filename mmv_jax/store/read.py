"""Store for reading: an index with one line a study, and boxes of true intensities.

Axes: z, y, x of a study's own grid.
"""

import hashlib
import json
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tensorstore as ts

from mmv_jax.buckets import in_words
from mmv_jax.errors import UserError, WorkFailed
from mmv_jax.store.index import Corrupt, read_whole_index, whole_index_keys
from mmv_jax.store.layout import FORMAT, STORE_JSON, array_spec, block_counts, open_root
from mmv_jax.study import Study

Triple = Sequence[int | np.integer] | np.ndarray  # z, y, x
VERIFY_BLOCKS = 256
# Columns that describe the stored content. Labels, splits and places are not part of the digest.
CONTENT = (
    *("study", "ndim", "unit", "grid_z", "grid_y", "grid_x", "spacing_z", "spacing_y", "spacing_x"),
    *("low", "high", "slope", "intercept", "occupancy", "masks", "checksum"),
)
# TensorStore error codes that mean that the store could not be reached, not that it is damaged.
UNREACHABLE = (
    "PERMISSION_DENIED",
    "UNAUTHENTICATED",
    "UNAVAILABLE",
    "DEADLINE_EXCEEDED",
    "RESOURCE_EXHAUSTED",
    "ABORTED",
    "CANCELLED",
    "INTERNAL",
)
STUDIES = "studies"  # in store.json: how many there were when its last writer ended
UNFINISHED = "unfinished"  # in store.json: the change that was begun and not ended
# Parts open at a time, 80 KiB each. A store may have 100,000, and every worker meets every part.
OPEN_PARTS = 512
# Holds the block directories of shards, so that a crop need not read them again.
CACHE_BYTES = 16 << 20


class Store:
    """Studies in blocks; only the blocks that a box touches are read.

    A store can be pickled to worker processes: only the path and the index are sent, and each
    process opens parts when it first reads them. A process must be spawned, not forked, once
    TensorStore has run in its parent.

    Attributes:
      path: as given to `open`.
      index: one line a study, in the order of manifests and of their lines. Appending a manifest
        does not change earlier positions. Columns: docs/architecture.md.
      key_fingerprint: of the key that named the studies.

    Example:
      store = Store.open("runs/demo/store")
      crop = store.read_box(7, (0, 32, 32), (16, 128, 128))  # HU, if store.index.unit[7] is "HU"
    """

    def __init__(self, path: str, index: pd.DataFrame, key_fingerprint: str):
        self.path, self.index, self.key_fingerprint = path, index, key_fingerprint
        self._grids = index[["grid_z", "grid_y", "grid_x"]].to_numpy()
        # scales of the study and of its levels
        scales = [("slope", "intercept"), ("level_slope", "level_intercept")]
        self._scales = [index.reindex(columns=columns).to_numpy(np.float32) for columns in scales]
        self._parts, self._first = index["part"].to_numpy(), index["first_block"].to_numpy()
        # Parquet holds flat lists: three numbers (z, y, x) a level.
        self._factors = [numbers.reshape(-1, 3) for numbers in _numbers(index, "level_factors")]
        self._level_blocks = _numbers(index, "level_blocks")
        self._arrays: dict[str, ts.TensorStore] = {}
        self._opened_by, self._lock = 0, threading.Lock()
        self._whole: list[str] = []  # keys of the index as it was opened

    @classmethod
    def open(cls, path: str | Path) -> "Store":
        """Open a store.

        Parts without an index are not seen: their ingest still runs, or was killed.

        Raises:
          UserError: no store, another format version, or no study.
          Corrupt: parts of it are gone.
          Unreachable: the bucket does not answer, or refuses.
        """
        root = open_root(path)
        with in_words(str(path)):
            about = read_about(root)
        if about is None:
            raise UserError(
                f"{path} is not a store ({STORE_JSON} is missing). Make one with: mmv ingest"
                f" MANIFEST --store {path}"
            )
        if about["format"] != FORMAT:
            raise UserError(
                f"{path} has format {about['format']}, but this version reads {FORMAT}. Ingest its"
                " manifests again."
            )
        if about.get(UNFINISHED):
            raise UserError(
                f"`mmv {about[UNFINISHED]}` of {path} was stopped before its end. Run the same"
                " command again: until then the store is half of each."
            )
        whole, index = whole_index_keys(root), read_whole_index(root)
        refuse_lost(path, about, index)
        if index.empty:
            raise UserError(
                f"{path} holds no study: no ingest has finished a part of it. Run mmv ingest again;"
                " quarantine.jsonl has the reasons."
            )
        opened = cls(str(path), index, about["key_fingerprint"])
        opened._whole = whole
        return opened

    def __len__(self) -> int:
        return len(self.index)

    def __getstate__(self) -> dict:
        return {"path": self.path, "index": self.index, "key_fingerprint": self.key_fingerprint}

    def __setstate__(self, state: dict) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def levels(self, i: int | np.integer) -> np.ndarray:
        """Downsampling factors (z, y, x) of study `i`'s levels, `[levels, 3]`, fine to coarse.

        Only large studies have levels (`store.levels`), unless an older version ingested them.
        """
        return self._factors[i]

    def read_box(
        self,
        i: int | np.integer,
        start: Triple,
        shape: Triple,
        *,
        mask: str | None = None,
        level: int = 0,
    ) -> np.ndarray:
        """Voxels of a box inside study `i`.

        Args:
          i: position in the index.
          start, shape: (z, y, x) in voxels of the study's grid, or of the level's.
          mask: a name from the study's `masks`.
          level: 0 for the study itself, n for its n-th coarser level. Masks have none.
        Returns:
          float32 true intensities `[z, y, x]`, or the int32 values of the mask.
        Raises:
          ValueError: the box leaves the study, or the study has no such mask.
          Corrupt: a block does not pass its checksum.
          WorkFailed: the store cannot be reached.
        """
        assert not (level and mask), "masks have no levels"
        # Rounded up: the last voxel of a level may be the mean of fewer voxels.
        grid = -(-self._grids[i] // self._factors[i][level - 1]) if level else self._grids[i]
        # int64, since a caller's unsigned numbers would wrap around below 0.
        begin, size = np.array(start, np.int64), np.array(shape, np.int64)
        if (begin < 0).any() or (size < 1).any() or (begin + size > grid).any():
            raise ValueError(
                f"box at {begin.tolist()} of {size.tolist()} voxels leaves study {i}, whose grid is"
                f" {grid.tolist()}"
            )
        first = int(self._level_blocks[i][level - 1]) if level else self._first_block(i, mask)
        values = np.empty(size, np.float32 if mask is None else np.int32)
        self._read_blocks(i, first, grid=grid, start=begin, out=values)
        if mask is not None:
            return values
        # All levels of a study share one scale, which may differ from that of the study.
        slope, intercept = self._scales[min(level, 1)][i]
        if (slope, intercept) != (1, 0):  # saves two passes for most CTs
            values *= slope
            values += intercept
        return values

    def read_study(self, i: int | np.integer) -> Study:
        """All of study `i`, in float32 true intensities."""
        line = self.index.iloc[i]
        attributes = {
            c.removeprefix("attribute_"): line[c]
            for c in self.index.columns
            # NaN differs from itself, so attributes that the study lacks are left out.
            if c.startswith("attribute_") and line[c] == line[c]
        }
        spacing = (line["spacing_z"], line["spacing_y"], line["spacing_x"])
        return Study(
            voxels=self.read_box(i, (0, 0, 0), self._grids[i]),
            spacing_mm=spacing,
            ndim=int(line["ndim"]),
            unit=line["unit"],
            attributes=attributes,
        )

    def digest(self, studies: Sequence[int] | np.ndarray) -> str:
        """SHA-256 of the content of studies, in their order.

        It changes with voxels, levels, masks and geometry, but not with labels or the place in the
        store. For a store written before the index had checksums, it covers range and occupancy
        instead of voxels.
        """
        content = self.index.iloc[np.asarray(studies, int)][
            [column for column in CONTENT if column in self.index]
        ]
        return hashlib.sha256(repr(content.to_numpy(object).tolist()).encode()).hexdigest()

    def check_unchanged(self) -> None:
        """Refuse what was read of a store that was changed meanwhile. Studies that were appended do
        not count, nor do labels: the index is that of `open`.

        Raises:
          UserError: studies were removed or corrected, or are now.
        """
        # The name of the index carries its checksum: reading it all after each part took long.
        if self._whole and whole_index_keys(open_root(self.path)) == self._whole:
            return
        try:
            now = Store.open(self.path)
        except UserError as error:
            raise UserError(f"The store was changed while it was read. {error}") from None
        places = pd.Series(np.arange(len(now)), now.index["study"])
        own = places.reindex(self.index["study"])
        before = Store.digest(self, range(len(self)))  # of the blocks, whatever a subclass shows
        if own.isna().any() or now.digest(own.to_numpy(np.int64)) != before:
            raise UserError(
                f"{self.path}: studies were removed or corrected while they were read. Run the same"
                " command again: it reads the store as it is now."
            )

    def provenance(self) -> dict[str, Any]:
        """Entry for a provenance record: name, digest and number of studies of the store."""
        name = str(self.path).rstrip("/").rpartition("/")[2]
        everything = range(len(self))
        return {"store": name, "digest": self.digest(everything), "studies": len(self)}

    def is_whole(self, i: int | np.integer) -> bool:
        """Whether every block of study `i`, its masks and its levels passes its checksum.

        Raises:
          WorkFailed: the store cannot be reached.
        """
        line = self.index.iloc[i]
        try:
            array = self._array(line["part"])
            # The study, its masks and its levels follow each other: one range of blocks.
            a_grid = int(np.prod(block_counts(self._grids[i], array.shape[1:])))
            first, end = (
                int(line["first_block"]),
                int(line["first_block"]) + a_grid * (1 + len(line["mask_blocks"])),
            )
            end += sum(
                int(np.prod(block_counts(-(-self._grids[i] // factor), array.shape[1:])))
                for factor in self._factors[i]
            )
            for block in range(first, end, VERIFY_BLOCKS):
                array[block : min(block + VERIFY_BLOCKS, end)].read().result()
        # Damaged or missing shards, or an array shorter than its index.
        except (ValueError, IndexError) as error:
            self._check_reachable(error)
            return False
        return True

    def _check_reachable(self, error: Exception) -> None:
        """Raise if the error is about access to the store, not about its content.

        Raises:
          WorkFailed: the store cannot be reached.
        """
        # TensorStore has no own exceptions; the message begins with the status.
        status = str(error).partition(":")[0]
        if status in UNREACHABLE:
            raise WorkFailed(
                f"The store {self.path} cannot be read ({status}): look after access and network,"
                " then run the same command again."
            ) from error

    def _first_block(self, i: int | np.integer, mask: str | None) -> int:
        if mask is None:
            return int(self._first[i])
        line = self.index.iloc[i]
        names = line["masks"].split(",")
        if mask not in names:
            raise ValueError(
                f"study {line['study']} has no mask {mask!r}; it has: {line['masks'] or 'none'}"
            )
        return int(line["mask_blocks"][names.index(mask)])

    def _read_blocks(
        self,
        i: int | np.integer,
        first: int,
        grid: np.ndarray,
        start: np.ndarray,
        out: np.ndarray,
    ) -> None:
        """Fill `out` with a box of an array of that grid, whose first block has number `first`."""
        shape = np.array(out.shape)
        try:
            array = self._array(self._parts[i])
            block = np.array(array.shape[1:])
            counts = block_counts(grid, block)
            # First block of the box and the one after its last, along each axis.
            begin, end = start // block, (start + shape - 1) // block + 1
            positions = np.stack(
                np.meshgrid(*map(np.arange, begin, end), indexing="ij"), axis=-1
            ).reshape(-1, 3)
            # Blocks are stored in C order of their position (z, y, x).
            numbers = first + np.ravel_multi_index(tuple(positions.T), counts)
            # One request for all blocks, so that TensorStore reads them at the same time.
            blocks = array[numbers].read().result()
        except (ValueError, IndexError) as error:
            self._check_reachable(error)
            raise Corrupt(
                f"Blocks of study {self.index['study'].iloc[i]} (part {self._parts[i]}) are damaged"
                f" or gone. `mmv inspect {self.path} --verify` lists all such studies; delete their"
                " parts and the folder index, and ingest again."
            ) from error
        # corner: position of the block's corner in the box
        for corner, voxels in zip(positions * block - start, blocks):
            # Cut to the box. Minus the corner, the same bounds apply within the block.
            low, high = np.maximum(corner, 0), np.minimum(corner + block, shape)
            out[tuple(map(slice, low, high))] = voxels[
                tuple(map(slice, low - corner, high - corner))
            ]

    def _array(self, part: str) -> ts.TensorStore:
        with self._lock:  # one thread makes rows while another one probes
            # Open arrays and their threads are useless in another process.
            if self._opened_by != os.getpid():
                self._arrays, self._opened_by = {}, os.getpid()
                self._root = open_root(self.path)
                self._context = ts.Context({"cache_pool": {"total_bytes_limit": CACHE_BYTES}})
            # Taken out and put in again: a dict keeps insertion order, so the oldest use comes
            # first.
            array = self._arrays.pop(part, None)
            if array is None:
                array = ts.open(
                    array_spec(self._root, part), open=True, context=self._context
                ).result()
                if len(self._arrays) >= OPEN_PARTS:
                    # the least recently used one
                    del self._arrays[next(iter(self._arrays))]
            self._arrays[part] = array
            return array


def _numbers(index: pd.DataFrame, column: str) -> list[np.ndarray]:
    """List of numbers of each line; empty if the line was written before the column existed."""
    nothing = np.empty(0, np.int64)
    if column not in index:
        return [nothing] * len(index)
    return [
        numbers.astype(np.int64) if isinstance(numbers, np.ndarray) else nothing
        for numbers in index[column]
    ]


def read_about(root: ts.KvStore) -> dict | None:
    """Content of `store.json`; None if there is no store."""
    answer = root.read(STORE_JSON).result()
    return json.loads(answer.value) if answer.state == "value" else None


def lost_studies(about: Mapping[str, Any], index: pd.DataFrame) -> int:
    """How many studies are gone, with their parts and the indices of these: nothing else shows it.

    Args:
      about: of `read_about`; a store of an earlier version does not say how many it had.
    """
    # A running ingest has more than it had; a change that was stopped may have fewer.
    return 0 if about.get(UNFINISHED) else max(about.get(STUDIES, 0) - len(index), 0)


def refuse_lost(path: str | Path, about: Mapping[str, Any], index: pd.DataFrame) -> None:
    """
    Raises:
      Corrupt: studies are gone with their parts.
    """
    if lost_studies(about, index):
        raise Corrupt(
            f"{path} has {len(index):,} of its {about[STUDIES]:,} studies: parts of it are gone."
            " Copy it again, or run mmv ingest with all of its manifests, which reads them again."
        )


def write_about(root: ts.KvStore, about: Mapping[str, Any]) -> None:
    """Replace `store.json`."""
    root.write(STORE_JSON, json.dumps(about, indent=1).encode()).result()
