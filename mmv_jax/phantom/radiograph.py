"""Radiograph of a painted thorax: Beer-Lambert integrals along y, scatter, noise, display.

Images are [row, column], row 0 at the head. The beam is parallel and the view frontal: columns run
to the patient's left, as radiographs are shown.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from mmv_jax.phantom import organs
from mmv_jax.phantom.grid import Grid
from mmv_jax.phantom.patient import Patient
from mmv_jax.phantom.thorax import ANATOMY, FINDINGS, Thorax

MU_WATER_PER_MM = 0.0195  # at about 65 keV, the mean of a filtered 120 kV beam. Source: NIST XCOM

# Shortest path of the beam at which a structure is drawn: whole slabs of 7 mm, the pitch along y.
SEEN_MM = {
    "left_lung": 14.0,
    "right_lung": 14.0,
    "cardiomediastinum": 28.0,
    "airways": 7.0,
    "abdomen": 42.0,
    "pneumothorax": 14.0,
    "effusion": 21.0,
    "nodule": 7.0,
    "chest_tube": 7.0,
}


@dataclass(frozen=True)
class Radiograph:
    """Radiograph with its masks.

    Attributes:
      image: uint16 [row, column], 12 bits, tissue bright.
      anatomy, findings: uint8 masks on the same pixels, with the values of the CT.
      film_gain: steepness of the film curve, which no CT of the same body can tell.
      lead_letter: whether the image has one.
    """

    image: np.ndarray
    anatomy: np.ndarray
    findings: np.ndarray
    film_gain: float
    lead_letter: bool


def radiograph_grid(pixels: int = 256, extent_mm: float = 358.4) -> Grid:
    """Grid of a radiograph: fine in z and x, coarse along the beam.

    Coverage keeps the integral along the beam.
    """
    pixel = extent_mm / pixels
    return Grid.centred((extent_mm, 276.0, extent_mm), (pixel, 7.0, pixel), (72.0, -6.0, 0.0))


def expose(thorax: Thorax, rng: np.random.Generator) -> Radiograph:
    """Radiograph of a thorax painted on a grid whose second axis is the beam."""
    image, gain = display(detect(line_integrals(thorax), rng), rng)
    lettered = _mark_side(image, rng)
    return Radiograph(image, *project_masks(thorax), film_gain=gain, lead_letter=lettered)


def line_integrals(thorax: Thorax) -> np.ndarray:
    """Integral of attenuation along the beam, [row, column]."""
    # HU = 1000 (mu / mu_water - 1), so mu / mu_water = 1 + HU / 1000.
    water = (1 + thorax.hu / 1000).sum(1)
    # Calcium attenuates more than its HU suggest at the beam's lower energies.
    bone = np.maximum(thorax.hu - 150, 0).sum(1) * 0.0005
    # z grows to the head and row 0 is at the head: the rows are reversed.
    return MU_WATER_PER_MM * thorax.grid.spacing_mm[1] * (water + bone)[::-1]


def project_masks(thorax: Thorax) -> tuple[np.ndarray, np.ndarray]:
    """Silhouettes as a reader would draw them: structures with a beam path of at least `SEEN_MM`.

    Lung, air and fluid behind the heart or a dome are hidden. A pneumothorax is visible where the
    beam crosses more free air than lung.
    """
    path = {name: _path(thorax, thorax.anatomy == value) for name, value in ANATOMY.items()}
    found = {name: _path(thorax, (thorax.findings & flag) > 0) for name, flag in FINDINGS.items()}
    above = _path(thorax, thorax.abdomen) < SEEN_MM["abdomen"]
    free = above & (path["cardiomediastinum"] < SEEN_MM["cardiomediastinum"])
    anatomy = np.zeros(free.shape, np.uint8)
    # Later values win: the airways are visible through the heart, the heart through the lungs.
    for name, value in ANATOMY.items():
        anatomy[(path[name] >= SEEN_MM[name]) & above] = value
    air = (
        free
        & (found["pneumothorax"] >= SEEN_MM["pneumothorax"])
        & (found["pneumothorax"] > path["left_lung"] + path["right_lung"])
    )
    # Free air is not lung, even if some lung lies in front of it or behind it.
    anatomy[air] = 0
    findings = air * np.uint8(FINDINGS["pneumothorax"])
    # The surface of fluid is oblique to the beam, and the slabs of the volume are thick. Without
    # smoothing its edge would be jagged.
    fluid = ndimage.uniform_filter(found["effusion"], 7)
    findings |= (free & (fluid >= SEEN_MM["effusion"])) * np.uint8(FINDINGS["effusion"])
    for name in ("nodule", "chest_tube"):
        findings |= (found[name] >= SEEN_MM[name]) * np.uint8(FINDINGS[name])
    return anatomy, findings


def site_mask(patient: Patient, grid: Grid, side_mm: float = 40.0) -> np.ndarray:
    """Mask uint8 [row, column], 1 in the box where a reader is asked about a nodule.

    Every patient has such a box, of equal size and drawn from the same places, so that the box does
    not reveal the answer.
    """
    centre = patient.to_scanner(organs.lung_point(patient, patient.site)[None])[0]
    z, _, x = grid.box(centre - side_mm / 2, centre + side_mm / 2)
    mask = np.zeros((grid.shape[0], grid.shape[2]), np.uint8)
    mask[z, x] = 1
    return mask[::-1]


def _path(thorax: Thorax, mask: np.ndarray) -> np.ndarray:
    """Length of the beam inside a mask in mm, [row, column]."""
    return mask.sum(1, dtype=np.int32)[::-1] * thorax.grid.spacing_mm[1]


def detect(integrals: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Negative logarithm of the detector's counts, [row, column].

    The counts have primary beam, scatter behind the grid, and quantum noise.
    """
    primary = np.exp(-integrals) * _collimator(integrals.shape, rng)
    scatter = _blur(primary, 24.0)
    photons = rng.uniform(1e4, 5e4)  # a pixel in air
    signal = primary + rng.uniform(0.2, 0.6) * scatter
    # Counts are Poisson: N = signal * photons has sd sqrt(N), so signal has sqrt(signal / photons).
    signal = signal + np.sqrt(signal / photons) * rng.standard_normal(signal.shape)
    return -np.log(np.maximum(signal, 1e-5))


