"""Organs of a thorax as signed distances in mm, negative inside.

They are in the patient's frame: z = 0 at the level of the right dome.
"""

from functools import cached_property

import numpy as np

from mmv_jax.phantom.patient import Patient

Value = np.ndarray | np.floating | float | int  # one position, or an array of them

# Profiles of the thoracic cavity against depth below the apex, as a share of the way from the apex
# to the lowest recess.
_DEPTH = np.array([0.0, 0.04, 0.09, 0.16, 0.26, 0.40, 0.55, 0.70, 0.85, 1.0, 1.3])
# share of half_width
_WIDTH = np.array([0.50, 0.57, 0.66, 0.76, 0.86, 0.94, 0.98, 1.0, 0.99, 0.96, 0.92])
# y of the posterior wall
_BACK = np.array([38.0, 50.0, 61.0, 71.0, 81.0, 88.0, 90.0, 88.0, 83.0, 76.0, 66.0])
# y of the anterior wall
_FRONT = np.array([-4.0, -14.0, -26.0, -38.0, -51.0, -66.0, -77.0, -85.0, -90.0, -92.0, -94.0])
POWER = 2.35  # exponent of the superellipse of the cavity's cross-section
RECESS = 62.0  # mm from the right dome down to the end of the posterior recess
_TABLE = np.linspace(-0.4, 1.6, 257)
_SOFT = np.exp(-0.5 * (np.linspace(-3, 3, 25)) ** 2)


def _smooth_table(values: np.ndarray) -> np.ndarray:
    """Profile without corners: a corner in a table would be a line on a radiograph."""
    padded = np.pad(np.interp(_TABLE, _DEPTH, values), 12, mode="edge")
    return np.convolve(padded, _SOFT / _SOFT.sum(), mode="valid")


_WIDTH_TABLE, _BACK_TABLE, _FRONT_TABLE = (_smooth_table(v) for v in (_WIDTH, _BACK, _FRONT))


def cavity_profile(p: Patient, z: Value) -> tuple[Value, Value, Value]:
    """Half width, centre y and half depth of the thoracic cavity at height z, in mm."""
    # 0 at the apex of the lung, 1 at the lowest recess.
    u = (p.height - z) / (p.height + RECESS)
    lean = p.kyphosis * ((u - 0.45) ** 2 - 0.05) * 4
    back = np.interp(u, _TABLE, _BACK_TABLE) * p.depth - lean
    front = np.interp(u, _TABLE, _FRONT_TABLE) * p.depth - lean * 0.6
    width = np.interp(u, _TABLE, _WIDTH_TABLE) * p.half_width
    return tuple(v.astype(np.float32) for v in (width, (back + front) / 2, (back - front) / 2))  # type: ignore[return-value]


def midline(p: Patient, z: Value) -> Value:
    """Position x of the spine in mm: an S for scoliosis."""
    return (p.scoliosis * np.sin((z - 90) / 75)).astype(np.float32)


class At:
    """Positions in a patient's frame, [z, y, x] arrays of mm, with the cavity's profile there."""

    def __init__(self, patient: Patient, z: np.ndarray, y: np.ndarray, x: np.ndarray):
        self.patient, self.z, self.y, self.x = patient, z, y, x

    @cached_property
    def profile(self) -> tuple[Value, Value, Value]:
        return cavity_profile(self.patient, self.z)

    @cached_property
    def midline(self) -> Value:
        return midline(self.patient, self.z)


def superellipse(x: np.ndarray, y: np.ndarray, a: Value, b: Value, power: float) -> np.ndarray:
    """Approximate signed distance in mm, along the ray from the centre."""
    # The ray meets the surface at r / q, so the distance to it is r (1 - 1 / q). The 1 under the
    # root keeps the centre, where r is 0, negative.
    q = ((np.abs(x) / a + 1e-4) ** power + (np.abs(y) / b + 1e-4) ** power) ** (1 / power)
    return np.sqrt(x * x + y * y + 1) * (1 - 1 / q)


def ellipsoid(
    at: At,
    centre: tuple[Value, Value, Value],
    axes: tuple[Value, Value, Value],
    stretch: Value = 1.0,
) -> np.ndarray:
    """Approximate signed distance in mm; centre and axes are (z, y, x).

    Args:
      stretch: factor on z before the distance is measured.
    """
    dz, dy, dx = (at.z - centre[0]) * stretch, at.y - centre[1], at.x - centre[2]
    dz, dy, dx = dz * dz, dy * dy, dx * dx
    # As in `superellipse`, with power 2.
    q = np.sqrt(dz * axes[0] ** -2 + dy * axes[1] ** -2 + dx * axes[2] ** -2 + 1e-4)
    return np.sqrt(dz + dy + dx + 1e-2) * (1 - 1 / q)


