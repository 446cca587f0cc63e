"""A thorax in Hounsfield units: a patient painted on a grid, organ by organ, with the masks of what was painted. Arrays are [z, y, x]."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from mmv_jax.phantom import curves, organs
from mmv_jax.phantom.grid import Grid, Stamps, coverage, paint, paint_stamps, resample, voxels_deep
from mmv_jax.phantom.patient import Nodule, Patient

ANATOMY = {"left_lung": 1, "right_lung": 2, "cardiomediastinum": 3, "airways": 4}
# Bit flags, since findings overlap on a radiograph.
FINDINGS = {"nodule": 2, "effusion": 4, "pneumothorax": 8, "chest_tube": 128}
PITCH_MM = 6.0  # of the grid on which organs are evaluated; finer grids read them by interpolation
AIR, FAT, MUSCLE, BLOOD, LIVER, FLUID, CORTEX, TUBE = -1000.0, -100.0, 50.0, 42.0, 58.0, 12.0, 850.0, 1500.0


@dataclass(frozen=True)
class Thorax:
    """A painted patient.

    Attributes:
      hu: float32 [z, y, x], without noise.
      anatomy: uint8 [z, y, x], values of `ANATOMY`.
      findings: uint8 [z, y, x], bit flags of `FINDINGS`.
      grid: where the voxels are.
    """

    hu: np.ndarray
    anatomy: np.ndarray
    findings: np.ndarray
    grid: Grid


def ct_grid(resolution_mm: float = 3.6) -> Grid:
    """The field of view of a chest CT, in cubic voxels."""
    return Grid.centred((302.4, 288.0, 360.0), (resolution_mm,) * 3, (78.0, 0.0, 0.0))


def paint_thorax(patient: Patient, grid: Grid) -> Thorax:
    """The patient on this grid. Work grows with the number of voxels: 0.15 s for 80x80x100."""
    coarse = grid.coarse(PITCH_MM)
    at = patient.from_scanner(*coarse.axes())
    fields = _Fields(patient, coarse, grid, at)
    hu = np.full(grid.shape, AIR, np.float32)
    _paint_trunk(hu, fields)
    lung, heart = _paint_chest(hu, fields)
    findings = np.zeros(grid.shape, np.uint8)
    lung = _paint_air_and_fluid(hu, findings, fields, lung)
    _paint_vessels(hu, fields, lung)
    _paint_bones(hu, fields)
    anatomy = np.zeros(grid.shape, np.uint8)
    left = fields.fine(at[2]) > 0
    anatomy[lung > 0.5] = ANATOMY["right_lung"]
    anatomy[(lung > 0.5) & left] = ANATOMY["left_lung"]
    anatomy[heart > 0.5] = ANATOMY["cardiomediastinum"]
    _paint_airway(hu, anatomy, fields)
    for nodule in patient.nodules:
        _paint_nodule(hu, findings, fields, nodule)
    if patient.tube:
        _paint_tube(hu, findings, fields)
    return Thorax(hu, anatomy, findings, grid)


class _Fields:
    """The organs' signed distances on the coarse grid, read on the fine one in voxels."""

    def __init__(self, patient: Patient, coarse: Grid, grid: Grid, at: tuple[np.ndarray, ...]):
        self.patient, self.coarse, self.grid, self.at = patient, coarse, grid, at
        self.cavity_mm = organs.cavity(patient, *at)
        self.step = max(0.8 * min(grid.spacing_mm), 1.0)
        self.balls = Stamps(grid)

    def fine(self, field: np.ndarray) -> np.ndarray:
        return resample(field, self.coarse, self.grid)

    def depth(self, field_mm: np.ndarray) -> np.ndarray:
        """Signed distance in voxels of the fine grid."""
        return self.fine(voxels_deep(field_mm, self.coarse, self.grid.spacing_mm))

    def stamp(self, curve: curves.Curve) -> tuple[np.ndarray, np.ndarray]:
        turn = self.patient.rotation().astype(np.float32)
        return self.balls(self.patient.to_scanner(curve.points), curve.radii, curve.frames @ turn.T)

    def noise(self, key: int, scale_mm: float) -> np.ndarray:
        """A smooth random field of unit variance on the fine grid, the same field on every grid of a patient."""
        rng = np.random.default_rng([*self.patient.seed, key])
        knots = Grid.centred((480.0, 400.0, 480.0), (scale_mm,) * 3, (60.0, 0.0, 0.0))
        return resample(1.5 * rng.standard_normal(knots.shape, np.float32), knots, self.grid)


