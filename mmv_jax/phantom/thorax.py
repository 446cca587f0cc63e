"""Thorax in Hounsfield units: a patient painted on a grid organ by organ, with masks.

Arrays are [z, y, x].
"""

from copy import copy
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from mmv_jax.phantom import curves, organs
from mmv_jax.phantom.grid import Grid, Stamps, coverage, paint, paint_stamps, resample, voxels_deep
from mmv_jax.phantom.patient import Nodule, Patient
from mmv_jax.phantom.vessel_tree import vessel_tree

ANATOMY = {"left_lung": 1, "right_lung": 2, "cardiomediastinum": 3, "airways": 4}
# Bit flags, since findings overlap on a radiograph.
FINDINGS = {"nodule": 2, "effusion": 4, "pneumothorax": 8, "chest_tube": 128}
PITCH_MM = 6.0  # mm of the grid on which organs are evaluated; finer grids interpolate
AIR, FAT, MUSCLE, BLOOD, LIVER, FLUID, CORTEX = -1000.0, -100.0, 50.0, 42.0, 58.0, 12.0, 1150.0


@dataclass(frozen=True)
class Thorax:
    """A painted patient.

    Attributes:
      hu: float32 [z, y, x], without noise.
      anatomy: uint8 [z, y, x], values of `ANATOMY`.
      findings: uint8 [z, y, x], bit flags of `FINDINGS`.
      abdomen: bool [z, y, x], everything inside the ribs below the domes.
      grid: positions of the voxels.
    """

    hu: np.ndarray
    anatomy: np.ndarray
    findings: np.ndarray
    abdomen: np.ndarray
    grid: Grid


def ct_grid(resolution_mm: float = 3.6) -> Grid:
    """Field of view of a chest CT, in cubic voxels."""
    return Grid.centred((302.4, 288.0, 360.0), (resolution_mm,) * 3, (78.0, 0.0, 0.0))


def paint_thorax(patient: Patient, grid: Grid) -> Thorax:
    """The patient on this grid: organs, findings, vessels, bones."""
    f = _Fields(patient, grid)
    hu = _paint_trunk(f)
    box = grid.box(*f.bounds(f.cavity_mm < 12))
    chest = f.inside(box)
    lung = np.zeros(grid.shape, np.float32)
    anatomy, findings = np.zeros(grid.shape, np.uint8), np.zeros(grid.shape, np.uint8)
    abdomen = np.zeros(grid.shape, bool)
    lung[box], heart, abdomen[box] = _paint_chest(hu[box], chest)
    _paint_air_and_fluid(hu[box], findings[box], chest, lung[box])
    # x grows to the patient's left; 3 is the cardiomediastinum, 1 and 2 the left and right lung.
    left = chest.fine(f.at.x) > 0
    anatomy[box] = np.where(
        heart > 0.5, 3, (lung[box] > 0.5) * np.where(left, np.uint8(1), np.uint8(2))
    )
    _paint_vessels(hu, f, lung)
    _paint_bones(hu, f)
    _paint_airway(hu, anatomy, f)
    for nodule in patient.nodules:
        _paint_nodule(hu, findings, f, nodule)
    if patient.tube:
        _paint_tube(hu, findings, f)
    return Thorax(hu=hu, anatomy=anatomy, findings=findings, abdomen=abdomen, grid=grid)