def display(density: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """Image uint16, 12 bits, as digital systems show a chest, and the steepness of its film curve.

    Half of the slow changes are removed, then a film curve is applied.
    """
    flat = density - rng.uniform(0.45, 0.7) * _blur(density, 36.0)
    flat += 0.7 * (flat - ndimage.gaussian_filter(flat, 2.0))  # edges are enhanced
    # Percentiles, not extremes: bare air and lead letters must not set the window.
    low, high = np.percentile(flat, (2, 99.5))
    part = (flat - low) / (high - low)
    middle, gain = rng.uniform(0.42, 0.6), rng.uniform(3.2, 5.2)
    image = np.clip(4095 / (1 + np.exp(-gain * (part - middle))), 0, 4095).astype(np.uint16)
    return image, float(gain)


def _collimator(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Transmission of the blades at the four edges.

    In half of the images all blades lie outside the image.
    """
    rows, columns = (np.linspace(-1, 1, n) for n in shape)
    # In half-images from the centre. Above 1 a blade lies outside; 0.2 more moves all four
    # outwards.
    far = rng.uniform(0.93, 1.06, 4) + 0.2 * (rng.random() < 0.5)
    inside = np.minimum(
        np.minimum(far[0] - rows, far[1] + rows)[:, None],
        np.minimum(far[2] - columns, far[3] + columns)[None],
    )
    # Blades let 3 % through. A slope of 80 makes their edge about 1 % of a half-image wide.
    return np.clip(0.03 + 80 * inside, 0.03, 1)


def _mark_side(image: np.ndarray, rng: np.random.Generator) -> bool:
    """Draw a lead letter L beside the left shoulder on three images of four, in place; whether it
    was drawn.
    """
    size = len(image) // 20
    top, left = (
        int(rng.uniform(0.07, 0.2) * len(image)),
        int(rng.uniform(0.86, 0.92) * image.shape[1]),
    )
    lettered = rng.random() < 0.75
    if lettered:
        thick = max(size // 5, 1)
        # The upright stroke and the foot of an L; the patient's left is on the right of the image.
        image[top : top + size, left : left + thick] = image[
            top + size - thick : top + size, left : left + size * 2 // 3
        ] = 4000
    return bool(lettered)


def _blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Image blurred by a wide Gaussian, computed on every fourth pixel."""
    # A Gaussian this wide loses nothing on a coarse grid, which has a sixteenth of the pixels.
    small = ndimage.gaussian_filter(
        ndimage.uniform_filter(image, 4, mode="nearest")[1::4, 1::4], sigma / 4, mode="nearest"
    )
    return ndimage.zoom(
        small, np.array(image.shape) / small.shape, order=1, mode="nearest", grid_mode=True
    )
