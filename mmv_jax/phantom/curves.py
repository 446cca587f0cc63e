"""Long and thin structures: ribs, spine, clavicles, scapulae, airways, vessels, tubes.

Each is a set of points with radii and frames, in the patient's frame.
"""

from dataclasses import dataclass

import numpy as np

from mmv_jax.phantom import organs
from mmv_jax.phantom.patient import Patient


@dataclass(frozen=True)
class SweptCurve:
    """Points along curves with ellipsoids, for `grid.stamp`; all (z, y, x).

    Attributes:
      points: [N, 3] mm.
      radii: [N, 3] mm.
      frames: [N, 3, 3], rows: flat direction, width direction, tangent.
    """

    points: np.ndarray
    radii: np.ndarray
    frames: np.ndarray

    @staticmethod
    def join(curves: list["SweptCurve"]) -> "SweptCurve":
        """All curves as one."""
        return SweptCurve(
            *(
                np.concatenate([getattr(c, n) for c in curves])
                for n in ("points", "radii", "frames")
            )
        )

    def thinner(self, by: float) -> "SweptCurve":
        """The marrow inside a cortex of `by` mm."""
        return SweptCurve(self.points, np.maximum(self.radii - by, 0.3), self.frames)


def evenly(points: np.ndarray, step: float) -> np.ndarray:
    """Polyline [N, 3] resampled at equal distances of at most `step` mm."""
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    at = np.linspace(0, length[-1], max(2, int(np.ceil(length[-1] / step)) + 1))
    return np.stack([np.interp(at, length, points[:, i]) for i in range(3)], 1)


def ribbon(
    points: np.ndarray, flat: float, width: float, outward: np.ndarray, step: float
) -> SweptCurve:
    """Band along a polyline, `flat` and `width` in mm as half axes.

    Args:
      outward: direction of the flat axis: [3], or [N, 3] at the given points.
      step: largest distance of points, mm.
    """
    line = evenly(points, step)
    tangent = np.gradient(line, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True) + 1e-9
    if outward.ndim == 2:
        near = np.rint(np.linspace(0, len(outward) - 1, len(line))).astype(int)
        outward = outward[near]
    normal = outward - (outward * tangent).sum(1, keepdims=True) * tangent
    normal /= np.linalg.norm(normal, axis=1, keepdims=True) + 1e-9
    frames = np.stack([normal, np.cross(tangent, normal), tangent], 1).astype(np.float32)
    # At least 1.5 steps along the line, so that neighbouring ellipsoids overlap.
    radii = np.broadcast_to(
        np.array([flat, width, max(1.5 * step, min(flat, width))], np.float32), (len(line), 3)
    )
    return SweptCurve(line, radii, frames)


def sticks(
    start: np.ndarray, end: np.ndarray, flat: float, width: float, outward: np.ndarray, step: float
) -> SweptCurve:
    """Straight bands from each start to its end, [B, 3].

    Args:
      outward: one direction [3], or one per band [B, 3].
    """
    length = np.linalg.norm(end - start, axis=1, keepdims=True)
    tangent = (end - start) / length
    outward = np.broadcast_to(outward, start.shape)
    normal = outward - (outward * tangent).sum(1, keepdims=True) * tangent
    normal /= np.linalg.norm(normal, axis=1, keepdims=True) + 1e-9
    points, band = branch_points(start, end, np.arange(len(start)), step)
    frames = np.stack([normal, np.cross(tangent, normal), tangent], 1)[band]
    return SweptCurve(
        points,
        np.broadcast_to(
            np.array([flat, width, max(1.5 * step, min(flat, width))]), (len(points), 3)
        ),
        frames,
    )


def vertebra_levels(p: Patient) -> np.ndarray:
    """Heights z [17] of the lower faces of C7, T1 .. T12, L1 .. L4, mm."""
    heights = 23.0 * p.height / 203 * (0.82 + 0.03 * np.arange(17))
    return p.height + 22 - np.cumsum(heights)


