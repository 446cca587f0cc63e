"""Mammograms with arterial calcification of known area.

They show fat, glands, ducts, ligaments, vessels, and structures that resemble calcified arteries. A
view is drawn with the chest wall at column 0, and mirrored for a right breast. Lengths in mm,
attenuation per mm at about 20 keV.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.special import expit

from mmv_jax.errors import UserError
from mmv_jax.phantom import arteries
from mmv_jax.phantom.distractors import distract
from mmv_jax.phantom.film import bordered, scanned
from mmv_jax.phantom.hard import distract_hard
from mmv_jax.phantom.letters import marked
from mmv_jax.phantom.looks import LOOKS, processed
from mmv_jax.phantom.noise import power_noise

VIEWS = (("L", "CC"), ("R", "CC"), ("L", "MLO"), ("R", "MLO"))
MU_FAT, MU_GLAND, MU_CALCIUM, MU_BLOOD = 0.045, 0.080, 0.75, 0.085
CATEGORIES = ("zero", "mild", "moderate", "severe")  # 0, >0-10, >10-25, >25 mm2
# the dials that are probabilities
SHARES = ("bac", "distractors", "film", "looks", "hard", "borders")


@dataclass(frozen=True)
class BreastDials:
    """Probabilities and pixel grid of phantom mammograms.

    Attributes:
      bac: probability that a woman has arterial calcification (then mild, moderate and severe are
        equally likely).
      distractors: probability of each kind of structure that resembles it.
      film: probability that a woman's views are scanned films, with their faults.
      looks: probability that a woman who is not on film has one of `looks.LOOKS`.
      hard: probability of each kind of `hard.KINDS` in a view.
      borders: probability that a film shows its borders.
      breast_pixel_mm, breast_rows, breast_columns: the pixel grid.
    """

    bac: float = 0.75
    distractors: float = 0.5
    film: float = 0.3
    looks: float = 0.0
    hard: float = 0.0
    borders: float = 0.0
    breast_pixel_mm: float = 0.1
    breast_rows: int = 1400
    breast_columns: int = 1000

    def __post_init__(self):
        for name in SHARES:
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(
                    f"The dial {name} is {getattr(self, name)}, but must be between 0 and 1."
                )


@dataclass(frozen=True)
class Woman:
    """A woman as numbers.

    Attributes:
      age: years.
      density: 0 (fat) to 1.
      depth, height, thickness: mm; depth from chest wall to nipple, thickness compressed.
      area_mm2: requested calcified area of each view.
      film: whether her views are scanned films.
      look: of `looks.LOOKS`, or "".
      borders: whether a film shows its borders.
    """

    seed: tuple[int, int]
    age: float
    density: float
    depth: float
    height: float
    thickness: float
    area_mm2: dict[tuple[str, str], float]
    film: bool
    look: str = ""
    borders: bool = False

    @property
    def vendor(self) -> str:
        """The kind of picture, under which its figures stand."""
        if self.film:
            return "film with borders" if self.borders else "film"
        return self.look or "plain"


@dataclass(frozen=True)
class PhantomMammogram:
    """One view with its truth.

    Attributes:
      image: uint16 [row, column], 12 bits, tissue bright, near 0 outside.
      bac: uint8 [row, column], 1 where an artery is calcified.
      anatomy: uint8 [row, column], 0 air, 1 breast, 2 pectoral muscle.
      pixel_mm: at the tissue.
    """

    image: np.ndarray
    bac: np.ndarray
    anatomy: np.ndarray
    pixel_mm: float

    @property
    def area_mm2(self) -> float:
        """Calcified area of the view in mm²."""
        return float(self.bac.sum()) * self.pixel_mm**2


def severity(area_mm2: float) -> str:
    """Category of a woman's total area (see `woman_area`)."""
    return CATEGORIES[int(np.searchsorted([0, 10, 25], area_mm2))]


def woman_area(areas: dict[tuple[str, str], float]) -> float:
    """Total area in mm²: the sum of both breasts, each the mean of its views."""
    return sum(
        float(np.mean([a for (side, _), a in areas.items() if side == one])) for one in ("L", "R")
    )


