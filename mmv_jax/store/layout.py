"""What a store looks like on disk: its paths, the shape of its blocks, their codecs, and the cells
of an occupancy map.

``` STORE/store.json                  format, fingerprint of the key, the manifests that were
ingested (hashed, in order) STORE/quarantine.jsonl            what was refused, by manifest line
STORE/parts/NAME/blocks/          one zarr3 array blocks[n, cz, cy, cx] int16; a shard is many
blocks, each with its own checksum STORE/parts/NAME/index-*.parquet  a line a study; written last: a
part without it was never there STORE/index/index-*.parquet       all of these together, written
when an ingest ends and taken away before one writes ``` Every path goes through a TensorStore
key-value store, so that `/data/store`, `gs://bucket/store` and `s3://bucket/store` are the same
code.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import tensorstore as ts

FORMAT = 1
BLOCKS = {2: (1, 128, 128), 3: (32, 64, 64)}  # voxels of one block, by ndim: 32 KiB and 256 KiB
# 32 MiB of voxels a shard: what a writer holds, and one object of a bucket
SHARD_BLOCKS = {2: 1024, 3: 128}
CELLS = {2: (1, 16, 16), 3: (8, 8, 8)}  # of an occupancy map

STORE_JSON = "store.json"
QUARANTINE = "quarantine.jsonl"
WARNINGS = "warnings.jsonl"  # of what was taken in and told, in the same form
PARTS = "parts/"


def part_prefix(part: str) -> str:
    return f"{PARTS}{part}/"


def open_root(path: str | Path) -> ts.KvStore:
    """The key-value store at a folder or a `gs://`, `s3://` address. A write to it is atomic: whole
    or not there.
    """
    text = str(path)
    if "://" not in text:
        text = Path(text).expanduser().resolve().as_uri()
    return ts.KvStore.open(text.rstrip("/") + "/").result()


def prefix_range(prefix: str) -> ts.KvStore.KeyRange:
    """All keys under a prefix that ends in a slash."""
    # The end is exclusive: the character behind the slash closes the range.
    return ts.KvStore.KeyRange(prefix, prefix[:-1] + chr(ord("/") + 1))


def remove_part(root: ts.KvStore, part: str) -> None:
    root.delete_range(prefix_range(part_prefix(part))).result()


def array_spec(root: ts.KvStore, part: str) -> dict:
    """Opens the blocks of a part. A missing shard is an error: without the last entry it would read
    as zeros.
    """
    kvstore = (root / f"{part_prefix(part)}blocks/").spec().to_json()
    return {
        "driver": "zarr3",
        "kvstore": kvstore,
        # A finished part never changes; a check at each read would cost a request.
        "recheck_cached_data": "open",
        "fill_missing_data_reads": False,
    }


def new_array_spec(root: ts.KvStore, part: str, ndim: int, blocks: int) -> dict:
    """Makes room for `blocks` blocks. The inner codecs end in crc32c: without it a flipped bit
    would be read in silence.
    """
    block, shard = BLOCKS[ndim], SHARD_BLOCKS[ndim]
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    # Bit planes of 16-bit values: high bits change rarely, and zstd finds them together.
    blosc = {
        "name": "blosc",
        "configuration": {"cname": "zstd", "clevel": 3, "shuffle": "bitshuffle", "typesize": 2},
    }
    crc = {"name": "crc32c"}
    # A block is the unit of reading. A shard's index has a fixed size, so it is not compressed.
    sharding = {
        "chunk_shape": [1, *block],
        "codecs": [little, blosc, crc],
        "index_codecs": [little, crc],
    }
    metadata = {
        "shape": [blocks, *block],
        "data_type": "int16",
        "fill_value": 0,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [shard, *block]}},
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
    }
    # Blocks of zeros are written too: a block that is not there means damage.
    return array_spec(root, part) | {"metadata": metadata, "store_data_equal_to_fill_value": True}


def block_counts(
    grid: Iterable[int | np.integer], block: Iterable[int | np.integer]
) -> tuple[int, ...]:
    """Blocks along each axis that hold `grid` voxels; the last ones are padded.

    >>> block_counts((33, 64, 65), (32, 64, 64))
    (2, 1, 2)
    """
    return tuple(-(-int(n) // int(b)) for n, b in zip(grid, block, strict=True))


def cell_edges(voxels: int, cells: int) -> np.ndarray:
    """Edges of equal cells of an axis: cell c holds the voxels `edges[c]` to `edges[c + 1] - 1`, so
    that each voxel is in exactly one cell.

    An axis with fewer voxels than cells has empty cells; such a cell lies inside voxel `edges[c]`,
    and carries what that voxel's cell carries.

    >>> cell_edges(20, 8).tolist(), cell_edges(2, 8).tolist()
    ([0, 2, 5, 7, 10, 12, 15, 17, 20], [0, 0, 0, 0, 1, 1, 1, 1, 2])
    """
    # Whole numbers throughout: edges of floats could put one voxel into two cells.
    return np.arange(cells + 1) * voxels // cells


def pack_occupancy(occupied: np.ndarray) -> bytes:
    return np.packbits(occupied).tobytes()


def unpack_occupancy(packed: bytes, ndim: int) -> np.ndarray:
    """The boolean `[8, 8, 8]` map (planar: `[1, 16, 16]`) of an index line's `occupancy`.

    >>> int(unpack_occupancy(bytes([255] + [0] * 63), 3).sum())
    8
    """
    cells = CELLS[ndim]
    return (
        np.unpackbits(np.frombuffer(packed, np.uint8), count=int(np.prod(cells)))
        .astype(bool)
        .reshape(cells)
    )
