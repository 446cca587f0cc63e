"""Voxel grids, and soft shapes on them.

Axes: z to the head, y to the back, x to the patient's left; N points, K voxels of a box.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Grid:
    """Box of voxels in scanner space; all positions are (z, y, x), in mm.

    Attributes:
      shape: number of voxels.
      spacing_mm: distance between voxel centres.
      origin_mm: position of the centre of voxel (0, 0, 0).
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    origin_mm: tuple[float, float, float]

    @classmethod
    def centred(
        cls,
        extent_mm: tuple[float, float, float],
        spacing_mm: tuple[float, float, float],
        centre_mm: tuple[float, float, float],
    ) -> "Grid":
        """Grid that fills a box of this extent around a centre."""
        # The origin is the centre of a voxel: n voxels span s (n - 1) between centres.
        shape = tuple(max(1, round(e / s)) for e, s in zip(extent_mm, spacing_mm))
        origin = tuple(c - s * (n - 1) / 2 for c, s, n in zip(centre_mm, spacing_mm, shape))
        return cls(shape, spacing_mm, origin)  # type: ignore[arg-type]

    def axes(self) -> list[np.ndarray]:
        """Positions (mm) along z, y and x, shaped to broadcast."""
        lines = [
            o + s * np.arange(n, dtype=np.float32)
            for n, s, o in zip(self.shape, self.spacing_mm, self.origin_mm)
        ]
        return [
            line.reshape([-1 if i == axis else 1 for i in range(3)])
            for axis, line in enumerate(lines)
        ]

    def coarse(self, pitch_mm: float) -> "Grid":
        """Grid over the same box with voxels of at least `pitch_mm`.

        It is one voxel wider on each side.
        """
        spacing = tuple(max(pitch_mm, s) for s in self.spacing_mm)
        # One more voxel on each side: interpolation at the border needs both neighbours.
        extent = tuple(n * s + 2 * p for n, s, p in zip(self.shape, self.spacing_mm, spacing))
        centre = tuple(
            o + s * (n - 1) / 2 for o, s, n in zip(self.origin_mm, self.spacing_mm, self.shape)
        )
        return Grid.centred(extent, spacing, centre)  # type: ignore[arg-type]

    def box(self, low_mm: np.ndarray, high_mm: np.ndarray) -> tuple[slice, slice, slice]:
        """Slices of the voxels between two corners, cut at the border of the grid."""
        slices = []
        for axis, (n, s, o) in enumerate(zip(self.shape, self.spacing_mm, self.origin_mm)):
            first = int(np.clip(np.floor((low_mm[axis] - o) / s), 0, n))
            # Rounded outward; + 1 since a slice excludes its end.
            end = int(np.clip(np.ceil((high_mm[axis] - o) / s) + 1, first, n))
            slices.append(slice(first, end))
        return tuple(slices)  # type: ignore[return-value]

    def part(self, box: tuple[slice, slice, slice]) -> "Grid":
        """Grid of such a box."""
        shape = tuple(b.stop - b.start for b in box)
        origin = tuple(o + s * b.start for o, s, b in zip(self.origin_mm, self.spacing_mm, box))
        return Grid(shape, self.spacing_mm, origin)  # type: ignore[arg-type]


def resample(field: np.ndarray, source: Grid, target: Grid) -> np.ndarray:
    """Field interpolated linearly onto another grid.

    It uses three products with sparse matrices stored densely: BLAS is faster than gathers.
    """
    matrices = []
    for axis in range(3):
        n, s, o = source.shape[axis], source.spacing_mm[axis], source.origin_mm[axis]
        m, t, p = target.shape[axis], target.spacing_mm[axis], target.origin_mm[axis]
        # Outside the source its last value is repeated. `left` stops at n - 2: left + 1 must exist.
        place = np.clip((p + t * np.arange(m) - o) / s, 0, n - 1)
        left = np.minimum(place.astype(int), n - 2)
        matrix = np.zeros((m, n), np.float32)
        matrix[np.arange(m), left] = 1 - (place - left)
        matrix[np.arange(m), left + 1] = place - left
        matrices.append(matrix)
    out = matrices[1] @ field  # z stays, y grows
    out = out @ matrices[2].T
    return np.tensordot(matrices[0], out, axes=(1, 0))


def voxels_deep(field_mm: np.ndarray, on: Grid, voxel_mm: tuple[float, float, float]) -> np.ndarray:
    """Signed distance in voxels, measured by their extent along the local normal.

    Flat voxels are then neither jagged nor blurred.
    """
    gradients = np.gradient(field_mm, *on.spacing_mm)
    norm = np.sqrt(sum(g * g for g in gradients)) + 1e-6
    # A box voxel has the extent sum |n_i| v_i along the unit normal n.
    width = sum(np.abs(g) * v for g, v in zip(gradients, voxel_mm)) / norm
    # Dividing by its gradient makes a distance of an approximate one. Near a centre the gradient
    # vanishes, and the field is left alone.
    return (field_mm / (np.maximum(norm, 0.5) * np.maximum(width, min(voxel_mm)))).astype(
        np.float32
    )


def coverage(field: np.ndarray) -> np.ndarray:
    """Share of each voxel inside (field < 0), from a signed distance in voxels."""
    cover = np.subtract(np.float32(0.5), field, dtype=np.float32)
    np.maximum(cover, 0, out=cover)
    return np.minimum(cover, 1, out=cover)


def paint(volume: np.ndarray, cover: np.ndarray, value: np.ndarray | float | int) -> None:
    """Replace the covered share of each voxel by a value, in place."""
    change = np.subtract(value, volume, dtype=np.float32)
    change *= cover
    volume += change