def draw_woman(seed: int, index: int, dials: BreastDials) -> Woman:
    """Woman number `index`."""
    rng = np.random.default_rng([seed, index, 40])
    age = float(rng.uniform(40, 82))
    # Mild, moderate, severe in mm2; log-uniform within a category, as small areas are more common.
    low, high = ((0.8, 10), (10.3, 25), (26, 70))[rng.integers(3)]
    area = (
        float(np.exp(rng.uniform(np.log(low), np.log(high)))) if rng.random() < dials.bac else 0.0
    )
    # Streams of their own: the other draws of a woman do not depend on these.
    film = bool(np.random.default_rng([seed, index, 42]).random() < dials.film)
    chance = np.random.default_rng([seed, index, 43])
    look = list(LOOKS)[chance.integers(len(LOOKS))] if chance.random() < dials.looks else ""
    borders = bool(np.random.default_rng([seed, index, 44]).random() < dials.borders)
    share, lean = rng.uniform(0.2, 0.8), rng.uniform(-0.2, 0.2, 2)
    of_side = {"L": area * share, "R": area * (1 - share)}
    # `lean` shifts area from one view to the other; their mean stays that of the side.
    areas = {
        (s, v): of_side[s] * (1 + lean["LR".index(s)] * (1 if v == "CC" else -1)) for s, v in VIEWS
    }
    return Woman(
        seed=(seed, index),
        age=age,
        density=float(np.clip(rng.beta(2, 2.6) - 0.004 * (age - 55), 0.03, 0.95)),
        depth=float(
            np.clip(rng.normal(74, 11), 50, 0.93 * dials.breast_columns * dials.breast_pixel_mm)
        ),
        height=float(np.clip(rng.normal(0.84, 0.06), 0.68, 0.95))
        * dials.breast_rows
        * dials.breast_pixel_mm,
        thickness=float(np.clip(rng.normal(54, 10), 30, 80)),
        area_mm2=areas,
        film=film,
        look="" if film else look,
        borders=borders and film,
    )


def paint_view(woman: Woman, side: str, view: str, dials: BreastDials) -> PhantomMammogram:
    """One view of one breast."""
    rng = np.random.default_rng([*woman.seed, 41, VIEWS.index((side, view))])
    c = _Canvas(woman, view, dials, rng)
    signal, gland, muscle = _tissue(c, woman, rng)
    vessels = arteries.grow(
        rng,
        c.skin_mm > 3,
        pixel_mm=c.pixel,
        nipple=c.nipple,
        tortuous=0.8 + 0.02 * max(woman.age - 50, 0),
    )
    drawn = arteries.draw(vessels, c.shape, c.pixel, rng)
    mask = arteries.calcify(drawn, woman.area_mm2[side, view], c.pixel)
    # Gland attenuates nearly as much as blood, so a vessel is less visible within it.
    signal += (MU_BLOOD - MU_FAT) * drawn.blood_mm * (1 - 0.6 * gland)
    grain = ndimage.gaussian_filter(rng.standard_normal(c.shape), 1.0) * 2.5
    signal += MU_CALCIUM * np.where(mask, drawn.wall_mm * np.clip(1 + 0.35 * grain, 0.5, 1.6), 0)
    distract(signal, c, rng, dials.distractors)
    own = np.random.default_rng([*woman.seed, 45, VIEWS.index((side, view))])
    distract_hard(signal, c, own, dials.hard)
    image = _display(signal, c, rng)
    if woman.look:
        image = processed(image, c.skin_mm, c.pixel, look=woman.look, rng=own)
    if woman.film:
        image, hidden = scanned(image, c.pixel, rng)
        # The truth holds only what is visible: light at the film's edge hides calcium.
        mask &= ~hidden
    if woman.borders:
        image, hidden = bordered(image, c.pixel, own)
        mask &= ~hidden
    anatomy = np.where(c.inside, np.where(muscle >= 0.5, 2, 1), 0)
    if side == "R":
        image, mask, anatomy = image[:, ::-1], mask[:, ::-1], anatomy[:, ::-1]
    return PhantomMammogram(
        marked(image, side, view),
        np.ascontiguousarray(mask, np.uint8),
        np.ascontiguousarray(anatomy, np.uint8),
        c.pixel,
    )