def blend(a: np.ndarray, b: np.ndarray, k: Value) -> np.ndarray:
    """Union whose seam is rounded over about k mm.

    Source: Quilez, the polynomial smooth minimum.
    """
    h = np.maximum(k - np.abs(a - b), 0)
    return np.minimum(a, b) - h * h * (0.25 / k)


def cavity(at: At) -> np.ndarray:
    """Thoracic cavity inside the ribs, with two apical domes; open below."""
    p, (a, yc, b) = at.patient, at.profile
    x, s = at.x - at.midline * 0.6, p.half_width / 136
    walls = superellipse(x, at.y - yc, a=a, b=b, power=POWER)
    # Two paraboloids about x = +-44 mm. They are steeper than a distance, hence the 0.75.
    apex = (
        at.z
        - p.height
        + 20 * (((np.abs(x) - 44 * s) / (36 * s)) ** 2 + ((at.y - yc - 4) / 38) ** 2)
    )
    return np.maximum(walls, apex * 0.75)


def diaphragm(at: At) -> np.ndarray:
    """Signed distance to the domes; negative is the abdomen.

    The domes fall steeply behind and at the side, slightly in front. The heart rests on the middle.
    """
    p = at.patient
    a, yc, b = cavity_profile(p, np.float32(0))
    # 0 on the right, 1 on the left: one dome turns into the other over some 12 mm.
    left = 1 / (1 + np.exp(-at.x / 12))
    dome = p.dome_right + (p.dome_left - p.dome_right) * left
    # 0 above the top of each dome, 1 at the side wall; the inward fall is slight.
    out = (np.abs(at.x) - 0.44 * a) / (0.56 * a)
    across = np.where(out > 0, 52, 6) * out * out
    along = (at.y - yc + 10) / b
    behind = np.where(along > 0, 72 * np.abs(along) ** 2.1, 24 * along * along)
    return (at.z - (dome - p.flat * (across + behind))) * 0.8


def carina(p: Patient) -> float:
    """Height z of the tracheal bifurcation, mm."""
    return p.height - 96 * p.half_width / 136


def heart_centre(p: Patient) -> tuple[Value, Value, Value]:
    """Centre (z, y, x) of the ventricles' ellipsoid, mm."""
    return 0.5 * (p.dome_right + p.dome_left) + 31 * p.heart, -27 * p.depth, 19 + 9 * p.heart


def _heart(at: At) -> np.ndarray:
    """Ventricles along an axis from the right shoulder to the left flank, and the atria."""
    p, h = at.patient, at.patient.heart
    hz, hy, hx = heart_centre(p)
    cos, sin = float(np.cos(p.heart_angle)), float(np.sin(p.heart_angle))
    dz, dx = at.z - hz, at.x - hx
    # Rotated in the frontal plane. Read only its z, y and x: its profile is for wrong heights.
    turned = At(p, dz * cos + dx * sin, at.y - hy, dx * cos - dz * sin)
    ventricles = ellipsoid(turned, (0.0, 0.0, 0.0), (42 * h, 43 * h * p.depth, 60 * h))
    right_atrium = ellipsoid(at, (hz + 8, hy + 10, -9 * h), (48 * h, 35 * h, 32 * h))
    left_atrium = ellipsoid(at, (hz + 36, hy + 34, 8), (30 * h, 24, 36 * h))
    return blend(blend(ventricles, right_atrium, 30), left_atrium, 20)


