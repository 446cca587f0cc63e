"""Vessels of a breast on a mammogram, and the calcification of their walls.

Positions are (row, column) in mm; K points of all vessels.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

STEP_MM = 0.3  # distance between points of a centre line
WALL_MM = 0.2  # thickness of the calcified layer of an artery
SEEN_MM = 0.16  # shortest path through calcium that counts as calcified


@dataclass(frozen=True)
class Vessels:
    """Centre lines of vessels, sampled every `STEP_MM`.

    Attributes:
      points: [K, 2] mm.
      tangent: [K, 2], unit vectors.
      radius: [K] mm.
      artery: [K] bool; only arteries calcify.
      tendency: [K, 2], how early the wall to the left and to the right of the line calcifies, of
        about unit variance.
    """

    points: np.ndarray
    tangent: np.ndarray
    radius: np.ndarray
    artery: np.ndarray
    tendency: np.ndarray


@dataclass(frozen=True)
class Drawn:
    """Vessels on pixels, [row, column].

    Attributes:
      blood_mm, wall_mm: path through blood and through the wall.
      tendency: how early the wall calcifies; -inf off the arteries.
    """

    blood_mm: np.ndarray
    wall_mm: np.ndarray
    tendency: np.ndarray


def grow(
    rng: np.random.Generator,
    inside: np.ndarray,
    pixel_mm: float,
    nipple: np.ndarray,
    tortuous: float,
) -> Vessels:
    """Arteries and veins that enter at the chest wall, wind towards the nipple and branch.

    They end at the border of the breast.

    Args:
      inside: bool [row, column], the breast.
      nipple: (row, column) in mm.
      tortuous: factor on the curvature of arteries.
    """
    size = np.array(inside.shape) * pixel_mm
    queue = []
    for n in range(int(rng.integers(5, 9))):
        # At least three arteries, so that there is enough wall to calcify.
        artery = n < 3 or rng.random() < 0.3
        start = np.array([rng.uniform(0.2, 0.8) * size[0], 0.0])
        queue.append(
            (
                start,
                rng.normal(0, 0.5),
                rng.uniform(0.55, 1.05) if artery else rng.uniform(0.7, 1.6),
                artery,
                rng.uniform(60, 110),
            )
        )
    lines = []
    while queue:
        start, heading, radius, artery, length = queue.pop()
        line, branches = _walk(
            rng,
            start,
            heading=heading,
            radius=radius,
            length=length,
            inside=inside,
            pixel_mm=pixel_mm,
            nipple=nipple,
            tortuous=tortuous if artery else 0.4 * tortuous,
        )
        if len(line) < 4:
            continue
        lines.append((line, radius, artery))
        queue += [
            (point, turn, 0.74 * radius, artery, 0.6 * length)
            for point, turn in branches
            if radius > 0.42
        ]
    return _points(rng, lines)


def _walk(
    rng: np.random.Generator,
    start: np.ndarray,
    heading: float,
    radius: float,
    length: float,
    inside: np.ndarray,
    pixel_mm: float,
    nipple: np.ndarray,
    tortuous: float,
) -> tuple[np.ndarray, list[tuple[np.ndarray, float]]]:
    """Points [P, 2] of a smooth walk, and its branches.

    Heading 0 leads away from the chest wall.
    """
    points, branches, bend, pace = [start], [], 0.0, 1.5
    for _ in range(int(length / pace)):
        # The curvature is autoregressive: a vessel winds, it does not jitter.
        bend = 0.8 * bend + rng.normal(0, 0.075 * tortuous)
        # Angles are arctan2(row, column), as below; the pull towards the nipple is weak.
        aim = np.arctan2(*(nipple - points[-1]))
        heading += bend + 0.035 * np.sin(aim - heading)
        point = points[-1] + pace * np.array([np.sin(heading), np.cos(heading)])
        row, column = (point / pixel_mm).astype(int)
        if not (
            0 <= row < inside.shape[0] and 0 <= column < inside.shape[1] and inside[row, column]
        ):
            break
        points.append(point)
        if rng.random() < 0.045:
            branches.append((point, heading + rng.choice([-1, 1]) * rng.uniform(0.35, 0.9)))
    return np.array(points), branches


def _points(rng: np.random.Generator, lines: list[tuple[np.ndarray, float, bool]]) -> Vessels:
    out = []
    for line, radius, artery in lines:
        # Points of a walk are 1.5 mm apart: positions in that unit, `STEP_MM` between them.
        at = np.arange(0, (len(line) - 1) * 1.5, STEP_MM) / 1.5
        fine = np.stack(
            [
                ndimage.gaussian_filter1d(
                    np.interp(at, np.arange(len(line)), line[:, i]), 4, mode="nearest"
                )
                for i in (0, 1)
            ],
            1,
        )
        tangent = np.gradient(fine, axis=0)
        tangent /= np.linalg.norm(tangent, axis=1, keepdims=True) + 1e-9
        # Distance to the end in mm: over the last 8 mm the vessel closes.
        rest = np.arange(len(fine), 0, -1) * STEP_MM
        taper = (
            radius
            * np.linspace(1, 0.72, len(fine))
            * np.clip(rest / 8, 0.15, 1)
            * (1 + 0.07 * _noise(rng, len(fine), 3.0))
        )
        # Part of the whole vessel, part that both walls share, and part of each wall.
        own, both = rng.normal(0, 0.7), _noise(rng, len(fine), 7.0)
        tendency = (
            own
            + 0.8 * both[:, None]
            + 0.45 * np.stack([_noise(rng, len(fine), 2.0) for _ in range(2)], 1)
            + 0.5 * (radius - 0.7)
        )
        out.append((fine, tangent, taper, np.full(len(fine), artery), tendency))
    return Vessels(*(np.concatenate(parts) for parts in zip(*out)))


def _noise(rng: np.random.Generator, count: int, scale_mm: float) -> np.ndarray:
    """Smooth noise [count] along a line, of about unit variance."""
    sigma = scale_mm / STEP_MM
    # White noise blurred over sigma points has variance 1 / (2 sqrt(pi) sigma).
    return ndimage.gaussian_filter1d(rng.standard_normal(count), sigma, mode="wrap") * np.sqrt(
        2 * np.sqrt(np.pi) * sigma
    )


def draw(
    vessels: Vessels, shape: tuple[int, int], pixel_mm: float, rng: np.random.Generator
) -> Drawn:
    """Vessels on pixels: chords of a cylinder for blood, chords of its wall for calcium.

    Each pixel reads the nearest centre line.
    """
    reach = int(np.ceil((vessels.radius.max() + pixel_mm) / pixel_mm))
    offsets = np.stack(np.meshgrid(*[np.arange(-reach, reach + 1)] * 2, indexing="ij"), -1).reshape(
        -1, 2
    )
    nearest = np.rint(vessels.points / pixel_mm).astype(int)
    pixel = nearest[:, None] + offsets
    off = pixel * pixel_mm - vessels.points[:, None]
    along = np.abs((off * vessels.tangent[:, None]).sum(-1))
    across = off[..., 0] * vessels.tangent[:, None, 1] - off[..., 1] * vessels.tangent[:, None, 0]
    # Slabs of neighbouring points overlap a little, so that no pixel falls between them.
    good = (along <= 0.75 * STEP_MM + 0.5 * pixel_mm) & (np.abs(across) < vessels.radius[:, None])
    good &= ((pixel >= 0) & (pixel < shape)).all(-1)
    k, j = np.nonzero(good)
    distance, flat = np.abs(across[k, j]), np.ravel_multi_index(tuple(pixel[k, j].T), shape)
    order = np.argsort(-distance, kind="stable")  # the nearest line is written last
    # The whole right side still reads the old k.
    k, distance, flat, left = k[order], distance[order], flat[order], (across[k, j] > 0)[order]

    def chord(r: np.ndarray) -> np.ndarray:
        return 2 * np.sqrt(np.maximum(r * r - distance * distance, 0))

    radius = vessels.radius[k]
    blood, wall, tendency = np.zeros(shape), np.zeros(shape), np.full(shape, -np.inf)
    blood.reshape(-1)[flat] = chord(radius)
    wall.reshape(-1)[flat] = np.where(vessels.artery[k], chord(radius) - chord(radius - WALL_MM), 0)
    tendency.reshape(-1)[flat] = np.where(
        vessels.artery[k], vessels.tendency[k, left.astype(int)], -np.inf
    )
    # In two dimensions the sd after the blur is 1 / (2 sqrt(pi) sigma).
    speckle = ndimage.gaussian_filter(rng.standard_normal(shape), 0.13 / pixel_mm) * (
        2 * np.sqrt(np.pi) * 0.13 / pixel_mm
    )
    return Drawn(blood, wall, tendency + 0.35 * speckle)


def calcify(drawn: Drawn, area_mm2: float, pixel_mm: float) -> np.ndarray:
    """Mask [row, column] of the parts of the walls that calcify first, of area `area_mm2`.

    The area is smaller if there is not enough wall.
    """
    # Take the pixels that calcify first, until their number gives the area.
    able = (drawn.wall_mm >= SEEN_MM) & np.isfinite(drawn.tendency)
    count = min(round(area_mm2 / pixel_mm**2), int(able.sum()))
    mask = np.zeros(able.shape, bool)
    if count:
        places = np.flatnonzero(able)
        mask.reshape(-1)[
            places[np.argsort(-drawn.tendency.reshape(-1)[places], kind="stable")[:count]]
        ] = True
    return mask