class Stamps:
    """Unions of ellipsoids on one grid; close together, they form a tube.

    It keeps a scratch volume between calls.
    """

    def __init__(self, grid: Grid):
        self.grid = grid
        self.best = np.zeros(grid.shape, np.float32).reshape(-1)

    def __call__(
        self, points: np.ndarray, radii: np.ndarray, frames: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Voxels of the union, and their coverage.

        A tube thinner than a voxel keeps its volume: it is widened to the voxel, and its coverage
        lowered accordingly.

        Args:
          points: [N, 3] centres in mm.
          radii: [N, 3] semi-axes in mm along the frame; the last axis is the tube's own direction.
          frames: [N, 3, 3], rows are unit vectors; by default the grid's axes.
        Returns:
          (index, cover): [M] flat voxel numbers and coverage. A repeated voxel has the same
            coverage.
        """
        spacing = np.array(self.grid.spacing_mm)
        frames = np.broadcast_to(np.eye(3), (len(points), 3, 3)) if frames is None else frames
        # Half a voxel along each axis of the frame, and the semi-axes widened by it.
        half = 0.5 * np.sqrt(frames**2 @ spacing**2)
        wide = np.sqrt(radii**2 + half**2)
        # The bounding box of an ellipsoid: sqrt(sum_k (frame_kj wide_k)**2) along grid axis j.
        reach = np.sqrt(np.einsum("nkj,nk->nj", frames**2, wide**2)) + spacing / 2
        # Points of similar size share a lattice. One large ball among thin tubes would otherwise
        # give every point a large box.
        size = np.ceil(np.log(reach.max(1)) / np.log(1.4)).astype(int)
        parts = []
        for one in np.unique(size):
            at = np.flatnonzero(size == one)
            parts.append(
                self._raise(
                    points[at],
                    radii[at],
                    frames=frames[at],
                    half=half[at],
                    wide=wide[at],
                    reach=reach[at].max(0),
                )
            )
        index = np.concatenate(parts)
        found = self.best[index]
        # Only touched voxels are cleared: wiping the whole volume at every call would be slow.
        self.best[index] = 0
        return index, found

    def _raise(
        self,
        points: np.ndarray,
        radii: np.ndarray,
        frames: np.ndarray,
        half: np.ndarray,
        wide: np.ndarray,
        reach: np.ndarray,
    ) -> np.ndarray:
        """Raise the scratch volume to the coverage of these ellipsoids.

        Returns the touched voxels.
        """
        spacing = np.array(self.grid.spacing_mm)
        steps = [np.arange(-n, n + 1) for n in ((reach + spacing / 2) / spacing).astype(int)]
        lattice = np.stack(np.meshgrid(*steps, indexing="ij"), -1).reshape(-1, 3)
        nearest = np.rint((points - self.grid.origin_mm) / spacing).astype(int)
        rest = nearest * spacing + self.grid.origin_mm - points
        # rho: distance in semi-axes. slope: its change over a voxel along the gradient. Both are
        # quadratic forms of the offset.
        axes = frames / wide[..., None]
        rho2 = _quadratic(axes, lattice * spacing, rest)
        rho = np.sqrt(np.maximum(rho2, 1e-6))
        slope2 = _quadratic(axes * (2 * half / wide)[..., None], lattice * spacing, rest)
        cover = np.clip(0.5 + (1 - rho) * rho / np.sqrt(np.maximum(slope2, 1e-9)), 0, 1)
        # The first two semi-axes span the cross-section: coverage falls as its area was widened.
        cover *= (radii / wide)[:, :2].prod(1).astype(np.float32)[:, None]
        n, k = np.nonzero(cover > 0.01)
        margin = np.array([s[-1] for s in steps])
        border = ((nearest < margin) | (nearest + margin >= self.grid.shape)).any(1)
        if border.any():  # only a point near the border can reach beyond it
            kept = ~border[n]
            voxel = nearest[n[~kept]] + lattice[k[~kept]]
            kept[~kept] = ((voxel >= 0) & (voxel < self.grid.shape)).all(1)
            n, k = n[kept], k[kept]
        stride = np.array([self.grid.shape[1] * self.grid.shape[2], self.grid.shape[2], 1])
        index = (nearest @ stride)[n] + (lattice @ stride)[k]
        # Many ellipsoids meet in one voxel; plain indexing would keep the last, not the largest.
        np.maximum.at(self.best, index, cover[n, k])
        return index


def _quadratic(axes: np.ndarray, lattice: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """Squared norms [N, K] float32: |axes_n (lattice_k + rest_n)|².

    One matrix product over the ten monomials of the lattice computes them.
    """
    # With F = A.T A: l F l + 2 (F r) l + r F r. F is symmetric, so its six upper entries are
    # enough.
    form = np.einsum("nki,nkj->nij", axes, axes)
    linear = np.einsum("nij,nj->ni", form, rest)
    i, j = np.triu_indices(3)
    twice = np.where(i == j, 1.0, 2.0)
    left = np.concatenate(
        [form[:, i, j] * twice, 2 * linear, (linear * rest).sum(1, keepdims=True)], 1
    )
    right = np.concatenate([lattice[:, i] * lattice[:, j], lattice, np.ones((len(lattice), 1))], 1)
    return left.astype(np.float32) @ right.T.astype(np.float32)


def paint_stamps(
    volume: np.ndarray, index: np.ndarray, cover: np.ndarray, value: float | int
) -> None:
    """`paint` at the voxels of `Stamps`, in place; `volume` must be contiguous."""
    flat = volume.reshape(-1)
    # A repeated voxel is read before it is written: it is painted once, not twice.
    flat[index] = flat[index] + cover * (value - flat[index])