def spine_centre(p: Patient, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Position (y, x) of the middle of the vertebral bodies, mm."""
    _, yc, b = organs.cavity_profile(p, z)
    return np.asarray(yc + b - 15), np.asarray(organs.midline(p, z))


def _on_wall(p: Patient, side: int, phi: np.ndarray, z: np.ndarray, off: float) -> np.ndarray:
    """Points [N, 3] on the cavity's wall, `off` mm outward.

    The angle `phi` runs from the back (0) round the side to the front (pi).
    """
    a, yc, b = organs.cavity_profile(p, z)
    # Parametric superellipse: |sin| and |cos| to the power 2 / POWER, with their signs.
    sin, cos = np.abs(np.sin(phi)) ** (2 / organs.POWER), np.cos(phi)
    x = side * (a + off) * sin + 0.6 * organs.midline(p, z)
    y = yc + (b + off) * np.sign(cos) * np.abs(cos) ** (2 / organs.POWER)
    return np.stack([z, y, x], 1)


# Angle at which each rib ends, ribs 1 to 12.
_RIB_END = [2.55, 2.6, 2.6, 2.58, 2.55, 2.5, 2.42, 2.3, 2.15, 1.95, 1.35, 0.8]
# Fall from the spine to the front in mm, if the rib reached it.
_RIB_DROP = [34, 54, 72, 86, 98, 108, 116, 122, 124, 122, 112, 104]


def _rib_line(p: Patient, number: int, side: int, phi: np.ndarray) -> np.ndarray:
    # Level 0 belongs to C7, so rib 1 (number 0) starts at level 1. The sine makes the fall steepest
    # at the side and slight at both ends.
    start = vertebra_levels(p)[number + 1] + 16
    part = phi / np.pi
    drop = _RIB_DROP[number] * p.height / 203 * (part - 0.09 * np.sin(2 * np.pi * part))
    return _on_wall(p, side, phi=phi, z=start - drop, off=5.0)


def ribs(p: Patient, step: float) -> SweptCurve:
    """Twelve pairs of ribs, each from its vertebra round the chest, obliquely down to the front."""
    out = []
    for number, end in enumerate(_RIB_END):
        for side in (-1, 1):
            phi = np.linspace(0.13, end, 40)
            line = _rib_line(p, number, side, phi)
            y, x = spine_centre(p, line[:1, 0])
            neck = np.array([[line[0, 0] + 2, y[0] + 6, x[0] + side * 17]])
            # The horizontal direction from the body's axis, tilted a little upward.
            outward = line - np.stack([line[:, 0], 0 * line[:, 0], 0 * line[:, 0]], 1)
            outward[:, 0] = 0.25 if number else 60.0  # the first rib lies flat
            line = np.concatenate([neck, line])
            outward = np.concatenate([outward[:1], outward])
            out.append(
                ribbon(line, 3.4, width=5.2 + 0.2 * min(number, 6), outward=outward, step=step)
            )
    return SweptCurve.join(out)


def cartilages(p: Patient, step: float) -> SweptCurve:
    """Cartilages from the ends of ribs 1 to 8 to the sternum."""
    out = []
    for number in range(8):
        for side in (-1, 1):
            end = _rib_line(p, number, side, np.array([_RIB_END[number]]))[0]
            z = max(end[0] + 4 + 5 * number, p.height - 178 * p.height / 203)
            _, yc, b = (float(v) for v in organs.cavity_profile(p, np.float32(z)))
            goal = np.array([z, yc - b - 5, side * 15])
            middle = (end + goal) / 2 + np.array([-8.0 - number, -5, side * 4])
            out.append(
                ribbon(
                    np.stack([end, middle, goal]),
                    4.0,
                    width=6.0,
                    outward=np.array([0.0, 1, 0]),
                    step=step,
                )
            )
    return SweptCurve.join(out)


def sternum(p: Patient, step: float) -> SweptCurve:
    """Manubrium and body of the sternum, a flat bone in front."""
    z = np.linspace(p.height - 34, p.height - 185 * p.height / 203, 30)
    _, yc, b = organs.cavity_profile(p, z)
    return ribbon(
        np.stack([z, yc - b - 6, 0 * z], 1),
        5.0,
        width=15.0,
        outward=np.array([0.0, 1, 0]),
        step=step,
    )


def girdle(p: Patient, step: float) -> SweptCurve:
    """Clavicles and the heads of the humeri (the arms are raised out of the field)."""
    out, top, w = [], p.height, p.half_width / 136
    _, yc, b = (float(v) for v in organs.cavity_profile(p, np.float32(top - 22)))
    front = yc - b
    for s in (-1, 1):
        outer = [
            [top - 16, front - 8, s * 55 * w],
            [top - 3, front + 18, s * 100 * w],
            [top + 6, 22, s * 152 * w],
        ]
        clavicle = np.array([[top - 24, front - 7, s * 20], *outer])
        t = np.linspace(0, 3, 30)
        smooth = np.stack([np.interp(t, np.arange(4), clavicle[:, i]) for i in range(3)], 1)
        # A binomial filter rounds the corners of the polyline; the ends stay.
        for _ in range(12):
            smooth[1:-1] = (smooth[:-2] + 2 * smooth[1:-1] + smooth[2:]) / 4
        out.append(ribbon(smooth, 5.0, width=6.0, outward=np.array([1.0, 0, 0]), step=step))
        out.append(
            ribbon(
                np.array([[top - 10, 14, s * 160 * w], [top - 18, 14, s * 163 * w]]),
                20.0,
                width=20.0,
                outward=np.array([0.0, 1, 0]),
                step=step,
            )
        )
    return SweptCurve.join(out)


def scapulae(p: Patient, step: float) -> SweptCurve:
    """Thin plates behind the ribs, with a thick lateral border and a spine."""
    out, top = [], p.height - 6
    across, down = (
        g.ravel()
        for g in np.meshgrid(np.linspace(0, 1, int(80 / step)), np.linspace(0, 1, int(110 / step)))
    )
    for s in (-1, 1):
        inner, outer = 0.62 + 0.1 * down, 1.36 - 0.52 * down
        plate = _on_wall(
            p, s, phi=inner + across * (outer - inner), z=top - 12 - 108 * down, off=19.0
        )
        facing = np.array([0.0, 0.86, 0.5 * s])
        frame = np.stack([facing, np.cross(facing, [1.0, 0, 0]), [1.0, 0, 0]])
        out.append(
            SweptCurve(
                # Points lie about a step apart in the plate: radii of 0.9 steps close it.
                plate,
                np.broadcast_to([1.2, 0.9 * step, 0.9 * step], plate.shape),
                np.broadcast_to(frame, (len(plate), 3, 3)),
            )
        )
        border = np.linspace(0, 1, 12)
        out.append(
            ribbon(
                _on_wall(p, s, phi=1.36 - 0.52 * border, z=top - 12 - 108 * border, off=19.0),
                3.2,
                width=4.4,
                outward=np.array([0.0, 1, 0]),
                step=step,
            )
        )
        out.append(
            ribbon(
                _on_wall(
                    p,
                    s,
                    phi=np.linspace(0.64, 1.3, 9),
                    z=np.linspace(top - 34, top + 8, 9),
                    off=28.0,
                ),
                3.0,
                width=5.0,
                outward=np.array([1.0, 0, 0]),
                step=step,
            )
        )
    return SweptCurve.join(out)


def arches(p: Patient, step: float) -> SweptCurve:
    """Pedicles, transverse processes, laminae and spinous processes of the vertebrae."""
    z = vertebra_levels(p)[:-1]
    y, x = spine_centre(p, z)

    def at(up: float | int, back: float | int, side: float | int) -> np.ndarray:
        return np.stack([z + up, y + back, x + side], 1)

    out = [
        sticks(
            at(8, 34, 0),
            at(-7, 52, 0),
            flat=2.4,
            width=5.0,
            outward=np.array([0.0, 0, 1]),
            step=step,
        )
    ]
    for s in (-1, 1):
        out.append(
            sticks(
                at(15, 8, s * 12),
                at(14, 26, s * 13),
                flat=3.4,
                width=4.6,
                outward=np.array([0.0, 0, 1]),
                step=step,
            )
        )
        out.append(
            sticks(
                at(15, 26, s * 12),
                at(18, 34, s * 30),
                flat=3.2,
                width=4.4,
                outward=np.array([0.0, 1, 0]),
                step=step,
            )
        )
        out.append(
            sticks(
                at(13, 28, s * 12),
                at(8, 36, 0),
                flat=2.4,
                width=6.0,
                outward=np.array([0.0, 1, 0]),
                step=step,
            )
        )
    return SweptCurve.join(out)


def airway(p: Patient, step: float) -> SweptCurve:
    """Lumen of trachea and main bronchi, down to the hila."""
    c, w = organs.carina(p), p.half_width / 136
    r = 8.6 if p.male else 7.4
    trachea = np.array(
        [[p.height + 70, -6, 0], [p.height + 10, 2, 0], [c + 30, 14, -3], [c, 18, 0]]
    )
    right = np.array(
        [[c + 2, 18, 0], [c - 14, 17, -15], [c - 26, 16, -32 * w], [c - 40, 18, -44 * w]]
    )
    left = np.array([[c + 2, 18, 0], [c - 14, 18, 18], [c - 28, 18, 40 * w], [c - 40, 20, 54 * w]])
    lines = [(trachea, r), (right, 0.68 * r), (left, 0.62 * r)]
    return SweptCurve.join(
        [
            ribbon(line, radius, width=radius, outward=np.array([0.0, 1, 0.1]), step=step)
            for line, radius in lines
        ]
    )


def tube(p: Patient, step: float) -> np.ndarray:
    """Course [N, 3] of a chest tube.

    It runs from outside the lateral wall, between two ribs, up to the apex.
    """
    assert p.tube is not None
    side, entry, tip = p.tube
    z = entry * p.height
    wall = _on_wall(
        p, side, phi=np.array([1.75, 1.62, 1.5]), z=np.array([z - 26, z - 8, z + 12]), off=0.0
    )
    skin = wall[0] + np.array([-34, -16, side * 34])
    high = _on_wall(
        p,
        side,
        phi=np.array([1.25, 0.95]),
        z=np.array([0.5 * (z + tip * p.height), tip * p.height]),
        off=-14.0,
    )
    knots = np.concatenate(
        [
            [skin],
            [wall[0] + np.array([0, 0, side * 12.0])],
            wall[1:2],
            wall[2:] - np.array([0, 0, side * 9.0]),
            high,
        ]
    )
    t = np.linspace(0, len(knots) - 1, 60)
    line = np.stack([np.interp(t, np.arange(len(knots)), knots[:, i]) for i in range(3)], 1)
    for _ in range(25):
        line[1:-1] = (line[:-2] + 2 * line[1:-1] + line[2:]) / 4
    return evenly(line, step)


def branch_points(
    start: np.ndarray, end: np.ndarray, radius: np.ndarray, step: float
) -> tuple[np.ndarray, np.ndarray]:
    """Points [N, 3] at most `step` mm apart along straight branches, and their radii [N]."""
    count = np.maximum(2, np.ceil(np.linalg.norm(end - start, axis=1) / step).astype(int))
    branch = np.repeat(np.arange(len(start)), count)
    # Position within a branch, from 0 to below 1: its end is the start of the next branch.
    part = (np.arange(len(branch)) - np.repeat(np.cumsum(count) - count, count)) / count[branch]
    return start[branch] + part[:, None] * (end - start)[branch], radius[branch]