def _paint_trunk(hu: np.ndarray, f: _Fields) -> None:
    skin_mm = organs.outline(f.patient, *f.at)
    skin = f.depth(skin_mm)
    paint(hu, coverage(skin), 20.0)
    paint(hu, coverage(f.depth(skin_mm + 2)), FAT)
    muscle = f.depth(organs.muscles(f.patient, *f.at, skin_mm))
    marbling = f.noise(11, 14.0)
    paint(hu, coverage(muscle), MUSCLE - 14 * np.maximum(marbling, 0) ** 2)
    if f.patient.breast:
        _paint_glands(hu, f, skin, marbling)


def _paint_glands(hu: np.ndarray, f: _Fields, skin: np.ndarray, texture: np.ndarray) -> None:
    p, (z, y, x) = f.patient, f.at
    level = p.height - 140 - 14 * p.breast
    _, yc, b = organs.cavity_profile(p, np.float32(level))
    front = float(yc - b) - 22 - 0.6 * p.fat
    for s in (-1, 1):
        gland = f.depth(organs.ellipsoid(z, y, x, (level, front - 12 * p.breast, s * 78 * p.half_width / 136), (34, 24 * p.breast + 6, 38)))
        paint(hu, coverage(gland) * np.clip(0.55 + 0.5 * texture, 0, 1) * (skin < -1), 30.0)


def _paint_chest(hu: np.ndarray, f: _Fields) -> tuple[np.ndarray, np.ndarray]:
    """Paints abdomen, lungs and mediastinum; returns the coverage of lungs and of mediastinum."""
    p = f.patient
    dome_mm = organs.diaphragm(p, *f.at)
    cavity, dome, middle = f.depth(f.cavity_mm), f.depth(dome_mm), f.depth(organs.mediastinum(p, *f.at))
    paint(hu, coverage(np.maximum(cavity, dome)), f.fine(_abdomen(f)))
    gas = organs.ellipsoid(*f.at, (p.dome_left - 25, -28, 62), (13, 24, 30))
    paint(hu, coverage(np.maximum(f.depth(gas), dome + 3.0)), -950.0)
    chest = np.maximum(cavity, -dome)
    lung = coverage(np.maximum(chest, -middle))
    gravity = f.fine(f.at[1])
    paint(hu, lung, -868 + 0.28 * gravity + 16 * f.noise(12, 9.0) + 12 * f.noise(13, 30.0))
    heart = coverage(np.maximum(chest, middle))
    fatty = np.clip(f.noise(14, 16.0) - 0.4, 0, 1) * np.clip((f.fine(f.at[0]) - organs.carina(p) + 25) / 30, 0.15, 1)
    paint(hu, heart, BLOOD - 130 * fatty)
    return lung, heart


def _abdomen(f: _Fields) -> np.ndarray:
    """HU below the domes: liver, spleen and stomach in fat."""
    p, (z, y, x) = f.patient, f.at
    hu = np.full(x.shape, -70.0, np.float32)
    for centre, axes, value in (
        ((p.dome_right - 62, -8, -58), (72, 88, 92), LIVER),
        ((p.dome_left - 62, 42, 84), (48, 44, 34), 48.0),
        ((p.dome_left - 52, -24, 48), (46, 56, 52), 30.0),
    ):
        paint(hu, coverage(organs.ellipsoid(z, y, x, centre, axes) / PITCH_MM), value)
    return hu


