"""Tiles of a view at full resolution: packed into rows of tokens, and blended again.

Axes: y x pixels of the working grid, T pixels along a tile, B rows, L tokens, S tiles of a row, K
patches of a tile.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from mmv_jax.bac.view import ViewFrame
from mmv_jax.data.tokens import to_patches
from mmv_jax.errors import UserError
from mmv_jax.models.kinds import CLS, PATCH, REGISTER


@dataclass(frozen=True)
class TileShape:
    """Size of tiles and rows.

    Attributes:
      tile: pixels along a tile, a multiple of the patch.
      overlap: least number of pixels that neighbouring tiles share.
      per_row: tiles of a row.
      patch: of the encoder, (z, y, x).
      registers: extra tokens of a tile after its CLS token, without content of the image.
    """

    tile: int
    overlap: int
    per_row: int
    patch: tuple[int, int, int]
    registers: int

    def __post_init__(self):
        if (
            self.tile % self.patch[1]
            or self.tile % self.patch[2]
            or not 0 <= self.overlap < self.tile
        ):
            raise UserError(
                f"config.tiles: a tile of {self.tile} pixels with an overlap of {self.overlap} does"
                f" not suit patches of {self.patch[1:]}: the tile must be a multiple of the patch,"
                " and longer than the overlap."
            )

    @property
    def grid(self) -> tuple[int, int]:
        """Number of patches down and across a tile."""
        return self.tile // self.patch[1], self.tile // self.patch[2]

    @property
    def length(self) -> int:
        """Number of tokens of a row."""
        return self.per_row * (1 + self.registers + self.grid[0] * self.grid[1])

    def spec(self, rows: int) -> dict[str, tuple[tuple[int, ...], type]]:
        """Shape and dtype of each array of a batch of `rows` rows, see `pack`."""
        tokens, patches = (rows, self.length), self.grid[0] * self.grid[1]
        return {
            "patches": ((*tokens, int(np.prod(self.patch))), np.float32),
            "coords_mm": ((*tokens, 3), np.float32),
            "kinds": (tokens, np.int32),
            "segment_ids": (tokens, np.int32),
            "images": ((rows, self.per_row, self.tile, self.tile), np.float32),
            "places": ((rows, self.per_row, patches), np.int32),
        }

    def empty(self, rows: int) -> dict[str, np.ndarray]:
        """Empty rows: `places` are -1, all else is 0."""
        return {
            name: np.full(shape, -1 if name == "places" else 0, dtype)
            for name, (shape, dtype) in self.spec(rows).items()
        }


@dataclass(frozen=True)
class Tile:
    """One tile of a view.

    Attributes:
      image: normalised pixels.
      breast: which of them are breast.
      start: pixel of the view where the tile begins.
      spacing_mm: (y, x) of the working grid.
    """

    image: Float[np.ndarray, "T T"]
    breast: Bool[np.ndarray, "T T"]
    start: tuple[int, int]
    spacing_mm: tuple[float, float]


def tile_starts(length: int, tile: int, overlap: int) -> list[int]:
    """Starts of tiles along an axis, evenly spaced with at least this overlap.

    The last tile ends with the axis; [0] if one is enough.

    Example:
      >>> tile_starts(300, 128, 32)
      [0, 86, 172]
    """
    if length <= tile:
        return [0]
    # Rounded up. The step is then at most tile - overlap, a whole number: rounding keeps that.
    count = 1 + -(-(length - tile) // (tile - overlap))
    return [round(i * (length - tile) / (count - 1)) for i in range(count)]


def tiles_of(
    values: Float[np.ndarray, "y x"],
    frame: ViewFrame,
    spacing_mm: tuple[float, float],
    shape: TileShape,
) -> Iterator[Tile]:
    """Tiles of a view that contain breast; a view smaller than a tile is padded with air."""
    size = (shape.tile, shape.tile)
    for y in tile_starts(values.shape[0], shape.tile, shape.overlap):
        for x in tile_starts(values.shape[1], shape.tile, shape.overlap):
            box = values[y : y + shape.tile, x : x + shape.tile]
            breast = frame.breast_pixels((y, x), box.shape)
            if not breast.any():
                continue
            # Padded below and on the right, so that `start` stays the tile's first pixel.
            missing = [(0, full - n) for full, n in zip(size, box.shape)]
            image = np.where(breast, frame.normalised(box, (y, x)), np.float32(0))
            yield Tile(np.pad(image, missing), np.pad(breast, missing), (y, x), spacing_mm)


def pack(tiles: Sequence[Tile], shape: TileShape, rows: int) -> dict[str, np.ndarray]:
    """Rows of tokens from tiles; patches without breast are dropped.

    Tile n is segment n % per_row + 1 of row n // per_row.

    Returns:
      `patches` [B, L, P], `coords_mm` [B, L, 3], `kinds` [B, L] and `segment_ids` [B, L] as in any
        row (docs/architecture.md); `images` [B, S, T, T]; `places` [B, S, K], the token of each
        patch of a tile, -1 if it was dropped.
    Raises:
      ValueError: more tiles than places.
    """
    if len(tiles) > rows * shape.per_row:
        raise ValueError(f"{len(tiles)} tiles do not fit into {rows} rows of {shape.per_row}")
    batch = shape.empty(rows)
    (down, across), special = shape.grid, 1 + shape.registers
    ends = np.zeros(rows, np.int64)
    for n, tile in enumerate(tiles):
        b, s = divmod(n, shape.per_row)
        # A patch is kept where any of its pixels is breast.
        kept = np.asarray(
            tile.breast.reshape(down, shape.patch[1], across, shape.patch[2]).any(axis=(1, 3))
        )
        at = int(ends[b])
        first, end = at + special, at + special + int(kept.sum())
        batch["patches"][b, first:end] = to_patches(tile.image[None], kept[None], shape.patch)
        # CLS and registers stand in the middle of the tile: half of it, minus the 0.5 added below.
        batch["coords_mm"][b, at:first] = _coordinates(
            tile, np.array([[down / 2 - 0.5, across / 2 - 0.5]]), shape
        )
        batch["coords_mm"][b, first:end] = _coordinates(tile, np.argwhere(kept), shape)
        batch["kinds"][b, at:first] = [CLS, *range(REGISTER, REGISTER + shape.registers)]
        batch["kinds"][b, first:end] = PATCH
        # 0 is padding, so segments count from 1.
        batch["segment_ids"][b, at:end] = s + 1
        batch["images"][b, s] = tile.image
        batch["places"][b, s, kept.reshape(-1)] = np.arange(first, end)
        ends[b] = end
    return batch


def _coordinates(tile: Tile, cells: np.ndarray, shape: TileShape) -> np.ndarray:
    """Centres [n, 3] of patches in the view, mm."""
    pixels = np.array(tile.start) + (cells + 0.5) * np.array(shape.patch[1:])
    return np.concatenate([np.zeros((len(cells), 1)), pixels * np.array(tile.spacing_mm)], axis=1)


class Blend:
    """Blend of tiles over a view.

    Overlapping tiles are averaged, weighted by the distance to the tile's edge, where a tile knows
    least. Pixels without a tile are 0.
    """

    def __init__(self, view: tuple[int, int], shape: TileShape):
        # The half keeps every weight above 0: a view's border is covered only by a tile's edge.
        side = np.minimum(np.arange(shape.tile) + 0.5, np.arange(shape.tile)[::-1] + 0.5)
        ramp = np.minimum(side / max(shape.overlap, 1), 1).astype(np.float32)
        self._weight = ramp[:, None] * ramp[None]
        self._sum, self._weights = np.zeros(view, np.float32), np.zeros(view, np.float32)

    def add(self, start: tuple[int, int], values: Float[np.ndarray, "T T"]) -> None:
        """Add the values of a tile that begins at pixel `start`."""
        (y, x), (height, width) = start, self._sum.shape
        box = np.s_[y : y + values.shape[0], x : x + values.shape[1]]
        # A padded tile extends beyond the view: that part is cut off.
        inside = np.s_[: height - y, : width - x]
        self._sum[box] += (self._weight * values)[inside]
        self._weights[box] += self._weight[inside]

    def mean(self) -> Float[np.ndarray, "y x"]:
        """Blended values of the view."""
        return self._sum / np.maximum(self._weights, np.float32(1e-9))
