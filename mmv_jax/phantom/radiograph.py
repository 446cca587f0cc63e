"""A radiograph of a painted thorax: Beer-Lambert line integrals along y, scatter, noise, display. Images are [row, column], row 0 at the head.

The beam is parallel and the view from the front: columns run to the patient's left, as radiographs are shown.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from mmv_jax.phantom.grid import Grid
from mmv_jax.phantom.thorax import ANATOMY, Thorax

MU_WATER_PER_MM = 0.0195  # at about 65 keV, the mean of a filtered 120 kV beam. Source: NIST XCOM


@dataclass(frozen=True)
class Radiograph:
    """image: uint16 [row, column], 12 bits, tissue bright. anatomy, findings: uint8 masks on the same pixels (values as of the CT)."""

    image: np.ndarray
    anatomy: np.ndarray
    findings: np.ndarray


def radiograph_grid(pixels: int = 256, extent_mm: float = 358.4) -> Grid:
    """Columns of the beam: fine in z and x, coarse along the beam, where coverage keeps the integral."""
    pixel = extent_mm / pixels
    return Grid.centred((extent_mm, 276.0, extent_mm), (pixel, 6.0, pixel), (72.0, -6.0, 0.0))


def expose(thorax: Thorax, rng: np.random.Generator) -> Radiograph:
    """The radiograph of a thorax painted on a grid whose second axis is the beam."""
    return Radiograph(display(detect(line_integrals(thorax), rng), rng), *project_masks(thorax))


def line_integrals(thorax: Thorax) -> np.ndarray:
    """[row, column]: the integral of attenuation along the beam."""
    water = (1 + thorax.hu / 1000).sum(1)
    bone = np.maximum(thorax.hu - 150, 0).sum(1) * 0.0004  # calcium attenuates more than its HU at the beam's lower energies
    return MU_WATER_PER_MM * thorax.grid.spacing_mm[1] * (water + bone)[::-1]


def project_masks(thorax: Thorax) -> tuple[np.ndarray, np.ndarray]:
    """Silhouettes: a pixel bears an organ where its beam meets it for long enough to be seen.

    The heart hides the lung behind it, and lung behind or below a dome is no lung field: its beam passes less than a third as much lung as
    the deepest beam does.
    """
    step = thorax.grid.spacing_mm[1]
    path = {name: (thorax.anatomy == value).sum(1, dtype=np.int32)[::-1] * step for name, value in ANATOMY.items()}
    anatomy = np.zeros(path["left_lung"].shape, np.uint8)
    for name in ("left_lung", "right_lung"):
        anatomy[path[name] > 45] = ANATOMY[name]
    anatomy[path["cardiomediastinum"] > 40] = ANATOMY["cardiomediastinum"]
    anatomy[(path["airways"] > 5)] = ANATOMY["airways"]
    findings = np.bitwise_or.reduce(thorax.findings, axis=1)[::-1]
    return anatomy, findings


def detect(integrals: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """[row, column]: the negative logarithm of what the detector counts: primary beam, scatter behind the grid, quantum noise."""
    primary = np.exp(-integrals)
    scatter = _blur(primary, 24.0)
    photons = rng.uniform(1e4, 5e4)  # a pixel in air
    signal = primary + rng.uniform(0.2, 0.6) * scatter
    signal = signal + np.sqrt(signal / photons) * rng.standard_normal(signal.shape)
    return -np.log(np.maximum(signal, 1e-5))


def display(density: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """uint16, 12 bits: half of the slow changes taken out, then the curve of a film, as digital systems show a chest."""
    flat = density - rng.uniform(0.3, 0.6) * _blur(density, 40.0)
    low, high = np.percentile(flat, (2, 99.5))
    part = (flat - low) / (high - low)
    middle, gain = rng.uniform(0.42, 0.6), rng.uniform(3.2, 5.2)
    return np.clip(4095 / (1 + np.exp(-gain * (part - middle))), 0, 4095).astype(np.uint16)


def _blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """A wide Gaussian, on every fourth pixel."""
    small = ndimage.gaussian_filter(ndimage.uniform_filter(image, 4, mode="nearest")[1::4, 1::4], sigma / 4, mode="nearest")
    return ndimage.zoom(small, np.array(image.shape) / small.shape, order=1, mode="nearest", grid_mode=True)
