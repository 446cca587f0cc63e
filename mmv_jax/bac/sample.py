"""Training tiles from a store of mammograms with truth; each depends only on (seed, step).

Axes: as in `tiles`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from scipy import ndimage

from mmv_jax.bac.position import distances, of_patches
from mmv_jax.bac.tiles import Tile, TileShape, pack
from mmv_jax.bac.view import ViewFrame, averaged, nominal
from mmv_jax.errors import UserError
from mmv_jax.store.read import Store

MASK = "bac"  # name of the truth in the store
KINDS = ("calcified", "bright", "mistaken", "breast")
POINTS = 400  # largest number of points kept for each view and kind
# Share of a breast that is not bright enough to resemble calcium. Brightness is relative to a
# Gaussian neighbourhood, whose sd in pixels is the second number.
BRIGHT, BROAD = 0.997, 5.0
GRAINY = 0.3  # share of tiles that get the grain of a low dose
APART = 8  # least distance in pixels of such a point to any calcified artery


@dataclass(frozen=True)
class Known:
    """Points [n, 2] of a training view on its working grid, by kind.

    Attributes:
      calcified: on calcified artery.
      bright: on structures that resemble it.
      mistaken: wrongly taken for calcified artery by a model (`mine.mistakes`); empty until there
        is one.
      breast: anywhere in the breast.
      places: of each coarse cell, how far from the skin and the border (`position.distances`).
    """

    study: int
    frame: ViewFrame
    spacing_mm: tuple[float, float]
    calcified: Int[np.ndarray, "n 2"]
    bright: Int[np.ndarray, "m 2"]
    mistaken: Int[np.ndarray, "j 2"]
    breast: Int[np.ndarray, "k 2"]
    places: Float[np.ndarray, "r c 2"]


class Sampler:
    """Sampler of tiles around calcified arteries, similar structures, mistakes and breast tissue.

    Args:
      splits: splits whose studies are drawn.
      mix: shares of `KINDS`. Until mistakes are known, their share goes to similar structures.
    Attributes:
      digest: of the studies that are drawn, in their order (`Store.digest`).
    Raises:
      UserError: wrong number of shares in `mix`, no study of these splits with truth, or none with
        calcification.
    """

    def __init__(
        self,
        store: Store,
        shape: TileShape,
        *,
        seed: int,
        splits: tuple[str, ...],
        mix: tuple[float, float, float, float],
    ):
        if len(mix) != len(KINDS):
            raise UserError(
                f"config.data.mix has {len(mix)} shares, but must have one for each kind of tile:"
                f" {', '.join(KINDS)}."
            )
        # The shares become cumulative: `_draw` looks up a uniform number among them.
        self._store, self._shape, self._seed, self._mix = (
            store,
            shape,
            seed,
            np.cumsum(mix) / sum(mix),
        )
        index = store.index
        named = np.array([MASK in masks.split(",") for masks in index["masks"]])
        lines = np.flatnonzero(index["split"].isin(splits).to_numpy() & named)
        if not len(lines):
            raise UserError(
                f"config.data: the store has no study of {', '.join(splits)} with a {MASK}_mask."
                " Ingest a manifest that has this column."
            )
        self.digest = store.digest(lines)
        self._views = [self._look(int(i)) for i in lines]
        self._index_kinds()
        if not self._kinds["calcified"]:
            raise UserError(
                f"config.data: in none of the {len(lines)} studies of {', '.join(splits)} is an"
                " artery calcified: nothing can be learned."
            )

    def __len__(self) -> int:
        return len(self._views)

    def images(self) -> Iterator[tuple[Shaped[np.ndarray, "Y X"], tuple[float, float]]]:
        """Voxels and spacing (mm, of the file) of each view, in the sampler's order."""
        for view in self._views:
            line = self._store.index.iloc[view.study]
            yield (
                self._store.read_study(view.study).voxels[0],
                (
                    float(line["spacing_y"]),
                    float(line["spacing_x"]),
                ),
            )

    def off_arteries(self, view: int, where: Bool[np.ndarray, "y x"]) -> Int[np.ndarray, "n 2"]:
        """Some points of a mask on a view's working grid, apart from every calcified artery."""
        known = self._views[view]
        near = ndimage.maximum_filter(
            self._read_truth(known.study, known.frame, (0, 0), known.frame.shape), 2 * APART + 1
        )
        return _some(np.random.default_rng([self._seed, known.study, 2]), where & ~near)

    def look_at(self, mistaken: Sequence[Int[np.ndarray, "n 2"]]) -> None:
        """Also draw tiles around these points from now on; one array per view."""
        self._views = [
            replace(view, mistaken=points)
            for view, points in zip(self._views, mistaken, strict=True)
        ]
        self._index_kinds()

    def batch(self, step: int, rows: int) -> dict[str, np.ndarray]:
        """Rows of tiles of this step, with `truth` and `counted` [B, S, T, T] and `positions`
        [B, S, K, 2] of the patches.

        `counted` is 1 where a pixel is breast and counts.
        """
        # Only (seed, step) matter: a resumed fit draws the same tiles.
        rng = np.random.default_rng([self._seed, step])
        drawn = [self._draw(rng) for _ in range(rows * self._shape.per_row)]
        # `pack` puts tile n at (n // per_row, n % per_row); the reshapes below do the same.
        batch = pack([tile for tile, _, _ in drawn], self._shape, rows)
        side = (rows, self._shape.per_row, self._shape.tile, self._shape.tile)
        batch["truth"] = np.stack([truth for _, truth, _ in drawn]).reshape(side).astype(np.float32)
        batch["counted"] = (
            np.stack([tile.breast for tile, _, _ in drawn]).reshape(side).astype(np.float32)
        )
        positions = np.stack([positions for _, _, positions in drawn])
        batch["positions"] = positions.reshape(rows, self._shape.per_row, -1, 2)
        return batch

    def _look(self, study: int) -> Known:
        """Points of a view, which is read once, whole."""
        line = self._store.index.iloc[study]
        spacing = (float(line["spacing_y"]), float(line["spacing_x"]))
        voxels = self._store.read_study(study).voxels[0]
        frame = ViewFrame.of(voxels, spacing)
        truth = self._read_truth(study, frame, (0, 0), frame.shape)
        seen = frame.normalised(averaged(voxels, frame.factor), (0, 0))
        inside = frame.breast_pixels((0, 0), frame.shape)
        # The window reaches `APART` pixels to each side: an artery's blurred rim is not a negative.
        near = ndimage.maximum_filter(truth, 2 * APART + 1)
        rng = np.random.default_rng([self._seed, study, 1])
        # Brighter than the tissue around it, as calcium is, on bright and on dark ground alike.
        peaks = seen - ndimage.gaussian_filter(seen, BROAD)
        resembling = (
            inside & ~near & (peaks > np.quantile(peaks[inside], BRIGHT))
            if inside.any()
            else inside
        )
        calcified, bright, breast = (_some(rng, where) for where in (truth, resembling, inside))
        factor, (y, x) = frame.factor, nominal(spacing, voxels.shape)
        return Known(
            study=study,
            frame=frame,
            spacing_mm=(y * factor, x * factor),
            calcified=calcified,
            bright=bright,
            # Empty, of the right shape and type.
            mistaken=calcified[:0],
            breast=breast,
            places=distances(frame.breast, (y * factor, x * factor)),
        )

    def _index_kinds(self) -> None:
        """Index which views have points of each kind."""
        self._kinds = {
            kind: [n for n, view in enumerate(self._views) if len(getattr(view, kind))]
            for kind in KINDS
        }

    def _draw(
        self, rng: np.random.Generator
    ) -> tuple[Tile, Bool[np.ndarray, "T T"], Float[np.ndarray, "down across 2"]]:
        kind = KINDS[int(np.searchsorted(self._mix, rng.random()))]
        # A kind without points is replaced by structures that resemble artery, then by any breast.
        kind = next(some for some in (kind, "bright", "breast") if self._kinds[some])
        view = self._views[self._kinds[kind][rng.integers(len(self._kinds[kind]))]]
        points = getattr(view, kind)
        tile = self._shape.tile
        size = (min(tile, view.frame.shape[0]), min(tile, view.frame.shape[1]))
        # the point lies anywhere in the tile
        corner = points[rng.integers(len(points))] - rng.integers(0, tile, 2)
        y, x = (int(np.clip(c, 0, n - s)) for c, n, s in zip(corner, view.frame.shape, size))
        f = view.frame.factor
        box = self._store.read_box(view.study, *_file_box((y, x), size, f, self._grid(view.study)))[
            0
        ]
        # As in `tiles_of` at inference: 0 outside the breast.
        breast = view.frame.breast_pixels((y, x), size)
        image = np.where(
            breast, _distorted(view.frame.normalised(averaged(box, f), (y, x)), rng), np.float32(0)
        )
        truth = self._read_truth(view.study, view.frame, (y, x), size)
        missing = [(0, tile - n) for n in size]
        # Drawn once: image, truth and breast must be turned alike.
        flips = rng.random(3) < 0.5
        image, truth, breast = (
            _turned(np.pad(part, missing), flips) for part in (image, truth, breast)
        )
        placed = of_patches(view.places, (y, x), self._shape.grid, self._shape.patch[1:])
        positions = np.stack([_turned(placed[..., i], flips) for i in range(2)], axis=-1)
        return Tile(image, breast, (y, x), view.spacing_mm), truth, positions

    def _grid(self, study: int) -> tuple[int, int]:
        line = self._store.index.iloc[study]
        return int(line["grid_y"]), int(line["grid_x"])

    def _read_truth(
        self, study: int, frame: ViewFrame, start: tuple[int, int], shape: tuple[int, int]
    ) -> Bool[np.ndarray, "y x"]:
        # A working pixel is calcified where at least half of its file pixels are.
        box = _file_box(start, shape, frame.factor, self._grid(study))
        return averaged(self._store.read_box(study, *box, mask=MASK)[0] > 0, frame.factor) >= 0.5