def _paint_air_and_fluid(hu: np.ndarray, findings: np.ndarray, f: _Fields, lung: np.ndarray) -> np.ndarray:
    """Paints pneumothorax and effusion into the lungs; returns the coverage of what lung is left."""
    p = f.patient
    z, y, x = f.at
    if p.pneumothorax:
        side, rim, base = p.pneumothorax
        height = np.clip(z / p.height, 0, 1)
        depth_mm = rim * (base + (1 - base) * height**1.5) * (0.72 + 0.28 * np.clip(-y / 70, -1, 1))
        edge = f.cavity_mm + depth_mm
        side_mm = 10 - side * x
        rim_cover = lung * coverage(f.depth(np.maximum(-edge, side_mm)))
        left = lung * coverage(f.depth(side_mm))
        paint(hu, left, hu + 60 + 2.2 * rim)  # the lung that is left holds less air
        paint(hu, rim_cover, AIR + 4)
        line = coverage(f.depth(np.abs(edge) - 0.8)) * left * 0.55
        paint(hu, line, -60.0)
        findings[rim_cover > 0.5] |= FINDINGS["pneumothorax"]
        lung = lung - rim_cover
    if p.effusion:
        side, level = p.effusion
        rise = 0.9 * level * np.exp(np.minimum(f.cavity_mm, 0) / 16) * (1 + 0.35 * np.clip(y / 80, -1, 1))
        surface = z - (level - organs.RECESS + 6 + rise)
        cover = lung * coverage(f.depth(np.maximum(surface, 10 - side * x)))
        paint(hu, cover, FLUID)
        findings[cover > 0.5] |= FINDINGS["effusion"]
        lung = lung - cover
    return lung


def _paint_vessels(hu: np.ndarray, f: _Fields, lung: np.ndarray) -> None:
    """Arteries and veins of both lungs, within the lung that is left."""
    p = f.patient
    rng = np.random.default_rng([*p.seed, 21])
    middle_mm = organs.mediastinum(p, *f.at)
    inside = np.maximum(np.maximum(f.cavity_mm + 7, 5 - organs.diaphragm(p, *f.at)), 4 - middle_mm)
    starts, ends, radii = [], [], []
    for side, height in ((-1, -22), (1, -14)):
        places = np.argwhere((inside < 0) & (side * f.at[2] > 0))
        targets = places[rng.integers(len(places), size=230)] + rng.uniform(-0.5, 0.5, (230, 3))
        targets = (targets * f.coarse.spacing_mm + np.array(f.coarse.origin_mm) - p.shift) @ p.rotation()
        root = np.array([organs.carina(p) + height, 8, side * 30 * p.half_width / 136])
        tree = curves.vessel_tree(root, targets, rng, 0.62 * p.vessels)
        for into, part in zip((starts, ends, radii), tree):
            into.append(part)
    start, end, radius = (np.concatenate(v) for v in (starts, ends, radii))
    radius = np.minimum(radius, 6.0)
    for low, high in ((0, 1.2), (1.2, 2.5), (2.5, 7)):
        chosen = (radius > low) & (radius <= high)
        points, r = curves.branch_points(start[chosen], end[chosen], radius[chosen], f.step)
        index, cover = f.balls(p.to_scanner(points), np.repeat(r[:, None], 3, 1))
        paint_stamps(hu, index, cover * lung.reshape(-1)[index], 38.0)


def _paint_bones(hu: np.ndarray, f: _Fields) -> None:
    p, step = f.patient, 1.6 * f.step
    for curve, cortex in (
        (curves.ribs(p, step), 1.2),
        (curves.sternum(p, step), 1.4),
        (curves.girdle(p, step), 2.0),
        (curves.scapulae(p, step), 0.8),
        (curves.arches(p, step), 1.4),
    ):
        index, cover = f.stamp(curve)
        paint_stamps(hu, index, cover, CORTEX * p.bone)
        index, cover = f.stamp(curve.thinner(cortex))
        paint_stamps(hu, index, cover, 190 * p.bone)
    index, cover = f.stamp(curves.cartilages(p, step))
    paint_stamps(hu, index, cover, 90 + 2.0 * max(p.age - 40, 0))
    _paint_vertebrae(hu, f)


def _paint_vertebrae(hu: np.ndarray, f: _Fields) -> None:
    """Bodies with bright end plates, discs between them, and the canal behind."""
    p = f.patient
    heights = np.linspace(-140, p.height + 90, 24)
    y, x = curves.spine_centre(p, heights)
    line = p.to_scanner(np.stack([heights, y, x], 1))
    box = f.grid.box(line.min(0) - [30, 22, 24], line.max(0) + [30, 34, 24])
    part = f.grid.part(box)
    pz, py, px = p.from_scanner(*part.axes())
    cy, cx = curves.spine_centre(p, pz)
    levels = curves.vertebra_levels(p)[::-1]
    place = np.interp(pz, levels, np.arange(len(levels))) % 1
    size = 23.0 * p.height / 203
    disc = np.abs(place - 0.5) - 0.39  # > 0 in the disc, in parts of a vertebra
    radius = organs.superellipse(px - cx, py - cy, 15.5 + 2 * np.clip(disc + 0.39, 0, 1), np.float32(13.5), 2.4)
    canal = np.hypot(px - cx, py - cy - 20) - 8.5
    voxel = min(part.spacing_mm)
    view = hu[box]
    paint(view, coverage(canal / max(part.spacing_mm)), 30.0)
    density = np.where(disc > 0, 85.0, 210 * p.bone).astype(np.float32)
    density = np.where(np.abs(disc) * size < 1.3, 480 * p.bone, density)
    density = np.where((radius > -1.8) & (disc <= 0), 430 * p.bone, density)
    paint(view, coverage(radius / voxel), density)