class _Canvas:
    """Outline of a view, and the positions (mm) of its pixels."""

    def __init__(self, woman: Woman, view: str, dials: BreastDials, rng: np.random.Generator):
        self.pixel, self.shape, self.view = (
            dials.breast_pixel_mm,
            (dials.breast_rows, dials.breast_columns),
            view,
        )
        rows, columns = (np.arange(n, dtype=np.float32) * self.pixel for n in self.shape)
        self.row, self.column = rows[:, None], columns[None]
        extent = self.shape[0] * self.pixel
        middle = (0.5 if view == "CC" else 0.6) * extent + rng.normal(0, 4)
        u = (rows - middle) / (0.5 * woman.height)
        if view == "CC":
            width = woman.depth * np.maximum(1 - np.abs(u) ** 2.3, 0) ** 0.62
        else:  # the upper edge runs up to the armpit, the lower one folds back
            upper = 0.34 + 0.66 * np.exp(-((np.abs(u) / 0.95) ** 2.2))
            width = woman.depth * np.where(
                u < 0, upper, np.maximum(1 - np.maximum(u, 0) ** 2.6 / 0.9, 0) ** 0.6
            )
        # Blurring over sigma pixels leaves an sd of 0.53 / sqrt(sigma). The root corrects this for
        # every pixel size.
        wave = ndimage.gaussian_filter1d(rng.standard_normal(len(rows)), 14 / self.pixel) * np.sqrt(
            14 / self.pixel
        )
        # The last term is the nipple, 2.4 mm beyond the outline.
        width = width * (1 + 0.012 * wave) + 2.4 * np.exp(-(((rows - middle) / 4.6) ** 2))
        width = np.minimum(width, columns[-1] - 1)
        self.width, self.nipple = (
            width[:, None],
            np.array([middle, width[np.abs(rows - middle).argmin()] - 2]),
        )
        self.inside = self.column < self.width
        small = np.pad(self.inside[::4, ::4], ((0, 0), (1, 0)), mode="edge")
        # The breast continues beyond the upper and lower border and the chest wall: only skin has
        # an edge.
        distance = ndimage.distance_transform_edt(np.pad(small, ((40, 40), (60, 0)), mode="edge"))[
            40:-40, 61:
        ]
        grown = (
            np.repeat(np.repeat(distance, 4, 0), 4, 1)[: self.shape[0], : self.shape[1]]
            * 4
            * self.pixel
        )
        self.skin_mm = np.where(self.inside, ndimage.uniform_filter(grown, 5), 0).astype(np.float32)
        # Between the plates the thickness is constant; at the skin it falls off as a quarter
        # circle.
        half = 0.42 * woman.thickness
        self.thick = woman.thickness * np.sqrt(1 - (1 - np.clip(self.skin_mm / half, 0, 1)) ** 2)


