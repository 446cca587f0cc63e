"""What is long and thin: ribs, spine, clavicles, scapulae, airways, vessels, tubes, as points with radii and frames, in the patient's frame."""

from dataclasses import dataclass

import numpy as np

from mmv_jax.phantom import organs
from mmv_jax.phantom.patient import Patient


@dataclass(frozen=True)
class Curve:
    """points [N, 3], radii [N, 3], frames [N, 3, 3] (rows: flat direction, width direction, tangent), as `grid.stamp` reads them; all (z, y, x)."""

    points: np.ndarray
    radii: np.ndarray
    frames: np.ndarray

    @staticmethod
    def join(curves: list["Curve"]) -> "Curve":
        return Curve(*(np.concatenate([getattr(c, n) for c in curves]) for n in ("points", "radii", "frames")))

    def thinner(self, by: float) -> "Curve":
        """The marrow inside a cortex of this thickness."""
        return Curve(self.points, np.maximum(self.radii - by, 0.3), self.frames)


def evenly(points: np.ndarray, step: float) -> np.ndarray:
    """[N, 3]: a polyline resampled at equal distances of at most `step` mm."""
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    at = np.linspace(0, length[-1], max(2, int(np.ceil(length[-1] / step)) + 1))
    return np.stack([np.interp(at, length, points[:, i]) for i in range(3)], 1)


def ribbon(points: np.ndarray, flat: float, width: float, outward: np.ndarray, step: float) -> Curve:
    """A band along a polyline, `flat` mm half thick along the direction `outward` ([3], or [N, 3] at the given points)."""
    line = evenly(points, step)
    tangent = np.gradient(line, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True) + 1e-9
    if outward.ndim == 2:
        near = np.rint(np.linspace(0, len(outward) - 1, len(line))).astype(int)
        outward = outward[near]
    normal = outward - (outward * tangent).sum(1, keepdims=True) * tangent
    normal /= np.linalg.norm(normal, axis=1, keepdims=True) + 1e-9
    frames = np.stack([normal, np.cross(tangent, normal), tangent], 1).astype(np.float32)
    radii = np.broadcast_to(np.array([flat, width, max(1.5 * step, min(flat, width))], np.float32), (len(line), 3))
    return Curve(line, radii, frames)


def vertebra_levels(p: Patient) -> np.ndarray:
    """[14]: z of the lower faces of C7, T1 .. T12, L1."""
    heights = 23.0 * p.height / 203 * (0.82 + 0.03 * np.arange(14))
    return p.height + 22 - np.cumsum(heights)


