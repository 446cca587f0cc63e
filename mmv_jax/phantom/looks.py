"""How detectors and their processing make one breast look: noise, contrast, edges, the skin line.

Images: uint16 [row, column], 12 bits, tissue bright. Kinds, not makers: each stands for a habit of
processing that is seen on digital mammograms.
"""

from collections.abc import Callable

import numpy as np
from scipy import ndimage

WHITE = 4095.0
Look = Callable[[np.ndarray, np.ndarray, float, np.random.Generator], np.ndarray]


def processed(
    image: np.ndarray, skin_mm: np.ndarray, pixel_mm: float, look: str, rng: np.random.Generator
) -> np.ndarray:
    """The image as a detector of the kind `look` (a key of `LOOKS`) would show it.

    Args:
      skin_mm: the distance of a pixel from the skin, 0 outside of the breast.
    """
    seen = LOOKS[look](image.astype(np.float32) / WHITE, skin_mm, pixel_mm, rng)
    # Air stays air: processing of vendors masks what is outside of the breast.
    seen = np.where(skin_mm > 0, seen, image / WHITE)
    return (np.clip(seen, 0, 1) * WHITE).astype(np.uint16)


def _soft(x: np.ndarray, skin: np.ndarray, mm: float, rng: np.random.Generator) -> np.ndarray:
    """Large pixels of a storage plate: blurred, little contrast, a faint skin line."""
    return 0.08 + 0.8 * ndimage.gaussian_filter(x, rng.uniform(0.06, 0.1) / mm) ** 1.15


def _sharp(x: np.ndarray, skin: np.ndarray, mm: float, rng: np.random.Generator) -> np.ndarray:
    """Edges enhanced at two scales, and with them noise; the skin line is bright."""
    for radius, amount in ((0.15, rng.uniform(0.5, 0.9)), (0.8, 0.5)):
        x = x + amount * (x - ndimage.gaussian_filter(x, radius / mm))
    return x + 0.12 * np.exp(-(((skin - 0.8) / 0.7) ** 2))


def _even(x: np.ndarray, skin: np.ndarray, mm: float, rng: np.random.Generator) -> np.ndarray:
    """Thickness evened out: the rim is as bright as the middle, and the skin stands out."""
    inside = (skin > 0).astype(np.float32)
    small = np.s_[::8, ::8]
    weight = ndimage.gaussian_filter(inside[small], 6 / mm / 8) + 1e-3
    coarse = ndimage.gaussian_filter((x * inside)[small], 6 / mm / 8) / weight
    scale = np.array(x.shape) / coarse.shape
    base = ndimage.zoom(coarse, scale, order=1, mode="nearest", grid_mode=True)
    return 0.45 + rng.uniform(0.8, 1.1) * (x - base) + 0.1 * np.exp(-(((skin - 1.2) / 0.6) ** 2))


def _grainy(x: np.ndarray, skin: np.ndarray, mm: float, rng: np.random.Generator) -> np.ndarray:
    """A low dose: quantum noise, blurred by the scintillator so that it has a grain."""
    grain = ndimage.gaussian_filter(rng.standard_normal(x.shape, np.float32), 0.07 / mm)
    return x + rng.uniform(0.02, 0.035) * grain / grain.std() * np.sqrt(np.maximum(x, 0.05))


def _steep(x: np.ndarray, skin: np.ndarray, mm: float, rng: np.random.Generator) -> np.ndarray:
    """A steep curve of the display: fat nearly black, glands and calcium nearly white."""
    return 1 / (1 + np.exp(-(x - rng.uniform(0.42, 0.5)) * rng.uniform(7, 10)))


LOOKS: dict[str, Look] = {
    "soft": _soft,
    "sharp": _sharp,
    "even": _even,
    "grainy": _grainy,
    "steep": _steep,
}