def _paint_airway(hu: np.ndarray, anatomy: np.ndarray, f: _Fields) -> None:
    curve = curves.airway(f.patient, f.step * 1.5)
    index, cover = f.stamp(curve.thinner(-1.6))
    paint_stamps(hu, index, cover * 0.8, 30.0)
    index, cover = f.stamp(curve)
    paint_stamps(hu, index, cover, AIR + 5)
    anatomy.reshape(-1)[index[cover > 0.5]] = ANATOMY["airways"]


def _paint_nodule(hu: np.ndarray, findings: np.ndarray, f: _Fields, nodule: Nodule) -> None:
    p, r = f.patient, nodule.diameter_mm / 2
    centre = organs.lung_point(p, nodule.centre)
    box = f.grid.box(p.to_scanner(centre[None])[0] - 1.3 * r - 6, p.to_scanner(centre[None])[0] + 1.3 * r + 6)
    part = f.grid.part(box)
    z, y, x = (a - c for a, c in zip(p.from_scanner(*part.axes()), centre))
    rng = np.random.default_rng(nodule.seed)
    waves = rng.normal(0, 1, (5, 3)) * 2.2
    distance = np.sqrt(z * z + y * y + x * x) + 1e-3
    bumps = sum(np.sin((w[0] * z + w[1] * y + w[2] * x) / distance + i) for i, w in enumerate(waves)) / 5
    surface = distance - r * (1 + (0.22 if nodule.spiculated else 0.06) * bumps)
    cover = coverage(voxels_deep(surface, part, part.spacing_mm)) if min(part.shape) > 1 else np.zeros(part.shape)
    paint(hu[box], cover, 45.0)
    findings[box][cover > 0.5] |= FINDINGS["nodule"]
    if nodule.spiculated:
        ends = rng.standard_normal((14, 3))
        ends *= (r * rng.uniform(1.4, 2.1, 14) / np.linalg.norm(ends, axis=1))[:, None]
        points, radius = curves.branch_points(np.repeat(centre[None], 14, 0), centre + ends, np.full(14, 0.8), f.step)
        index, weight = f.balls(p.to_scanner(points), np.repeat(radius[:, None], 3, 1))
        paint_stamps(hu, index, weight, 20.0)


def _paint_tube(hu: np.ndarray, findings: np.ndarray, f: _Fields) -> None:
    """A wall of plastic, air inside, and the stripe that is made to be seen."""
    line = f.patient.to_scanner(curves.tube(f.patient, 0.8 * f.step))
    ball = np.ones((len(line), 3), np.float32)
    index, cover = f.balls(line, 4.2 * ball)
    paint_stamps(hu, index, cover, 220.0)
    findings.reshape(-1)[index[cover > 0.4]] |= FINDINGS["chest_tube"]
    index, cover = f.balls(line, 2.6 * ball)
    paint_stamps(hu, index, cover, -900.0)
    index, cover = f.balls(line + np.array([0, 0, 3.0]), 0.9 * ball)
    paint_stamps(hu, index, cover, 3000.0)


def scan(thorax: Thorax, rng: np.random.Generator, noise_hu: float = 18.0) -> np.ndarray:
    """int16 [z, y, x]: what a scanner would store: blurred a little, correlated noise, clipped to -1024 .. 3071."""
    grain = ndimage.gaussian_filter(rng.standard_normal(thorax.hu.shape, np.float32), 0.55)
    out = ndimage.gaussian_filter(thorax.hu, 0.4) + noise_hu / 0.37 * grain
    return np.clip(np.rint(out), -1024, 3071).astype(np.int16)
