"""Conversion of voxels to the encoder's rows of tokens, in NumPy, as the package does it for a
store.

Axes: z, y, x of a study; t patches; B studies, L tokens.
"""

import math

import numpy as np
from transformers import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor

LEVELS = 1 << 16  # a study is stored as 16-bit numbers
LARGE = 1 << 20  # a study with more voxels is read from means of its voxels
STEPS = 1 << 12  # the fewest steps of a study's range in its means
CELLS = {2: (1, 16, 16), 3: (8, 8, 8)}  # of the occupancy map


class MmvImageProcessor(BaseImageProcessor):
    """Makes `patches`, `coords_mm`, `kinds` and `segment_ids` of whole studies, one row each."""

    model_input_names = ["patches", "coords_mm", "kinds", "segment_ids"]

    def __init__(self, patch=None, registers=0, preparation=None, **options):
        super().__init__(**options)
        self.patch, self.registers, self.preparation = patch, registers, preparation

    def preprocess(self, images, spacing_mm=None, unit="raw", return_tensors="pt", **_):
        """Rows of tokens, padded to the longest.

        Args:
          images: an array [y, x] (planar) or [z, y, x] (a volume in LPS+ order: z to the head, y to
            the back, x to the left), or a list of them; true intensities, tissue bright.
          spacing_mm: of a voxel, one number or one for each axis. None is allowed for planar
            studies alone, whose width is then `nominal_extent_mm`.
          unit: "HU" (Hounsfield units), "raw" (other numbers) or "shape" (0 and 1).
        """
        if unit not in self.preparation["intensities"]:
            raise ValueError(f"unit is {unit!r}; give 'HU', 'raw' or 'shape'.")
        studies = images if isinstance(images, list | tuple) else [images]
        rows = [self._row(np.asarray(study), spacing_mm, unit) for study in studies]
        longest = max(len(row["kinds"]) for row in rows)
        padded = {
            name: np.stack([_padded(row[name], longest) for row in rows])
            for name in self.model_input_names
        }
        return BatchFeature(padded, tensor_type=return_tensors)

    def _row(self, voxels, spacing_mm, unit):
        if voxels.ndim not in (2, 3) or not np.isfinite(voxels).all():
            raise ValueError("Give finite numbers [y, x] of a picture or [z, y, x] of a volume.")
        planar, shape = voxels.ndim == 2, voxels.shape[-2:]
        spacing = self._spacing(voxels, spacing_mm)
        voxels = voxels.reshape(-1, *shape)
        stored, (slope, intercept) = _to_int16(voxels != 0 if unit == "shape" else voxels)
        rules = self.preparation["empty_cells"]
        occupied = _occupancy(
            stored, unit, (slope, intercept), rules=rules, cells=CELLS[2 if planar else 3]
        )
        start, edge, tokens = self._crop(voxels.shape, spacing, planar)
        crop = start, edge, tokens, self.patch
        if self.preparation["tokens"] == "all":
            kept = np.ones(tokens, bool)
        else:
            kept = _kept(occupied, voxels.shape, spacing, crop)
        # The mean of a shape (0 and 1) is not a shape, so it has no coarser levels.
        factors = [] if unit == "shape" else _level_factors(stored.shape, spacing)
        level, scale = _level(stored, (slope, intercept), factors, edge / spacing)
        seen, inside = _resampled(level, voxels.shape, spacing, crop)
        seen = seen * np.float32(scale[0]) + np.float32(scale[1])
        low, high = _percentiles(stored, occupied)
        shown = self._normalised(seen, unit, (low * slope + intercept, high * slope + intercept))
        shown = np.where(inside, shown, np.float32(self.preparation["background"]))
        return self._tokens(shown, kept, np.array(voxels.shape) * spacing, (start, edge, tokens))

    def _spacing(self, voxels, spacing_mm):
        if spacing_mm is None and voxels.ndim == 3:
            raise ValueError("Give spacing_mm, the mm from voxel to voxel along z, y and x.")
        if spacing_mm is None:
            spacing_mm = self.preparation["nominal_extent_mm"] / voxels.shape[1]
        known = np.broadcast_to(np.asarray(spacing_mm, float), (voxels.ndim,))
        # A volume has three numbers and drops the NaN. A picture has two and keeps it as z.
        return np.concatenate([[math.nan], known])[-3:]  # planar: z is not known

    def _crop(self, shape, spacing, planar):
        """Lower corner (mm), edge of a voxel (mm) and tokens of the view of the whole study."""
        first, ndim = (1, 2) if planar else (0, 3)
        grid = self.preparation["grids"]["planar" if planar else "volume"]
        extent = (np.array(shape) * spacing)[first:]
        finest = spacing[1:].min() / self.preparation["oversampling"][str(ndim)]
        # Voxels are cubic. The axis that fills its grid first sets their edge,
        # which is at least `finest`.
        edge = max((extent / np.array(grid[first:])).max(), finest)
        patch = np.array(self.patch)
        tokens, middle = np.ones(3, int), np.zeros(3)
        # The small subtraction keeps rounding from adding a patch to a grid that fits exactly.
        tokens[first:] = np.maximum(np.ceil(extent / (edge * patch[first:]) - 1e-6), 1)
        middle[first:] = extent / 2
        return middle - tokens * patch * edge / 2, edge, tokens

    def _normalised(self, values, unit, percentiles):
        rule = self.preparation["intensities"][unit]
        low, high = rule.get("window", percentiles)
        middle, half = (low + high) / 2, max((high - low) / 2, 1e-6)
        limit = rule["clipped_at"]
        return ((values - middle) / half).clip(-limit, limit).astype(np.float32)

    def _tokens(self, voxels, kept, extent, crop):
        start, edge, (tz, ty, tx) = crop
        pz, py, px = self.patch
        extent = np.nan_to_num(extent)  # a planar study is a plane
        # A picture has one slice, which is repeated through the depth of the patch.
        tiles = voxels.reshape((tz, len(voxels) // tz, ty, py, tx, px))
        tiles = tiles.transpose((0, 2, 4, 1, 3, 5))[kept]
        patches = np.broadcast_to(tiles, (len(tiles), pz, py, px)).reshape(len(tiles), -1)
        sides, special = np.array(self.patch, float), 1 + self.registers
        middle = np.array([[tz, ty, tx]]) * sides / 2
        points = np.concatenate([middle] * special + [(np.argwhere(kept) + 0.5) * sides])
        in_mm = self.preparation["coordinates"] == "mm"
        coords = start + points * edge - extent / 2 if in_mm else points - middle
        kinds = np.array([*range(1, 1 + special), *[100] * len(patches)], np.int32)
        return {
            "patches": np.pad(patches, ((special, 0), (0, 0))).astype(np.float32),
            "coords_mm": coords.astype(np.float32),
            "kinds": kinds,
            "segment_ids": np.ones_like(kinds),
        }


def _padded(array, length):
    return np.pad(array, ((0, length - len(array)), *[(0, 0)] * (array.ndim - 1)))


def _to_int16(voxels):
    """16-bit numbers, and the slope and intercept of their true values."""
    if voxels.dtype == np.int16:
        return voxels, (1.0, 0.0)
    values = voxels.astype(np.float32 if voxels.dtype.kind == "f" else np.int64)
    low, high = values.min().item(), values.max().item()
    if np.array_equal(values, np.rint(values)) and high - low < LEVELS:
        # Whole numbers in a range of 16 bits are kept exactly; those beyond int16 are shifted.
        fits = low >= -LEVELS // 2 and high < LEVELS // 2
        slope, intercept = 1.0, 0.0 if fits else float(int(low) + LEVELS // 2)
    else:
        # Other numbers are spread over all 65,536 steps; the 1.0 is for an image of one value.
        slope = (high - low) / (LEVELS - 1) or 1.0
        intercept = low + slope * (LEVELS // 2)
    steps = np.rint((values.astype(np.float64) - intercept) / slope)
    return steps.clip(-LEVELS // 2, LEVELS // 2 - 1).astype(np.int16), (slope, intercept)


def _edges(voxels, cells):
    return np.arange(cells + 1) * voxels // cells


def _occupancy(stored, unit, scale, *, rules, cells):
    """A mask [8, 8, 8] or [1, 16, 16] of the study's cells with content."""
    slope, intercept = scale
    edges = [_edges(n, c) for n, c in zip(stored.shape, cells)]
    # A study can have fewer voxels than cells.
    # Equal edges would make `reduceat` return single voxels.
    starts = [np.unique(e[:-1]) for e in edges]
    sizes = [np.diff(np.append(s, n)) for s, n in zip(starts, stored.shape)]
    volume = sizes[0][:, None, None] * sizes[1][:, None] * sizes[2]

    def means(values):
        sums = values.astype(np.float64)
        for axis, s in enumerate(starts):
            sums = np.add.reduceat(sums, s, axis=axis)
        return sums / volume

    if unit == "shape":
        # -intercept / slope is the stored number of the value 0.
        occupied = means(stored > -intercept / slope) > 0
    elif unit == "HU":
        air = (rules["air_hu"] - intercept) / slope
        occupied = means(stored > air) > rules["share_of_cell"]
    else:
        low, high = _nearest_ranks(np.bincount(_unsigned(stored), minlength=LEVELS))
        bright = means(stored > low + rules["share_of_range"] * (high - low))
        mean = means(stored) - low
        square = means(np.square(stored.astype(np.float32) - low))
        # Mean square less squared mean: rounding can make it slightly negative.
        deviation = np.sqrt(np.maximum(square - mean**2, 0.0))
        occupied = (bright > rules["share_of_cell"]) | (deviation > rules["flat"] * (high - low))
    if not occupied.any():
        occupied[:] = True
    for axis, (e, s) in enumerate(zip(edges, starts)):
        occupied = occupied.take(np.searchsorted(s, e[:-1]), axis)  # a cell inside of a voxel
    return occupied


def _unsigned(stored):
    # `bincount` takes no negative numbers.
    return stored.ravel().astype(np.int64) + LEVELS // 2


def _nearest_ranks(counts):
    """The 0.5 and 99.5 percentiles of a histogram of 16-bit values."""
    ranks = np.ceil(np.array([0.5, 99.5]) / 100 * counts.sum()).clip(1)
    return tuple(int(v) - LEVELS // 2 for v in np.searchsorted(np.cumsum(counts), ranks))


def _percentiles(stored, occupied):
    # The cell of each voxel, an axis at a time.
    cells = [
        np.searchsorted(_edges(n, c), np.arange(n), side="right") - 1
        for n, c in zip(stored.shape, occupied.shape)
    ]
    inside = stored[occupied[np.ix_(*cells)]]
    return _nearest_ranks(np.bincount(_unsigned(inside), minlength=LEVELS))


def _kept(occupied, shape, spacing, crop):
    """A mask [tz, ty, tx] of the patches that meet a cell with content; the middle patch if none
    does.
    """
    start, edge, tokens, patch = crop
    meets = []
    for axis in range(3):
        voxels, cells, t = shape[axis], occupied.shape[axis], np.arange(tokens[axis])
        if axis == 0 and len(occupied) == 1:
            meets.append(np.ones((1, 1)))
            continue
        begin = start[axis] + t * edge * patch[axis]
        # Rounding must not make a patch meet a voxel that it only touches.
        first = np.floor(begin / spacing[axis] + 1e-6).clip(0).astype(int)
        end = np.ceil((begin + edge * patch[axis]) / spacing[axis] - 1e-6).astype(int)
        end = np.minimum(end, voxels)
        # Cell c begins at voxel c * voxels // cells.
        # Solved for c: the cells of the first and last voxel.
        low, high = -(-(first + 1) * cells // voxels) - 1, -(-end * cells // voxels)
        c = np.arange(cells)
        meets.append((first < end)[:, None] & (low[:, None] <= c) & (c < high[:, None]))
    # A patch is kept if one of the cells that it meets along z, y and x is occupied.
    kept = np.einsum("az,by,cx,zyx->abc", *(m.astype(float) for m in meets), occupied) > 0
    if not kept.any():
        kept[tuple(tokens // 2)] = True
    return kept


def _level(stored, scale, factors, step):
    """The coarsest means of a large study that are sharp enough for the view.

    Args:
      step: the edges of the view's voxels, in voxels of the study.
    Returns:
      (numbers, their factors), and the slope and intercept of the numbers.
    """
    slope, intercept = scale
    sharp = [
        number
        for number, own in enumerate(factors, start=1)
        if all(f == 1 or _triangle(s, f) >= 1 for s, f in zip(step, own))
    ]
    if not sharp:
        return (stored, np.ones(3, int)), (slope, intercept)
    low, high = int(stored.min()), int(stored.max())
    # A power of two that scales up a small range,
    # so that means between whole numbers are not lost by rounding.
    gain = 1 << max(0, (STEPS // max(high - low, 1)).bit_length() - 1)
    offset = low if gain > 1 else 0
    scale = slope / gain, intercept + offset * slope
    level, before = stored, np.ones(3, int)
    for factor in factors[: max(sharp)]:
        level = np.rint((_means(level, before, factor, stored.shape) - offset) * gain)
        # Later levels come from one that is scaled already.
        level, before, gain, offset = level.astype(np.int16), factor, 1, 0
    return (level, before), scale


def _level_factors(shape, spacing):
    full, factor, levels = np.array(shape), np.ones(3, int), []
    known = spacing[(full > 1) & np.isfinite(spacing)]
    spacing = np.where(np.isfinite(spacing), spacing, known.min() if known.size else 1.0)
    while np.prod(now := -(-full // factor)) > LARGE:
        several, size = now > 1, spacing * factor
        # Finer axes are halved first, until voxels are nearly cubic.
        factor = np.where(several & (size < 2 * size[several].min()), 2 * factor, factor)
        levels.append(factor)
    return levels


def _covered(voxels, factor):
    return np.minimum(voxels - np.arange(0, voxels, factor), factor)


def _means(voxels, before, factor, shape):
    """The next coarser level: each axis whose factor grows is halved.

    At an odd end the last cell is the mean of fewer voxels.
    """
    means = voxels.astype(np.float32)
    for axis in range(3):
        if factor[axis] == before[axis]:
            continue
        # How many voxels of the study each voxel of the finer level covers;
        # the last may cover fewer.
        counts = _covered(shape[axis], before[axis])
        values = np.moveaxis(means, axis, 0)
        pairs = len(values) // 2
        out = values[::2].copy()
        out[:pairs] = (out[:pairs] + values[1::2]) * np.float32(0.5)
        if len(values) == 2 * pairs and counts[-1] < counts[0]:
            share = np.float32(counts[-1] / (counts[-2] + counts[-1]))
            out[-1] = values[-2] + share * (values[-1] - values[-2])
        means = np.moveaxis(out, 0, axis)
    return means


def _triangle(step, factor):
    """Half the base of the triangle that makes voxels of width `step` from means of `factor`
    voxels.
    """
    return math.sqrt(max(step * step - (factor * factor - 1) / 2, 0.0)) / factor


def _resampled(level, shape, spacing, crop):
    """The view's voxels in the level's numbers, and a mask of those inside the study."""
    (values, factors), (start, edge, tokens, patch) = level, crop
    out, insides = values.astype(np.float32), []
    # The package's order, y, x, z: sums in float32 depend on it in the last bits.
    for axis in (1, 2, 0):
        if axis == 0 and np.isnan(spacing[0]):
            insides.append(np.ones(1, bool))
            continue
        there, factor, count = shape[axis], int(factors[axis]), int(tokens[axis] * patch[axis])
        points = (start[axis] + (np.arange(count) + 0.5) * edge) / spacing[axis]
        insides.append((points >= 0) & (points <= there))
        voxels = -(-there // factor)
        near = (points / factor - 0.5).clip(0, voxels - 1)
        # 1 is linear interpolation; a narrower triangle could fall between two voxels.
        width = max(_triangle(edge / spacing[axis], factor), 1.0)
        weights = np.maximum(1 - np.abs(np.arange(voxels) - near[:, None]) / width, 0.0)
        if factor > 1:  # the last one may be the mean of fewer
            weights *= _covered(there, factor) / factor
        weights /= weights.sum(axis=1, keepdims=True)
        product = np.tensordot(weights.astype(np.float32), out, (1, axis))
        out = np.moveaxis(product, 0, axis)
    y, x, z = insides
    return out, z[:, None, None] & y[:, None] & x