class _Fields:
    """Signed distances of the organs, on a coarse grid in mm and on a fine one in voxels."""

    def __init__(self, patient: Patient, grid: Grid):
        self.patient, self.grid, self.coarse = patient, grid, grid.coarse(PITCH_MM)
        self.at = organs.At(patient, *patient.from_scanner(*self.coarse.axes()))
        self.cavity_mm, self.dome_mm = organs.cavity(self.at), organs.diaphragm(self.at)
        self.middle_mm = organs.mediastinum(self.at)
        # Points of a curve are closer than a voxel, so that it has no gaps; 1 mm bounds the cost.
        self.step = max(0.8 * min(grid.spacing_mm), 1.0)
        self.balls = Stamps(grid)

    def inside(self, box: tuple[slice, slice, slice]) -> "_Fields":
        """The same fields, read in a box of the grid."""
        # A shallow copy: the coarse fields are shared. `balls` stays on the whole grid.
        part = copy(self)
        part.grid = self.grid.part(box)
        return part

    def bounds(self, where: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Two corners in mm of the box around these voxels of the coarse grid."""
        found = [np.flatnonzero(where.any(tuple({0, 1, 2} - {axis}))) for axis in range(3)]
        lines = [a.ravel() for a in self.coarse.axes()]
        return tuple(np.array([line[at[end]] for line, at in zip(lines, found)]) for end in (0, -1))  # type: ignore[return-value]

    def fine(self, field: np.ndarray) -> np.ndarray:
        return resample(field, self.coarse, self.grid)

    def depth(self, field_mm: np.ndarray) -> np.ndarray:
        """Signed distance in voxels of the fine grid."""
        return self.fine(voxels_deep(field_mm, self.coarse, self.grid.spacing_mm))

    def stamp(self, curve: curves.SweptCurve) -> tuple[np.ndarray, np.ndarray]:
        # The rows of a frame are vectors: v @ R.T is R v.
        turn = self.patient.rotation()
        return self.balls(self.patient.to_scanner(curve.points), curve.radii, curve.frames @ turn.T)

    def noise(self, key: int, scale_mm: float) -> np.ndarray:
        """Smooth random field of about unit variance on the coarse grid.

        It is the same field for every grid of a patient.
        """
        rng = np.random.default_rng([*self.patient.seed, key])
        knots = Grid.centred((480.0, 400.0, 480.0), (scale_mm,) * 3, (60.0, 0.0, 0.0))
        # Linear interpolation between knots lowers the variance; 1.5 compensates for most of it.
        return resample(1.5 * rng.standard_normal(knots.shape, np.float32), knots, self.coarse)


def _paint_trunk(f: _Fields) -> np.ndarray:
    """HU [z, y, x] with air around skin, fat, muscle and glands."""
    skin_mm = organs.outline(f.at)
    skin = f.depth(skin_mm)
    hu = coverage(skin)
    # AIR + cover (FAT - AIR), in place: a fine volume is large.
    hu *= FAT - AIR
    hu += AIR
    hu += 110 * np.maximum(1 - np.abs(skin + 0.6), 0)  # the skin itself, thinner than a voxel
    marbling = f.noise(11, 14.0)
    paint(
        hu,
        coverage(f.depth(organs.muscles(f.at, skin_mm))),
        f.fine(MUSCLE - 14 * np.maximum(marbling, 0) ** 2),
    )
    if f.patient.breast:
        _paint_glands(hu, f, skin_mm, marbling)
    return hu


def _paint_glands(hu: np.ndarray, f: _Fields, skin_mm: np.ndarray, texture: np.ndarray) -> None:
    p = f.patient
    level, front = organs.breast_place(p)
    for s in (-1, 1):
        place = (level - 4, front - 12 * p.breast, s * 74 * p.half_width / 136)
        gland = np.maximum(organs.ellipsoid(f.at, place, (34, 22 * p.breast + 6, 38)), skin_mm + 5)
        box = f.grid.box(*f.bounds(gland < 6))
        part = f.inside(box)
        paint(
            hu[box],
            coverage(part.depth(gland)) * part.fine(np.clip(0.55 + 0.5 * texture, 0, 1)),
            30.0,
        )


def _paint_chest(hu: np.ndarray, f: _Fields) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Paint abdomen, lungs and mediastinum.

    Returns:
      Coverage of the lungs, coverage of the mediastinum, and the mask of the abdomen.
    """
    p = f.patient
    cavity, dome, middle = f.depth(f.cavity_mm), f.depth(f.dome_mm), f.depth(f.middle_mm)
    # For signed distances the maximum is the intersection, and a minus sign the complement.
    below = np.maximum(cavity, dome)
    paint(hu, coverage(below), f.fine(_abdomen(f)))
    # From here on `cavity` is the part above the diaphragm; the buffer is reused.
    np.maximum(cavity, -dome, out=cavity)
    lung = coverage(np.maximum(cavity, -middle))
    # The patient lies on the back: lung is denser behind (y grows to the back).
    paint(hu, lung, f.fine(-868 + 0.28 * f.at.y + 22 * f.noise(12, 9.0) + 12 * f.noise(13, 30.0)))
    heart = coverage(np.maximum(cavity, middle, out=cavity))
    # Fat between the vessels, from the carina up; there is little around the heart.
    high = np.clip((f.at.z - organs.carina(p) + 25) / 30, 0.15, 1)
    paint(hu, heart, f.fine(BLOOD - 130 * np.clip(f.noise(14, 16.0) - 0.4, 0, 1) * high))
    return lung, heart, below < 0


def _abdomen(f: _Fields) -> np.ndarray:
    """HU below the domes, on the coarse grid: liver, spleen and stomach in fat.

    The stomach has gas at its top.
    """
    p = f.patient
    hu = np.full(f.at.x.shape, -40.0, np.float32)
    _, yc, b = f.at.profile
    # psoas, crura, the great vessels
    beside = organs.superellipse(
        f.at.x - f.at.midline, f.at.y - yc - b + 20, a=46.0, b=30.0, power=2.0
    )
    paint(hu, coverage(beside / PITCH_MM), MUSCLE)
    for centre, axes, value in (
        ((p.dome_right - 62, -8, -58), (72, 88, 92), LIVER),
        ((p.dome_left - 62, 42, 84), (48, 44, 34), 48.0),
        ((p.dome_left - 52, -24, 48), (46, 56, 52), 30.0),
    ):
        paint(hu, coverage(organs.ellipsoid(f.at, centre, axes) / PITCH_MM), value)
    # Cut about 9 mm below the dome, so that the wall of the stomach and the diaphragm remain.
    gas = organs.ellipsoid(f.at, (p.dome_left - 24, -28, 58), (14, 26, 34))
    paint(hu, coverage(np.maximum(gas, f.dome_mm + 9) / PITCH_MM), -950.0)
    return hu


def _paint_air_and_fluid(
    hu: np.ndarray, findings: np.ndarray, f: _Fields, lung: np.ndarray
) -> None:
    """Paint pneumothorax and effusion, and subtract them from the lungs' coverage, in place."""
    p, at = f.patient, f.at
    if p.pneumothorax:
        side, rim, base = p.pneumothorax
        # The rim is deepest at the apex and in front, where air rises in a patient lying on the
        # back.
        depth_mm = (
            rim
            * (base + (1 - base) * np.clip(at.z / p.height, 0, 1) ** 1.5)
            * (0.72 + 0.28 * np.clip(-at.y / 70, -1, 1))
        )
        # `cavity_mm` is negative inside: edge > 0 within `depth_mm` of the wall.
        # `other` is negative on the side of the finding, 10 mm and more from the midline.
        edge, other = f.cavity_mm + depth_mm, 10 - side * at.x
        air = lung * coverage(f.depth(np.maximum(-edge, other)))
        left = lung * coverage(f.depth(other))
        paint(hu, left, hu + 30 + 1.2 * rim)  # the remaining lung holds less air
        paint(hu, air, AIR + 4)
        paint(hu, coverage(f.depth(np.abs(edge) - 0.8)) * left * 0.55, -60.0)  # the visceral pleura
        findings[air > 0.5] |= FINDINGS["pneumothorax"]
        # Subtracted before the effusion: fluid then replaces lung, not free air.
        lung -= air
    if p.effusion:
        side, level = p.effusion
        # The meniscus: fluid climbs at the wall and falls off inward over 16 mm.
        rise = (
            0.9
            * level
            * np.exp(np.minimum(f.cavity_mm, 0) / 16)
            * (1 + 0.35 * np.clip(at.y / 80, -1, 1))
        )
        surface = at.z - (level - organs.RECESS + 6 + rise)
        fluid = lung * coverage(f.depth(np.maximum(surface, 10 - side * at.x)))
        paint(hu, fluid, FLUID)
        findings[fluid > 0.5] |= FINDINGS["effusion"]
        lung -= fluid


def _paint_vessels(hu: np.ndarray, f: _Fields, lung: np.ndarray) -> None:
    """Paint arteries and veins of both lungs, within the remaining lung."""
    p = f.patient
    rng = np.random.default_rng([*p.seed, 21])
    # Vessels end 7 mm from the ribs, 5 mm from the diaphragm, 4 mm from the mediastinum.
    inside = np.maximum(np.maximum(f.cavity_mm + 7, 5 - f.dome_mm), 4 - f.middle_mm)
    targets, owner, roots = [], [], []
    for n, (side, height) in enumerate(((-1, -22), (1, -14))):
        places = np.argwhere((inside < 0) & (side * f.at.x > 0))
        chosen = places[rng.integers(len(places), size=520)] + rng.uniform(-0.5, 0.5, (520, 3))
        targets.append(
            # Voxel to scanner to patient: on row vectors v @ R is R.T v, the inverse rotation.
            (chosen * f.coarse.spacing_mm + np.array(f.coarse.origin_mm) - p.shift) @ p.rotation()
        )
        owner.append(np.full(520, n))
        roots.append([organs.carina(p) + height, 8, side * 28 * p.half_width / 136])
    tree = vessel_tree(
        np.array(roots),
        np.concatenate(targets),
        owner=np.concatenate(owner),
        rng=rng,
        scale=0.72 * p.vessels,
    )
    points, radius = curves.branch_points(tree[0], tree[1], np.minimum(tree[2], 6.5), f.step)
    index, cover = f.balls(p.to_scanner(points), np.repeat(radius[:, None], 3, 1))
    paint_stamps(hu, index, cover * lung.reshape(-1)[index], 38.0)


def _paint_bones(hu: np.ndarray, f: _Fields) -> None:
    p, step = f.patient, 2.2 * f.step
    for curve, cortex, marrow in (
        (curves.ribs(p, step), 1.4, 170),
        (curves.sternum(p, step), 0.8, 150),
        (curves.girdle(p, step), 2.0, 320),
        (curves.scapulae(p, step), 0.8, 170),
        (curves.arches(p, step), 0.7, 170),
    ):
        index, cover = f.stamp(curve)
        paint_stamps(hu, index, cover, CORTEX * p.bone)
        index, cover = f.stamp(curve.thinner(cortex))
        paint_stamps(hu, index, cover, marrow * p.bone)
    index, cover = f.stamp(curves.cartilages(p, step))
    paint_stamps(hu, index, cover, 90 + 2.0 * max(p.age - 40, 0))
    _paint_vertebrae(hu, f)


def _paint_vertebrae(hu: np.ndarray, f: _Fields) -> None:
    """Paint vertebral bodies with bright end plates, discs between them, and the canal behind."""
    p = f.patient
    heights = np.linspace(-190, p.height + 90, 24)
    y, x = curves.spine_centre(p, heights)
    line = p.to_scanner(np.stack([heights, y, x], 1))
    box = f.grid.box(line.min(0) - [30, 22, 24], line.max(0) + [30, 34, 24])
    part = f.grid.part(box)
    pz, py, px = p.from_scanner(*part.axes())
    cy, cx = curves.spine_centre(p, pz)
    # np.interp needs ascending levels. `place` is 0 at a level, 0.5 in the middle of a body.
    levels = curves.vertebra_levels(p)[::-1]
    place = np.interp(pz, levels, np.arange(len(levels))) % 1
    size = 23.0 * p.height / 203
    disc = np.abs(place - 0.5) - 0.39  # > 0 in the disc, in parts of a vertebra
    radius = organs.superellipse(
        px - cx, py - cy, a=14.5 + 2 * np.clip(disc + 0.39, 0, 1), b=np.float32(13.0), power=2.4
    )
    canal = np.hypot(px - cx, py - cy - 20) - 8.5
    voxel = min(part.spacing_mm)
    view = hu[box]
    paint(view, coverage(canal / max(part.spacing_mm)), 30.0)
    density = np.where(disc > 0, 85.0, 170 * p.bone).astype(np.float32)
    # End plates: within 1.3 mm of the border between body and disc.
    density = np.where(np.abs(disc) * size < 1.3, 480 * p.bone, density)
    # The cortex of a body, 1.8 mm thick; a disc has none.
    density = np.where((radius > -1.8) & (disc <= 0), 330 * p.bone, density)
    paint(view, coverage(radius / voxel), density)


def _paint_airway(hu: np.ndarray, anatomy: np.ndarray, f: _Fields) -> None:
    # Thinning by a negative amount widens it by 1.6 mm: first the wall, then the lumen over it.
    curve = curves.airway(f.patient, f.step * 1.5)
    index, cover = f.stamp(curve.thinner(-1.6))
    paint_stamps(hu, index, cover * 0.8, 30.0)
    index, cover = f.stamp(curve)
    paint_stamps(hu, index, cover, AIR + 5)
    anatomy.reshape(-1)[index[cover > 0.5]] = ANATOMY["airways"]


def _paint_nodule(hu: np.ndarray, findings: np.ndarray, f: _Fields, nodule: Nodule) -> None:
    p, r = f.patient, nodule.diameter_mm / 2
    centre = organs.lung_point(p, nodule.centre)
    box = f.grid.box(
        p.to_scanner(centre[None])[0] - 1.3 * r - 6, p.to_scanner(centre[None])[0] + 1.3 * r + 6
    )
    part = f.grid.part(box)
    z, y, x = (a - c for a, c in zip(p.from_scanner(*part.axes()), centre))
    rng = np.random.default_rng(nodule.seed)
    waves = rng.normal(0, 1, (5, 3)) * 2.2
    distance = np.sqrt(z * z + y * y + x * x) + 1e-3
    # Waves over the direction only: the surface stays star-shaped, crossed once by every ray.
    bumps = (
        sum(np.sin((w[0] * z + w[1] * y + w[2] * x) / distance + i) for i, w in enumerate(waves))
        / 5
    )
    surface = distance - r * (1 + (0.22 if nodule.spiculated else 0.06) * bumps)
    cover = (
        coverage(voxels_deep(surface, part, part.spacing_mm))
        # np.gradient needs two voxels along each axis.
        if min(part.shape) > 1
        else np.zeros(part.shape)
    )
    paint(hu[box], cover, 45.0)
    findings[box][cover > 0.5] |= FINDINGS["nodule"]
    if nodule.spiculated:
        ends = rng.standard_normal((14, 3))
        ends *= (r * rng.uniform(1.4, 2.1, 14) / np.linalg.norm(ends, axis=1))[:, None]
        points, radius = curves.branch_points(
            np.repeat(centre[None], 14, 0), centre + ends, np.full(14, 0.8), f.step
        )
        index, weight = f.balls(p.to_scanner(points), np.repeat(radius[:, None], 3, 1))
        paint_stamps(hu, index, weight, 20.0)


def _paint_tube(hu: np.ndarray, findings: np.ndarray, f: _Fields) -> None:
    """Paint a chest tube: a PVC wall (attenuation estimated by us), air inside, a barium stripe."""
    line = f.patient.to_scanner(curves.tube(f.patient, 0.8 * f.step))
    ball = np.ones((len(line), 3), np.float32)
    index, cover = f.balls(line, 4.2 * ball)
    paint_stamps(hu, index, cover, 600.0)
    findings.reshape(-1)[index[cover > 0.4]] |= FINDINGS["chest_tube"]
    index, cover = f.balls(line, 2.6 * ball)
    paint_stamps(hu, index, cover, -900.0)
    index, cover = f.balls(line + np.array([0, 0, 3.0]), 1.0 * ball)
    paint_stamps(hu, index, cover, 9000.0)


def scan(thorax: Thorax, rng: np.random.Generator, noise_hu: float = 18.0) -> np.ndarray:
    """Stored CT int16 [z, y, x]: slightly blurred, correlated noise, clipped to -1024 .. 3071."""
    # The blur correlates the noise and lowers its sd to about 0.4, so it is scaled up below.
    grain = ndimage.gaussian_filter(rng.standard_normal(thorax.hu.shape, np.float32), 0.55)
    out = ndimage.gaussian_filter(thorax.hu, 0.4) + noise_hu / 0.37 * grain
    return np.clip(np.rint(out), -1024, 3071).astype(np.int16)