def _file_box(
    start: tuple[int, int], shape: tuple[int, int], factor: int, grid: tuple[int, int]
) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Start and shape, in voxels of the file, of a box of the working grid.

    The last pixels of the working grid may lie partly outside the file.
    """
    begin = [s * factor for s in start]
    # `averaged` fills a last, partial block by its edge, so the box may end early.
    size = [min(n * factor, full - b) for n, b, full in zip(shape, begin, grid)]
    return (0, begin[0], begin[1]), (1, size[0], size[1])


def _some(rng: np.random.Generator, where: Bool[np.ndarray, "y x"]) -> Int[np.ndarray, "n 2"]:
    """At most `POINTS` of the pixels of a mask, drawn at random."""
    flat = np.flatnonzero(where)
    chosen = rng.permutation(flat)[:POINTS] if len(flat) > POINTS else flat
    return np.stack(np.unravel_index(chosen, where.shape), axis=1)


def _distorted(
    image: Float[np.ndarray, "y x"], rng: np.random.Generator
) -> Float[np.ndarray, "y x"]:
    """Image as from another detector: other contrast, brightness, sharpness, grain and noise."""
    if rng.random() < 0.3:
        image = ndimage.gaussian_filter(image, rng.uniform(0.2, 0.7))
    if rng.random() < GRAINY:
        image = _grained(image, rng)
    noise = rng.standard_normal(image.shape, np.float32) * rng.uniform(0, 0.12)
    return (image * np.exp(rng.normal(0, 0.15)) + rng.normal(0, 0.1) + noise).astype(np.float32)


def _grained(image: Float[np.ndarray, "y x"], rng: np.random.Generator) -> Float[np.ndarray, "y x"]:
    """Image as of a low dose: quantum noise with the grain of a scintillator."""
    grain = ndimage.gaussian_filter(
        rng.standard_normal(image.shape, np.float32), rng.uniform(0.4, 1.0)
    )
    strength = rng.uniform(0.2, 1.2)
    # Added before the asinh of `ViewFrame.normalised`. There 1 is the sd of the tissue, which the
    # grain makes larger, so that all contrast becomes smaller.
    seen = np.sinh(image) + strength * grain / max(float(grain.std()), 1e-6)
    return np.arcsinh(seen / np.sqrt(1 + strength**2)).astype(np.float32)


def _turned(part: np.ndarray, flips: np.ndarray) -> np.ndarray:
    """One of the eight orientations of a square: an artery may run in any direction."""
    part = part[::-1] if flips[0] else part
    part = part[:, ::-1] if flips[1] else part
    return np.ascontiguousarray(part.T if flips[2] else part)
