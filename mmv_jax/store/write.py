"""Writer of one part of a store: blocks shard by shard as studies come in, the index last."""

import json
from collections.abc import Mapping

import google_crc32c
import numpy as np
import tensorstore as ts

from mmv_jax.store.difference_hash import difference_hash
from mmv_jax.store.index import write_index
from mmv_jax.store.intensity import Stored, foreground_percentiles, occupancy, to_int16
from mmv_jax.store.layout import (
    BLOCKS,
    SHARD_BLOCKS,
    TOLD,
    block_counts,
    new_array_spec,
    pack_occupancy,
    part_prefix,
    remove_part,
)
from mmv_jax.store.levels import coarser, level_factors, level_scale
from mmv_jax.study import Study

PART_STUDIES = 512
PART_BYTES = 512 << 20  # bytes of voxels: the most that a killed ingest can lose of a part
UNBOUNDED = 1 << 40  # blocks of an array while it grows


class PartWriter:
    """One part, planar or volumetric.

    It holds at most two shards (2 × 32 MiB) and the current study.

    A part cannot be read before `close`, which writes the index. A part that was never closed is
    overwritten by the next writer with its name.
    """

    def __init__(self, root: ts.KvStore, name: str, ndim: int):
        self.name, self.ndim = name, ndim
        self.lines: list[dict] = []
        self.told: list[dict] = []  # warnings of the studies, as lines of warnings.jsonl
        self._root = root
        self._blocks = 0  # handed over so far, written or waiting
        self._shard = np.empty((SHARD_BLOCKS[ndim], *BLOCKS[ndim]), np.int16)
        # Remains of a killed ingest under this name would mix with the new blocks.
        remove_part(root, name)
        self._array = ts.open(new_array_spec(root, name, ndim, UNBOUNDED), create=True).result()

    @property
    def is_full(self) -> bool:
        """Whether the part has reached PART_STUDIES or PART_BYTES."""
        block_bytes = 2 * int(np.prod(BLOCKS[self.ndim]))
        return len(self.lines) >= PART_STUDIES or self._blocks * block_bytes >= PART_BYTES

    def add(
        self, study: Study, masks: Mapping[str, np.ndarray], known: Mapping[str, object]
    ) -> None:
        """Append a study and its masks.

        Args:
          study: with the ndim of this part.
          masks: integer `[z, y, x]` arrays by name, values of 16 bits. They become further blocks
            on the study's block grid. The coarser levels of a large study (`levels`) follow, each
            on its own grid.
          known: columns of the index that do not come from the voxels: names, split, labels.
        """
        assert study.ndim == self.ndim, study.ndim
        assert all(mask.shape == study.voxels.shape for mask in masks.values()), list(masks)
        # Shapes come as 0 and 1, or as 0 and 255.
        stored = to_int16(study.voxels != 0 if study.unit == "shape" else study.voxels)
        occupied = occupancy(stored, study.unit, study.ndim)
        low, high = foreground_percentiles(stored, occupied, (0.5, 99.5))
        per_array = int(np.prod(block_counts(study.voxels.shape, BLOCKS[self.ndim])))
        line = dict(known) | dict(zip(("grid_z", "grid_y", "grid_x"), study.voxels.shape))
        line |= dict(zip(("spacing_z", "spacing_y", "spacing_x"), map(float, study.spacing_mm)))
        line |= {
            "ndim": study.ndim,
            "unit": study.unit,
            "low": low,
            "high": high,
            "slope": stored.slope,
            "intercept": stored.intercept,
        }
        line |= {
            "occupancy": pack_occupancy(occupied),
            "masks": ",".join(masks),
            "first_block": self._blocks,
        }
        # Masks follow the study's own blocks, in the order of `masks`.
        line |= {"mask_blocks": [self._blocks + (k + 1) * per_array for k in range(len(masks))]}
        line |= {f"attribute_{name}": float(value) for name, value in study.attributes.items()}
        is_shape = study.unit == "shape"
        # Shapes of one organ look alike in two patients, which is no leak.
        line["difference_hash"] = b"" if is_shape else difference_hash(stored.voxels)
        checksum = 0
        # One checksum for the whole study: it runs on through voxels, masks and levels.
        for voxels in (stored.voxels, *masks.values()):
            checksum = self._append(voxels, checksum)
        levels, checksum = self._append_levels(stored, study, checksum)
        line |= levels
        self.lines.append(line | {"checksum": f"{checksum:08x}"})

    def close(self) -> None:
        """Write the waiting blocks and warnings, then the index. From then on it can be read."""
        # Blocks of the last shard, which is not full.
        left = self._blocks % len(self._shard)
        shape = self._array.shape
        # Metadata only: no shard lies beyond the end, and 2**40 blocks need no search.
        self._array = self._array.resize(
            exclusive_max=[self._blocks, *shape[1:]], resize_metadata_only=True
        ).result()
        if left:
            self._array[self._blocks - left : self._blocks].write(self._shard[:left]).result()
        if self.told:
            text = "".join(json.dumps(entry) + "\n" for entry in self.told)
            self._root.write(part_prefix(self.name) + TOLD, text.encode()).result()
        write_index(self._root, self.name, self.lines)

    def _append_levels(self, stored: Stored, study: Study, checksum: int) -> tuple[dict, int]:
        """Index columns of the coarser levels, and the checksum continued over their blocks."""
        # The mean of a shape is not a shape, so shapes have no levels.
        factors = (
            level_factors(study.voxels.shape, study.spacing_mm) if study.unit != "shape" else []
        )
        gain, offset = (
            level_scale(int(stored.voxels.min()), int(stored.voxels.max())) if factors else (1, 0)
        )
        voxels, before, blocks = stored.voxels, (1, 1, 1), list[int]()
        scale = {"gain": gain, "offset": offset}
        for factor in factors:
            voxels = coarser(voxels, before, factor, grid=study.voxels.shape, **scale)
            # the next level is made from this one, which is already scaled
            before, scale = factor, {}
            blocks.append(self._blocks)
            checksum = self._append(voxels, checksum)
        columns = {
            "level_factors": [n for factor in factors for n in factor],
            "level_blocks": blocks,
        }
        return (
            columns
            | {
                # A level stores l = (mean - offset) gain, and a value is mean * slope + intercept.
                # So it is l * slope / gain + (intercept + offset * slope).
                "level_slope": stored.slope / gain,
                "level_intercept": stored.intercept + offset * stored.slope,
            },
            checksum,
        )

    def _append(self, voxels: np.ndarray, checksum: int) -> int:
        """Append the blocks of an array; return the crc32c of all blocks of the study so far."""
        block = BLOCKS[self.ndim]
        counts = block_counts(voxels.shape, block)
        for position in np.ndindex(*counts):
            # The buffer is reused after each shard, so a slot holds an older block.
            slot = self._shard[self._blocks % len(self._shard)]
            corner = voxels[tuple(slice(p * b, (p + 1) * b) for p, b in zip(position, block))]
            if corner.shape != slot.shape:
                slot[:] = 0  # padding, never handed to a reader
            slot[tuple(map(slice, corner.shape))] = corner
            checksum = google_crc32c.extend(checksum, slot.tobytes())
            self._blocks += 1
            if self._blocks % len(self._shard) == 0:
                self._array[self._blocks - len(self._shard) : self._blocks].write(
                    self._shard
                ).result()
        return checksum
