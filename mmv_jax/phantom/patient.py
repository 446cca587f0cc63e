"""Patient as numbers: anatomy and findings drawn from a seed.

Lengths in mm; a side is +1 (left) or -1 (right).
"""

from dataclasses import dataclass, fields, replace
from functools import partial

import numpy as np

from mmv_jax.errors import UserError


@dataclass(frozen=True)
class Dials:
    """Frequency and size of findings, and the tie between chest tube and pneumothorax.

    Attributes:
      pneumothorax, effusion, nodule: probability of each.
      chest_tube: probability of a chest tube if nothing ties it to a pneumothorax.
      tube_tie: 0: the tube is independent of pneumothorax. 1: a tube is present exactly with a
        pneumothorax.
      pneumothorax_mm: smallest and largest depth of the air rim at the apex.
      nodule_mm: smallest and largest diameter.
    """

    pneumothorax: float = 0.4
    effusion: float = 0.4
    nodule: float = 0.4
    chest_tube: float = 0.35
    tube_tie: float = 0.3
    pneumothorax_mm: tuple[float, float] = (8.0, 45.0)
    nodule_mm: tuple[float, float] = (7.0, 32.0)

    def __post_init__(self):
        for name in ("pneumothorax", "effusion", "nodule", "chest_tube", "tube_tie"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(
                    f"The dial {name} is {getattr(self, name)}, but must be between 0 and 1."
                )


def make_dials(**values: object) -> Dials:
    """Dials from keywords.

    Raises:
      UserError: an unknown name; the message lists the known ones.
    """
    known = [f.name for f in fields(Dials)]
    for name in values:
        if name not in known:
            raise UserError(
                f"There is no dial {name}. The dials of a thorax are {', '.join(known)}."
            )
    return replace(Dials(), **values)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Nodule:
    # (side, height, depth) as shares of the lung: see organs.lung_point
    centre: tuple[float, float, float]
    diameter_mm: float
    spiculated: bool
    seed: int


@dataclass(frozen=True)
class Patient:
    """Anatomy and findings of a patient, see `draw_patient`.

    Angles are in radians; `shift` is (z, y, x) in mm.
    """

    seed: tuple[int, ...]
    male: bool
    age: float
    half_width: float  # of the thoracic cavity
    depth: float  # factor on its front-to-back tables
    height: float  # right diaphragm dome to lung apex
    dome_right: float
    dome_left: float
    flat: float  # 1 ordinary domes, less is flatter
    fat: float
    muscle: float
    breast: float
    kyphosis: float
    scoliosis: float
    heart: float  # factor on its axes
    heart_angle: float
    aorta: float
    bone: float  # density factor
    vessels: float
    angles: tuple[float, float, float]  # about z, y, x
    shift: tuple[float, float, float]
    # side, rim (mm) at the apex, share of the rim at the base
    pneumothorax: tuple[int, float, float] | None
    effusion: tuple[int, float] | None  # side, level above the lowest point of the dome (mm)
    nodules: tuple[Nodule, ...]
    # side, entry height, tip height (parts of the lung's height)
    tube: tuple[int, float, float] | None
    site: tuple[float, float, float]  # where the first nodule is, or would be: as `Nodule.centre`

    @property
    def name(self) -> str:
        return f"phantom-{self.seed[0]}-{self.seed[1]:05d}"

    @property
    def sex(self) -> str:
        return "M" if self.male else "F"

    def rotation(self) -> np.ndarray:
        """Rotation [3, 3] from patient (z, y, x) to scanner (z, y, x), without the shift."""
        (cz, cy, cx), (sz, sy, sx) = np.cos(self.angles), np.sin(self.angles)
        about_z = np.array([[1, 0, 0], [0, cz, sz], [0, -sz, cz]])
        about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
        about_x = np.array([[cx, sx, 0], [-sx, cx, 0], [0, 0, 1]])
        return about_z @ about_x @ about_y

    def to_scanner(self, points: np.ndarray) -> np.ndarray:
        """Points [N, 3] from patient to scanner space, mm."""
        return points @ self.rotation().T + np.array(self.shift)

    def from_scanner(self, z: np.ndarray, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, ...]:
        """Positions from scanner to patient space, arrays that broadcast, float32, mm."""
        # The inverse of a rotation is its transpose.
        back = self.rotation().T.astype(np.float32)
        z, y, x = (
            z - np.float32(self.shift[0]),
            y - np.float32(self.shift[1]),
            x - np.float32(self.shift[2]),
        )
        return tuple(back[i, 0] * z + back[i, 1] * y + back[i, 2] * x for i in range(3))


def draw_patient(seed: int, index: int, dials: Dials) -> Patient:
    """Patient number `index`: the same for every modality, grid and process."""
    # The last number names a random stream: vessels, noise and breasts use others. A new draw
    # belongs at the end, or every patient changes.
    rng = np.random.default_rng([seed, index, 0])
    normal = partial(_clipped_normal, rng)
    male = bool(rng.random() < 0.5)
    age = float(rng.uniform(20, 88))
    size = normal(1.03 if male else 0.95, 0.045, 0.85, 1.15)
    return Patient(
        seed=(seed, index),
        male=male,
        age=age,
        half_width=136 * size * normal(1, 0.04, 0.9, 1.1),
        depth=size * normal(1 + 0.001 * (age - 50), 0.06, 0.85, 1.2),
        height=203 * size * normal(1, 0.09, 0.78, 1.2),
        dome_right=normal(0, 5, -12, 12),
        dome_left=normal(-12, 6, -26, 4),
        flat=normal(1, 0.17, 0.55, 1.3),
        fat=float(np.clip(rng.gamma(4, 4.0 if male else 5.0), 4, 42)),
        muscle=normal(15 if male else 11, 3, 7, 24),
        breast=0.0 if male else float(rng.uniform(0.35, 1.25)),
        kyphosis=normal(0.25 * (age - 20), 4, 0, 22),
        scoliosis=normal(0, 4, -12, 12),
        heart=normal(1.0 + 0.0012 * (age - 50), 0.1, 0.8, 1.35),
        heart_angle=normal(0.62, 0.13, 0.3, 0.95),
        aorta=normal(0.92 + 0.004 * (age - 40), 0.09, 0.75, 1.3),
        bone=normal(1.15 - 0.006 * (age - 40), 0.1, 0.6, 1.3),
        vessels=normal(1, 0.14, 0.7, 1.4),
        angles=(
            normal(0, 0.055, -0.15, 0.15),
            normal(0, 0.03, -0.08, 0.08),
            normal(0, 0.05, -0.12, 0.12),
        ),
        shift=(normal(0, 9, -24, 24), normal(0, 5, -12, 12), normal(0, 7, -18, 18)),
        **_draw_findings(rng, dials),
    )


def _clipped_normal(
    rng: np.random.Generator,
    mean: float | int,
    sd: float | int,
    low: float | int,
    high: float | int,
) -> float:
    return float(np.clip(rng.normal(mean, sd), low, high))


def _side(rng: np.random.Generator) -> int:
    return 1 if rng.random() < 0.5 else -1


def _draw_findings(rng: np.random.Generator, dials: Dials) -> dict:
    """Findings of a patient.

    Every number is drawn whether it is used or not, so that one dial does not change the rest of a
    patient.
    """
    side = partial(_side, rng)
    chance = rng.random(4)
    rim = (side(), float(rng.uniform(*dials.pneumothorax_mm)), float(rng.uniform(0.1, 0.7)))
    fluid = (side(), float(rng.uniform(22, 90)))
    tube = (side(), float(rng.uniform(0.25, 0.45)), float(rng.uniform(0.72, 0.95)))
    # Diameters are log-uniform: small nodules are more common.
    low, high = np.log(dials.nodule_mm)
    nodules = tuple(
        Nodule(
            (float(side()), float(rng.uniform(0.12, 0.9)), float(rng.uniform(0, 1))),
            float(np.exp(rng.uniform(low, high))),
            bool(rng.random() < 0.5),
            int(rng.integers(2**31)),
        )
        for _ in range(3)
    )
    # One nodule in 60 % of patients with any, two or three in 20 % each.
    count = int(rng.choice([1, 1, 1, 2, 3]))
    has_rim = bool(chance[0] < dials.pneumothorax)
    # P(tube) = untied + tie [pneumothorax]: at tie 1 both always occur together.
    untied = dials.chest_tube * (1 - dials.tube_tie)
    if has_rim:
        # A tube drains the side with the air.
        tube = (rim[0], *tube[1:])
    return {
        "pneumothorax": rim if has_rim else None,
        "effusion": fluid if chance[1] < dials.effusion else None,
        "nodules": nodules[:count] if chance[2] < dials.nodule else (),
        "tube": tube if chance[3] < untied + dials.tube_tie * has_rim else None,
        "site": nodules[0].centre,
    }
