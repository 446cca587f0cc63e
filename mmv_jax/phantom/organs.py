"""The organs of a thorax as signed distances in mm (negative inside), in the patient's frame: z = 0 at the level of the right dome."""

import numpy as np

from mmv_jax.phantom.patient import Patient

# Profiles of the thoracic cavity against depth below the apex, as a part of the way from the apex to the lowest recess.
_DEPTH = np.array([0.0, 0.04, 0.09, 0.16, 0.26, 0.40, 0.55, 0.70, 0.85, 1.0, 1.3])
_WIDTH = np.array([0.44, 0.50, 0.58, 0.67, 0.79, 0.90, 0.96, 1.0, 1.0, 0.97, 0.93])  # of half_width
_BACK = np.array([38.0, 50.0, 61.0, 71.0, 81.0, 88.0, 90.0, 88.0, 83.0, 76.0, 66.0])  # y of the posterior wall
_FRONT = np.array([-4.0, -14.0, -26.0, -38.0, -51.0, -66.0, -77.0, -85.0, -90.0, -92.0, -94.0])  # y of the anterior wall
POWER = 2.35  # of the superellipse in which the cavity is cut
RECESS = 62.0  # mm that the posterior recess reaches below the right dome
_TABLE = np.linspace(-0.4, 1.6, 257)
_SOFT = np.exp(-0.5 * (np.linspace(-3, 3, 25)) ** 2)


def _smooth_table(values: np.ndarray) -> np.ndarray:
    """A profile without corners (a corner of a table is a line on a radiograph)."""
    padded = np.pad(np.interp(_TABLE, _DEPTH, values), 12, mode="edge")
    return np.convolve(padded, _SOFT / _SOFT.sum(), mode="valid")


_WIDTH_TABLE, _BACK_TABLE, _FRONT_TABLE = (_smooth_table(v) for v in (_WIDTH, _BACK, _FRONT))