def spine_centre(p: Patient, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(y, x) of the vertebral bodies' middle."""
    _, yc, b = organs.cavity_profile(p, z)
    return yc + b - 15, organs.midline(p, z)


def _on_wall(p: Patient, side: int, phi: np.ndarray, z: np.ndarray, off: float) -> np.ndarray:
    """[N, 3]: the point of the cavity's wall, `off` mm outward, at an angle from the back (0) round the side to the front (pi)."""
    a, yc, b = organs.cavity_profile(p, z)
    sin, cos = np.abs(np.sin(phi)) ** (2 / organs.POWER), np.cos(phi)
    x = side * (a + off) * sin + 0.6 * organs.midline(p, z)
    y = yc + (b + off) * np.sign(cos) * np.abs(cos) ** (2 / organs.POWER)
    return np.stack([z, y, x], 1)


_RIB_END = [2.55, 2.6, 2.6, 2.58, 2.55, 2.5, 2.42, 2.3, 2.15, 1.95, 1.35, 0.8]  # angle, ribs 1 to 12
_RIB_DROP = [34, 54, 72, 86, 98, 108, 116, 122, 124, 122, 112, 104]  # mm from the spine to the front, were it to get there


def _rib_line(p: Patient, number: int, side: int, phi: np.ndarray) -> np.ndarray:
    start = vertebra_levels(p)[number + 1] + 16
    part = phi / np.pi
    drop = _RIB_DROP[number] * p.height / 203 * (part - 0.09 * np.sin(2 * np.pi * part))
    return _on_wall(p, side, phi, start - drop, 5.0)


def ribs(p: Patient, step: float) -> Curve:
    """Twelve pairs, each from its vertebra round the chest, obliquely down to the front."""
    out = []
    for number, end in enumerate(_RIB_END):
        for side in (-1, 1):
            phi = np.linspace(0.13, end, 40)
            line = _rib_line(p, number, side, phi)
            y, x = spine_centre(p, line[:1, 0])
            neck = np.array([[line[0, 0] + 2, y[0] + 6, x[0] + side * 17]])
            outward = line - np.stack([line[:, 0], 0 * line[:, 0], 0 * line[:, 0]], 1)
            outward[:, 0] = 0.25 if number else 60.0  # the first rib lies flat
            line = np.concatenate([neck, line])
            outward = np.concatenate([outward[:1], outward])
            out.append(ribbon(line, 3.4, 5.2 + 0.2 * min(number, 6), outward, step))
    return Curve.join(out)


def cartilages(p: Patient, step: float) -> Curve:
    """From the ends of ribs 1 to 8 to the sternum."""
    out = []
    for number in range(8):
        for side in (-1, 1):
            end = _rib_line(p, number, side, np.array([_RIB_END[number]]))[0]
            z = max(end[0] + 4 + 5 * number, p.height - 178 * p.height / 203)
            _, yc, b = (float(v) for v in organs.cavity_profile(p, np.float32(z)))
            goal = np.array([z, yc - b - 5, side * 15])
            middle = (end + goal) / 2 + np.array([-8.0 - number, -5, side * 4])
            out.append(ribbon(np.stack([end, middle, goal]), 4.0, 6.0, np.array([0.0, 1, 0]), step))
    return Curve.join(out)


def sternum(p: Patient, step: float) -> Curve:
    """Manubrium and body, a flat bone in front."""
    z = np.linspace(p.height - 34, p.height - 185 * p.height / 203, 30)
    _, yc, b = organs.cavity_profile(p, z)
    return ribbon(np.stack([z, yc - b - 6, 0 * z], 1), 5.0, 15.0, np.array([0.0, 1, 0]), step)


def girdle(p: Patient, step: float) -> Curve:
    """Clavicles, humeri, and the spines and lateral borders of the scapulae."""
    out, top, w = [], p.height, p.half_width / 136
    _, yc, b = (float(v) for v in organs.cavity_profile(p, np.float32(top - 22)))
    front = yc - b
    for s in (-1, 1):
        outer = [[top - 16, front - 8, s * 55 * w], [top - 3, front + 18, s * 100 * w], [top + 6, 22, s * 152 * w]]
        clavicle = np.array([[top - 24, front - 7, s * 20], *outer])
        t = np.linspace(0, 3, 30)
        smooth = np.stack([np.interp(t, np.arange(4), clavicle[:, i]) for i in range(3)], 1)
        for _ in range(12):
            smooth[1:-1] = (smooth[:-2] + 2 * smooth[1:-1] + smooth[2:]) / 4
        out.append(ribbon(smooth, 5.0, 6.0, np.array([1.0, 0, 0]), step))
        arm = np.array([[top - 22, 14, s * 172 * w], [top - 60, 12, s * 184 * w], [top - 170, 8, s * 200 * w]])
        out.append(ribbon(arm, 10.0, 10.0, np.array([0.0, 1, 0]), step))
        out.append(ribbon(np.array([[top - 12, 14, s * 166 * w], [top - 24, 14, s * 170 * w]]), 21.0, 21.0, np.array([0.0, 1, 0]), step))
    return Curve.join(out)


def scapulae(p: Patient, step: float) -> Curve:
    """Thin plates behind the ribs with thick borders, as bands from the medial to the lateral border."""
    out = []
    top = p.height - 6
    for s in (-1, 1):
        edges = []
        for v in np.linspace(0, 1, max(4, int(110 / (1.6 * step)))):
            phi = np.array([0.62 + 0.1 * v, 1.36 - 0.52 * v])
            ends = _on_wall(p, s, phi, np.full(2, top - 12 - 108 * v), 19.0)
            edges.append(ends[1])
            line = _on_wall(p, s, np.linspace(phi[0], phi[1], 9), np.full(9, top - 12 - 108 * v), 19.0)
            out.append(ribbon(line, 1.1, 1.6 * step, np.stack([0 * line[:, 0], np.ones(9), 0.6 * s * np.ones(9)], 1), step))
        out.append(ribbon(np.array(edges), 3.2, 4.2, np.array([0.0, 1, 0]), step))
        shelf = _on_wall(p, s, np.linspace(0.64, 1.25, 9), np.linspace(top - 34, top + 8, 9), np.float32(28))
        out.append(ribbon(shelf, 3.0, 5.0, np.array([1.0, 0, 0]), step))
    return Curve.join(out)


def arches(p: Patient, step: float) -> Curve:
    """Pedicles, transverse and spinous processes of the vertebrae."""
    out = []
    for z in vertebra_levels(p)[:-1]:
        y, x = (float(v[0]) for v in spine_centre(p, np.array([z])))
        up = z + 15
        for s in (-1, 1):
            out.append(ribbon(np.array([[up, y + 8, x + s * 12], [up - 1, y + 26, x + s * 13]]), 3.6, 4.6, np.array([0.0, 0, 1]), step))
            out.append(ribbon(np.array([[up, y + 26, x + s * 12], [up + 3, y + 34, x + s * 30]]), 3.6, 4.4, np.array([0.0, 1, 0]), step))
            out.append(ribbon(np.array([[up - 2, y + 28, x + s * 12], [up - 7, y + 36, x]]), 2.6, 7.0, np.array([0.0, 1, 0]), step))
        out.append(ribbon(np.array([[up - 7, y + 34, x], [up - 22, y + 52, x]]), 2.6, 5.0, np.array([0.0, 0, 1]), step))
    return Curve.join(out)


def airway(p: Patient, step: float) -> Curve:
    """The lumen of trachea and main bronchi, down to the hila."""
    c, w = organs.carina(p), p.half_width / 136
    r = 8.6 if p.male else 7.4
    trachea = np.array([[p.height + 70, -6, 0], [p.height + 10, 2, 0], [c + 30, 14, -3], [c, 18, 0]])
    right = np.array([[c + 2, 18, 0], [c - 14, 17, -15], [c - 26, 16, -32 * w], [c - 40, 18, -44 * w]])
    left = np.array([[c + 2, 18, 0], [c - 14, 18, 18], [c - 28, 18, 40 * w], [c - 40, 20, 54 * w]])
    lines = [(trachea, r), (right, 0.68 * r), (left, 0.62 * r)]
    return Curve.join([ribbon(line, radius, radius, np.array([0.0, 1, 0.1]), step) for line, radius in lines])


def tube(p: Patient, step: float) -> np.ndarray:
    """[N, 3]: the course of a chest tube from outside the lateral wall, between two ribs, up to the apex."""
    assert p.tube is not None
    side, entry, tip = p.tube
    z = entry * p.height
    wall = _on_wall(p, side, np.array([1.75, 1.62, 1.5]), np.array([z - 26, z - 8, z + 12]), 0.0)
    skin = wall[0] + np.array([-34, -16, side * 34])
    high = _on_wall(p, side, np.array([1.25, 0.95]), np.array([0.5 * (z + tip * p.height), tip * p.height]), -14.0)
    knots = np.concatenate([[skin], [wall[0] + np.array([0, 0, side * 12.0])], wall[1:2], wall[2:] - np.array([0, 0, side * 9.0]), high])
    t = np.linspace(0, len(knots) - 1, 60)
    line = np.stack([np.interp(t, np.arange(len(knots)), knots[:, i]) for i in range(3)], 1)
    for _ in range(25):
        line[1:-1] = (line[:-2] + 2 * line[1:-1] + line[2:]) / 4
    return evenly(line, step)


def vessel_tree(root: np.ndarray, targets: np.ndarray, rng: np.random.Generator, scale: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A tree that splits its targets in two along their longest axis, again and again.

    Args:
      root: [3]. targets: [N, 3], the places to be supplied. scale: radius of a branch with one target, mm.
    Returns:
      (start, end, radius): [B, 3], [B, 3], [B]; the radius grows with the number of targets as by Murray's law (cube), a little faster.
    """
    starts, ends, radii = [], [], []
    stack = [(root, targets)]
    while stack:
        start, here = stack.pop()
        centre = here.mean(0)
        reach = 1.0 if len(here) == 1 else 0.42
        end = start + reach * (centre - start) + rng.normal(0, 0.05, 3) * np.linalg.norm(centre - start)
        starts.append(start)
        ends.append(end)
        radii.append(scale * len(here) ** 0.4)
        if len(here) > 1:
            axis = np.ptp(here, axis=0).argmax() if rng.random() < 0.8 else rng.integers(3)
            order = here[:, axis].argsort()
            cut = int(np.clip(len(here) * rng.uniform(0.3, 0.7), 1, len(here) - 1))
            stack += [(end, here[order[:cut]]), (end, here[order[cut:]])]
    return np.array(starts), np.array(ends), np.array(radii)


def branch_points(start: np.ndarray, end: np.ndarray, radius: np.ndarray, step: float) -> tuple[np.ndarray, np.ndarray]:
    """([N, 3], [N]): points at most `step` mm apart along straight branches, and their radii."""
    count = np.maximum(2, np.ceil(np.linalg.norm(end - start, axis=1) / step).astype(int))
    branch = np.repeat(np.arange(len(start)), count)
    part = (np.arange(len(branch)) - np.repeat(np.cumsum(count) - count, count)) / count[branch]
    return start[branch] + part[:, None] * (end - start)[branch], radius[branch]