def mediastinum(at: At) -> np.ndarray:
    """Heart, great vessels, hila and the tissue around them.

    A radiograph shows them as the cardiomediastinal silhouette.
    """
    p, (_, yc, b) = at.patient, at.profile
    s, c, g = p.half_width / 136, carina(p), p.aorta
    spine_x, spine_y = at.midline, yc + b - 15
    # Half width of the mediastinum, in mm, at these heights about the carina.
    waist = np.interp(
        at.z, [c - 110, c - 50, c, c + 40, p.height, p.height + 40], [11, 13, 19, 22, 25, 36]
    ).astype(np.float32)
    band = superellipse(at.x - 0.5 * spine_x, at.y - yc - 6, a=waist * s, b=b * 0.92, power=2.0)
    spine = superellipse(at.x - spine_x, at.y - spine_y, a=16 * s, b=19.0, power=2.5)
    out = blend(blend(band, spine, 12), _heart(at), 18)
    for centre, axes, seam in (
        ((c + 24, yc + 4, 17 * s), (13 * g, 34 * g, 20 * g), 14),  # arch: the aortic knob
        ((c - 16, -16, 22 * s), (28, 24, 19 * s), 22),  # pulmonary trunk
        ((c - 24, 6, -27 * s), (19, 14, 14 * s), 12),  # right hilum
        ((c - 14, 10, 29 * s), (16, 14, 13 * s), 12),  # left hilum
        ((c - 10, -20 * p.depth, -11 * s), (56, 21 * g, 19 * g), 16),  # ascending aorta
        ((c + 14, -4, -19 * s), (56, 11, 11), 14),  # superior vena cava
    ):
        out = blend(out, ellipsoid(at, centre, axes), seam)
    # A cylinder left of the spine, cut off at the arch.
    descending = np.maximum(
        np.hypot(at.x - spine_x - 22 * s, at.y - spine_y + 6) - 12.5 * g, at.z - c - 24
    )
    return blend(out, descending, 6)


def outline(at: At) -> np.ndarray:
    """Skin of trunk, shoulders, neck and breasts."""
    p, (a, yc, b), top = at.patient, at.profile, at.z - at.patient.height
    # Soft tissue beyond the ribs in mm, by height above the apex. The shoulders widen it; at the
    # neck it is negative.
    side = np.interp(
        top,
        [-320, -150, -95, -60, -30, -8, 12, 34, 54, 80],
        [19, 21, 32, 62, 96, 104, 84, 26, -6, -12],
    ).astype(np.float32)
    thick = np.interp(top, [-320, -150, -70, -20, 20, 60], [17, 20, 26, 28, 24, 22]).astype(
        np.float32
    )
    half = a + side + p.fat * np.clip(1 - top / 60, 0.3, 1) + 0.6 * p.muscle
    trunk = superellipse(
        at.x - 0.5 * at.midline,
        at.y - yc - 6,
        a=half,
        b=b + thick + 0.8 * p.fat + 0.5 * p.muscle,
        power=2.4,
    )
    if p.breast == 0:
        return trunk
    level, front, m = *breast_place(p), p.breast
    # Skin hangs: the lower edge of a breast is full, the upper one fades into the chest.
    above = 1 / (1 + np.exp(-(at.z - level - 10) / 9))
    stretch, seam = 1.3 - 0.65 * above, 14 + 46 * above
    for s in (-1, 1):
        trunk = blend(
            trunk,
            ellipsoid(
                at,
                (level, front, s * 74 * p.half_width / 136),
                (58 * m**0.5, 38 * m, 62 * m**0.5),
                stretch,
            ),
            seam,
        )
    return trunk


def breast_place(p: Patient) -> tuple[float, float]:
    """Position (z, y) of the middle of the breasts' base, mm."""
    level = p.height - 142 - 14 * p.breast
    _, yc, b = cavity_profile(p, np.float32(level))
    return level, float(yc - b) - 12 - 0.6 * p.fat


def muscles(at: At, skin: np.ndarray) -> np.ndarray:
    """Muscles inside the fat: chest wall, back and shoulder."""
    p, (a, yc, b) = at.patient, at.profile
    trunk = superellipse(
        at.x - 0.6 * at.midline,
        at.y - yc - 4,
        a=a + 9 + p.muscle,
        b=b + 9 + 1.1 * p.muscle,
        power=2.5,
    )
    # 1 at the level of the shoulders, where muscle reaches nearly to the skin
    shoulder = np.clip((at.z - p.height + 80) / 45, 0, 1)
    return np.maximum(skin + 3 + 0.35 * p.fat * shoulder, trunk - 90 * shoulder)


def lung_point(p: Patient, place: tuple[Value, Value, Value]) -> np.ndarray:
    """Position (z, y, x) in mm of a place in a lung.

    Args:
      place: side, height 0..1, depth 0 back .. 1 front.
    """
    side, height, depth = place
    z = -18 + height * (p.height - 2)
    a, yc, b = (float(v) for v in cavity_profile(p, np.float32(z)))
    # The sine scatters x without another random number.
    x = side * a * (0.56 + 0.22 * np.sin(37 * depth + 11 * height))
    return np.array([z, yc + b * (0.55 - 1.05 * depth), x])
