"""Batches for evaluation: every study once, whole, packed into rows. Axes: B rows, L tokens."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from mmv_jax.data.crops import Geometry, Triple, whole_crops
from mmv_jax.data.occupancy import count_tokens
from mmv_jax.data.packing import best_fit
from mmv_jax.data.resample import Boxes
from mmv_jax.data.row_writer import RowWriter
from mmv_jax.data.tokens import RowShape
from mmv_jax.errors import UserError


def study_batches(
    store: Boxes,
    studies: Sequence[int],
    *,
    grids: Mapping[int, Triple],
    patch: Triple,
    registers: int,
    length: int,
    rows: int,
    coordinates: str = "mm",
    tokens: str = "occupied",
) -> Iterator[dict[str, np.ndarray]]:
    """Batches of whole studies for evaluation, each study once, without augmentation.

    The packing and the order depend only on the studies.

    Args:
      studies: lines of the store's index.
      grids: for each dimensionality the largest number of voxels (z, y, x) of a study.
      coordinates, tokens: see `row_settings.RowSettings`.
      length, rows: tokens of a row and rows of a batch. The last batch may have empty rows.
    Yields:
      The arrays of `tokens.RowShape.spec`; `study` gives the study of each segment (-1: none).
    Raises:
      UserError: a study does not fit into a row.
    """
    lines = np.asarray(studies, np.int64)
    geometry = Geometry.of(store.index.iloc[lines])
    # One view per study, on its own axis, as the writer expects [N, V].
    crops = whole_crops(geometry, grids, patch)[:, None]
    sizes = count_tokens(geometry, crops, tokens) + 1 + registers
    if sizes.max(initial=0) > length:
        listed = " and ".join(f"{grid} ({ndim}D)" for ndim, grid in grids.items())
        raise UserError(
            f"A whole study takes {sizes.max()} tokens on the grids {listed}, but a row has"
            f" {length}. Raise config.rows.length, or lower config.view."
        )
    packed = best_fit(sizes, np.array([length]))
    shape = RowShape(
        length=length,
        prefix=length,
        segments=max(map(len, packed), default=1),
        patch=patch,
        registers=registers,
    )
    writer = RowWriter(store, shape, coordinates, tokens=tokens)
    for first in range(0, len(packed), rows):
        batch = shape.empty(rows)
        for b, row in enumerate(packed[first : first + rows]):
            at = 0
            kept = writer.kept(lines[row], crops[row])
            for segment, i in enumerate(row, start=1):
                at = writer.add(
                    batch,
                    b,
                    at=at,
                    segment=segment,
                    study=int(lines[i]),
                    crop=crops[i, 0],
                    kept=kept[segment - 1][0],
                    is_global=True,
                )
        yield batch