def cavity_profile(p: Patient, z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(half width, centre y, half depth) of the thoracic cavity at height z, in mm."""
    u = (p.height - z) / (p.height + RECESS)
    lean = p.kyphosis * ((u - 0.45) ** 2 - 0.05) * 4
    back = np.interp(u, _TABLE, _BACK_TABLE) * p.depth - lean
    front = np.interp(u, _TABLE, _FRONT_TABLE) * p.depth - lean * 0.6
    width = np.interp(u, _TABLE, _WIDTH_TABLE) * p.half_width
    return tuple(v.astype(np.float32) for v in (width, (back + front) / 2, (back - front) / 2))  # type: ignore[return-value]


def midline(p: Patient, z: np.ndarray) -> np.ndarray:
    """x of the spine: an S for a scoliosis."""
    return np.float32(p.scoliosis) * np.sin((z - 90) / 75).astype(np.float32)


def superellipse(x: np.ndarray, y: np.ndarray, a: np.ndarray | float, b: np.ndarray | float, power: float) -> np.ndarray:
    """Distance along the ray from the centre, in mm."""
    q = ((np.abs(x) / a + 1e-4) ** power + (np.abs(y) / b + 1e-4) ** power) ** (1 / power)
    return np.sqrt(x * x + y * y + 1) * (1 - 1 / q)


def ellipsoid(z: np.ndarray, y: np.ndarray, x: np.ndarray, centre: tuple[float, float, float], axes: tuple[float, float, float]) -> np.ndarray:
    """Approximate signed distance, mm; centre and axes are (z, y, x)."""
    dz, dy, dx = z - centre[0], y - centre[1], x - centre[2]
    q = np.sqrt((dz / axes[0]) ** 2 + (dy / axes[1]) ** 2 + (dx / axes[2]) ** 2 + 1e-4)
    return np.sqrt(dz * dz + dy * dy + dx * dx + 1e-2) * (1 - 1 / q)


def blend(a: np.ndarray, b: np.ndarray, k: float) -> np.ndarray:
    """A union whose seam is rounded over about k mm. Source: Quilez, the polynomial smooth minimum."""
    h = np.maximum(k - np.abs(a - b), 0) / k
    return np.minimum(a, b) - h * h * k * 0.25


def cavity(p: Patient, z: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The thoracic cavity inside the ribs, with two apical domes; open below."""
    a, yc, b = cavity_profile(p, z)
    x = x - midline(p, z) * 0.6
    walls = superellipse(x, y - yc, a, b, POWER)
    s = p.half_width / 136
    apex = z - p.height + 17 * (((np.abs(x) - 47 * s) / (36 * s)) ** 2 + ((y - yc - 4) / 38) ** 2)
    return np.maximum(walls, apex * 0.75)


def diaphragm(p: Patient, z: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Below the domes (negative is the abdomen). The fall is deep behind and at the side, slight in front."""
    a, yc, b = cavity_profile(p, np.float32(0))
    left = 1 / (1 + np.exp(-x / 9))  # the heart rests on the step between the domes
    dome = p.dome_right + (p.dome_left - p.dome_right) * left
    out = (np.abs(x) - 0.5 * a) / (0.5 * a)
    across = np.where(out > 0, 44 * np.abs(out) ** 2.4, 11 * out * out)
    along = (y - yc + 8) / b
    behind = np.where(along > 0, 70 * np.abs(along) ** 2.2, 20 * along * along)
    return (z - (dome - p.flat * (across + behind))) * 0.8


def carina(p: Patient) -> float:
    """z of the tracheal bifurcation."""
    return p.height - 96 * p.half_width / 136


def heart_centre(p: Patient) -> tuple[float, float, float]:
    """(z, y, x) of the left ventricle's ellipsoid."""
    return (0.5 * (p.dome_right + p.dome_left) + 40 * p.heart, -30 * p.depth, 17 + 7 * p.heart)


def mediastinum(p: Patient, z: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Heart, great vessels, hila and the tissue around them: what a radiograph shows as the cardiomediastinal silhouette."""
    s, h, c = p.half_width / 136, p.heart, carina(p)
    _, yc, b = cavity_profile(p, z)
    spine_y, spine_x = yc + b - 14, midline(p, z)
    waist = np.interp(z, [c - 110, c - 60, c, c + 40, p.height, p.height + 40], [15, 17, 22, 24, 27, 34]).astype(np.float32)
    band = superellipse(x - 0.5 * spine_x - 1, y - yc - 8, waist * s, b * 0.93, 2.0)
    spine = superellipse(x - spine_x, y - spine_y, np.float32(21 * s), np.float32(21), 2.5)
    out = blend(band, spine, 14)
    hz, hy, hx = heart_centre(p)
    cos, sin = np.float32(np.cos(p.heart_angle)), np.float32(np.sin(p.heart_angle))
    dz, dx = z - hz, x - hx  # the long axis runs from the right shoulder to the left flank
    ventricles = ellipsoid(dz * cos + dx * sin, y - hy, dx * cos - dz * sin, (0, 0, 0), (41 * h, 45 * h * p.depth, 62 * h))
    atrium = ellipsoid(z, y, x, (hz + 10, hy + 15, -15 * h), (44 * h, 36 * h, 33 * h))
    out = blend(out, blend(ventricles, atrium, 16), 12)
    g = p.aorta
    for centre, axes in (
        ((c + 24, yc + 4, 15 * s), (13 * g, 34 * g, 19 * g)),  # arch: the aortic knob
        ((c - 14, -14, 24 * s), (20, 24, 18 * s)),  # pulmonary trunk
        ((c - 22, 6, -29 * s), (20, 15, 17 * s)),  # right hilum
        ((c - 14, 10, 32 * s), (17, 15, 15 * s)),  # left hilum
        ((c - 8, -22 * p.depth, -13 * s), (52, 20 * g, 18 * g)),  # ascending aorta
        ((c + 12, -4, -22 * s), (46, 11, 11)),  # superior vena cava
    ):
        out = blend(out, ellipsoid(z, y, x, centre, axes), 9)
    descending = np.maximum(np.hypot(x - spine_x - 24 * s, y - spine_y + 8) - 12.5 * g, z - c - 24)
    return blend(out, descending, 6)


def outline(p: Patient, z: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The skin: trunk, shoulders, neck, breasts."""
    a, yc, b = cavity_profile(p, z)
    top, f = z - p.height, p.fat
    side = np.interp(top, [-320, -150, -80, -48, -22, 2, 22, 42, 70], [20, 22, 34, 60, 94, 92, 44, 12, 2]).astype(np.float32)
    thick = np.interp(top, [-320, -150, -70, -20, 20, 60], [17, 20, 26, 28, 22, 18]).astype(np.float32)
    half = a + side + f + 0.6 * p.muscle
    depth = b + thick + 0.8 * f + 0.5 * p.muscle
    trunk = superellipse(x - 0.5 * midline(p, z), y - yc - 6, half, depth, 2.45)
    if p.breast == 0:
        return trunk
    m, level = p.breast, p.height - 135 - 14 * p.breast
    _, yf, bf = cavity_profile(p, np.float32(level))
    front = float(yf - bf) - 12 - 0.6 * f
    for s in (-1, 1):
        # Skin hangs: the lower edge of a breast is sharper than the upper one.
        sag = np.where(z < level, 1.25, 0.8).astype(np.float32)
        breast = ellipsoid((z - level) * sag, y, x, (0, front, s * 78 * p.half_width / 136), (56 * m**0.5, 46 * m, 62 * m**0.5))
        trunk = blend(trunk, breast, 14)
    return trunk


def muscles(p: Patient, z: np.ndarray, y: np.ndarray, x: np.ndarray, skin: np.ndarray) -> np.ndarray:
    """Inside the fat: the wall of the chest, the muscles of back and shoulder. Fat is thicker in front and at the side."""
    a, yc, b = cavity_profile(p, z)
    trunk = superellipse(x - 0.6 * midline(p, z), y - yc - 4, a + 9 + p.muscle, b + 9 + 1.1 * p.muscle, 2.5)
    return np.where(z > p.height - 70, np.maximum(skin + 0.7 * p.fat + 2, trunk - 14 - 0.9 * (z - p.height + 70)), np.maximum(skin + 3, trunk))


def lung_point(p: Patient, place: tuple[float, float, float]) -> np.ndarray:
    """(z, y, x) mm of a place (side, height 0..1, 0 back .. 1 front) about the middle of a lung."""
    side, height, depth = place
    z = -18 + height * (p.height - 2)
    a, yc, b = (float(v) for v in cavity_profile(p, np.float32(z)))
    x = side * a * (0.5 + 0.24 * np.sin(37 * depth + 11 * height))
    return np.array([z, yc + b * (0.55 - 1.05 * depth), x])
