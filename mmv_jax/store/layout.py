"""Layout of a store on disk: paths, block shapes, codecs, and cells of an occupancy map.

```
STORE/store.json                  format, key fingerprint, manifests (hashed), number of studies
STORE/quarantine.jsonl            refused lines, by manifest and line
STORE/parts/NAME/blocks/          zarr3 array blocks[n, cz, cy, cx] int16, many blocks a shard
STORE/parts/NAME/index-*.parquet  one line a study; written last
STORE/parts/NAME/told.jsonl       its warnings, until an ingest ends and warnings.jsonl has them
STORE/index/index-*.parquet       index of all parts; written when an ingest ends
```

Each block has its own checksum. A part without its index does not exist for readers. The index of
all parts is removed before an ingest writes. Every path goes through a TensorStore key-value store,
so `/data/store`, `gs://bucket/store` and `s3://bucket/store` use the same code.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import tensorstore as ts

from mmv_jax.buckets import SCHEMES, contact, is_address, kvstore_spec, split

FORMAT = 1
BLOCKS = {2: (1, 128, 128), 3: (32, 64, 64)}  # voxels of one block, by ndim: 32 KiB and 256 KiB
# 32 MiB of voxels a shard: the writer's buffer, and one object of a bucket
SHARD_BLOCKS = {2: 1024, 3: 128}
CELLS = {2: (1, 16, 16), 3: (8, 8, 8)}  # cells of an occupancy map, by ndim

STORE_JSON = "store.json"
QUARANTINE = "quarantine.jsonl"
WARNINGS = "warnings.jsonl"  # warnings about ingested studies, in the same form
PARTS = "parts/"
TOLD = "told.jsonl"  # of a part: a killed ingest leaves its warnings there


def part_prefix(part: str) -> str:
    return f"{PARTS}{part}/"


def open_root(path: str | Path) -> ts.KvStore:
    """Key-value store at a folder or a `gs://`, `s3://` address.

    A write to it is atomic.

    Raises:
      Unreachable: the bucket does not answer.
    """
    text = str(path)
    if is_address(text) and split(text)[0] in SCHEMES:
        contact(text)
        return ts.KvStore.open(kvstore_spec(text)).result()
    if not is_address(text):
        text = Path(text).expanduser().resolve().as_uri()
    return ts.KvStore.open(text.rstrip("/") + "/").result()


def prefix_range(prefix: str) -> ts.KvStore.KeyRange:
    """Range of all keys under a prefix that ends in a slash."""
    # The end is exclusive: the character after the slash closes the range.
    return ts.KvStore.KeyRange(prefix, prefix[:-1] + chr(ord("/") + 1))


def remove_part(root: ts.KvStore, part: str) -> None:
    root.delete_range(prefix_range(part_prefix(part))).result()


def array_spec(root: ts.KvStore, part: str) -> dict:
    """TensorStore spec that opens the blocks of a part.

    A missing shard is an error; without `fill_missing_data_reads` False it would read as zeros.
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
    """TensorStore spec of a new array with `blocks` blocks.

    The inner codecs end in crc32c: without it, a flipped bit would go unnoticed.
    """
    block, shard = BLOCKS[ndim], SHARD_BLOCKS[ndim]
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    # Bit planes of 16-bit values: high bits change rarely, and are found together. A study is
    # written once and read in every epoch: LZ4 is read in 0.6 of the time of zstd, for 2 to 12 %
    # more bytes.
    blosc = {
        "name": "blosc",
        "configuration": {"cname": "lz4hc", "clevel": 5, "shuffle": "bitshuffle", "typesize": 2},
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
    # Blocks of zeros are written too: a missing block means damage.
    return array_spec(root, part) | {"metadata": metadata, "store_data_equal_to_fill_value": True}


def block_counts(
    grid: Iterable[int | np.integer], block: Iterable[int | np.integer]
) -> tuple[int, ...]:
    """Number of blocks along each axis that hold `grid` voxels; the last ones are padded.

    >>> block_counts((33, 64, 65), (32, 64, 64))
    (2, 1, 2)
    """
    return tuple(-(-int(n) // int(b)) for n, b in zip(grid, block, strict=True))


def cell_edges(voxels: int, cells: int) -> np.ndarray:
    """Edges of equal cells along an axis: cell c has the voxels `edges[c]` to `edges[c + 1] - 1`.

    Each voxel is in exactly one cell. An axis with fewer voxels than cells has empty cells. An
    empty cell lies inside voxel `edges[c]` and takes the value of that voxel's cell.

    >>> cell_edges(20, 8).tolist(), cell_edges(2, 8).tolist()
    ([0, 2, 5, 7, 10, 12, 15, 17, 20], [0, 0, 0, 0, 1, 1, 1, 1, 2])
    """
    # Integers only: with float edges a voxel could fall into two cells.
    return np.arange(cells + 1) * voxels // cells


def pack_occupancy(occupied: np.ndarray) -> bytes:
    return np.packbits(occupied).tobytes()


def unpack_occupancy(packed: bytes, ndim: int) -> np.ndarray:
    """Boolean map `[8, 8, 8]` (planar: `[1, 16, 16]`) from an index line's `occupancy`.

    >>> int(unpack_occupancy(bytes([255] + [0] * 63), 3).sum())
    8
    """
    cells = CELLS[ndim]
    return (
        np.unpackbits(np.frombuffer(packed, np.uint8), count=int(np.prod(cells)))
        .astype(bool)
        .reshape(cells)
    )