def _tissue(
    c: _Canvas, woman: Woman, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Attenuation beyond that of fat, and shares of gland and of muscle, each [row, column].

    It has glands behind the nipple, strands, ligaments, skin and pectoral muscle.
    """
    across = c.column / np.maximum(c.width, 1)
    along = (c.row - c.nipple[0]) / (0.5 * woman.height)
    region = np.exp(-((along / 0.62) ** 2) - (np.abs(across - 0.52) / 0.5) ** 3)
    noise = power_noise(c.shape, c.pixel, 3.3, rng)
    fibres = _strands(c, power_noise(c.shape, c.pixel, 5.5, rng), rng)
    # No gland within 4 mm of the skin, full gland from 15 mm on.
    near_skin = np.clip((c.skin_mm - 4) / 11, 0, 1)
    score = 2.6 * region + 0.75 * noise + 0.25 * fibres + 2.6 * woman.density - 3.0
    gland = near_skin * expit(score / 0.6)
    gland *= np.clip(
        0.72
        + 0.15 * power_noise(c.shape, c.pixel, beta=3.0, rng=rng, longest_mm=12.0)
        + 0.25 * fibres,
        0.15,
        1.2,
    )
    signal = gland * (MU_GLAND - MU_FAT) * c.thick * (0.45 + 0.5 * woman.density)
    web = power_noise(c.shape, c.pixel, beta=3.4, rng=rng, longest_mm=14.0)
    fine = power_noise(c.shape, c.pixel, beta=3.4, rng=rng, longest_mm=22.0)
    # Cooper's ligaments are thin sheets: ridges along the lines where noise crosses zero.
    ligaments = np.exp(-((web / 0.05) ** 2)) * np.clip(0.6 + fine, 0, 1.5) + 0.7 * np.exp(
        -((fine / 0.035) ** 2)
    ) * np.clip(0.5 - web, 0, 1.2)
    signal += (
        0.2 * ndimage.gaussian_filter(ligaments, 0.15 / c.pixel) * np.clip(c.skin_mm / 8, 0, 1)
    )
    signal += 0.1 * np.clip(fibres - 0.2, 0, 2) * region * near_skin + 0.05 * noise
    # At the outline the beam runs along the skin, where its path is longest.
    signal += 0.3 * np.exp(-((c.skin_mm / 1.5) ** 2)) * c.inside
    disc = np.hypot(c.row - c.nipple[0], c.column - c.nipple[1])
    signal += 0.35 * expit((4.2 - disc) / 0.5) * c.inside
    muscle = np.zeros(c.shape)
    if c.view == "MLO":
        signal, muscle = _pectoral(signal, c=c, noise=noise, rng=rng)
    return signal.astype(np.float32), gland * (1 - muscle), muscle


def _strands(c: _Canvas, bend: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Ducts and strands that converge at the nipple: ridges of noise in bent polar coordinates."""
    # Rows are degrees about the nipple, columns distances from it. Noise that is smoothed more
    # along the radius than across it makes ridges that run to the nipple.
    polar = np.zeros((360, 64), np.float32)
    for sigma, weight in (((2.2, 9), 1.0), ((4.5, 7), 1.0), ((9, 12), 0.7)):
        layer = ndimage.gaussian_filter(rng.standard_normal(polar.shape), sigma, mode="wrap")
        layer /= layer.std()
        polar += weight * (np.exp(-((layer / 0.22) ** 2)) - 0.2)
    dr, dc = c.row - c.nipple[0], c.nipple[1] - c.column
    angle, radius = np.arctan2(dr, dc + 6) / np.pi * 180 + 180 + 5 * bend, np.hypot(dr, dc) * 0.62
    places = np.stack(np.broadcast_arrays(angle, radius))
    return ndimage.map_coordinates(polar, places, order=1, mode="grid-wrap").astype(np.float32)


def _pectoral(
    signal: np.ndarray, c: _Canvas, noise: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Attenuation with the muscle in the upper corner of an MLO view, and the muscle's share.

    Often a lymph node with a fatty hilum lies in front of it.
    """
    top, foot = rng.uniform(26, 40), rng.uniform(0.5, 0.8) * c.shape[0] * c.pixel
    # `edge` is the depth in mm within the muscle: largest at the upper border, none from `foot` on.
    part = c.row / foot
    edge = (
        top * (1 - part) * (1 + 0.35 * part)
        + 0.3 * ndimage.gaussian_filter(noise, 1 / c.pixel)
        - c.column
    )
    muscle = expit(edge / 0.8) * (part < 1)
    signal = signal * (1 - 0.85 * muscle) + muscle * (0.85 + 0.04 * noise)
    if rng.random() < 0.6:
        row, column = rng.uniform(14, 40), top * rng.uniform(0.75, 1.05)
        node = (
            np.hypot((c.row - row) / rng.uniform(4, 8), (c.column - column) / rng.uniform(2.5, 4))
            + 0.06 * noise
        )
        # A node is bright except for its fatty hilum, which the second, smaller ellipse removes.
        signal = signal + 0.4 * (expit((1 - node) / 0.07) - 0.9 * expit((0.5 - node) / 0.12)) * (
            c.skin_mm > 3
        )
    return signal, muscle


def _display(signal: np.ndarray, c: _Canvas, rng: np.random.Generator) -> np.ndarray:
    """Image uint16, 12 bits, from the attenuation.

    It has detector blur, quantum noise, even thickness at the border, and enhanced edges.
    """
    seen = ndimage.gaussian_filter(signal, 0.06 / c.pixel)
    coarse = ndimage.gaussian_filter(seen[::4, ::4], 1.2 / c.pixel)
    seen += (
        0.5
        * (
            seen
            - ndimage.zoom(
                coarse, np.array(c.shape) / coarse.shape, order=1, mode="nearest", grid_mode=True
            )
        )
        * (c.skin_mm > 0)
    )
    even = c.thick / c.thick.max()
    # Quanta per pixel grow with its area, so the noise goes as 1 / pixel.
    seen += rng.uniform(0.014, 0.026) * rng.standard_normal(c.shape, np.float32) * (0.1 / c.pixel)
    seen += 0.35 * (seen - ndimage.gaussian_filter(seen, 0.4 / c.pixel))
    part = 0.26 * even**0.6 + rng.uniform(0.3, 0.4) * seen
    return np.where(
        c.inside,
        4095 * np.clip(part, 0.015, 1) ** rng.uniform(0.85, 1.1),
        4 + 3 * rng.random(c.shape),
    ).astype(np.uint16)
