"""Noise with the texture of breast tissue."""

import numpy as np
from scipy import ndimage


def power_noise(
    shape: tuple[int, int],
    pixel_mm: float,
    beta: float,
    rng: np.random.Generator,
    longest_mm: float = 60.0,
) -> np.ndarray:
    """Noise [row, column] of zero mean and unit variance with a spectrum 1 / f**beta.

    It is drawn on every second pixel.

    Source: Burgess, Jacobson and Judy, Med Phys 28:419 (2001): the power of mammographic tissue
    falls as about f**-3.
    """
    small = tuple(-(-n // 2) for n in shape)
    frequency = np.hypot(
        np.fft.fftfreq(small[0], 2 * pixel_mm)[:, None],
        np.fft.rfftfreq(small[1], 2 * pixel_mm)[None],
    )
    # Power 1 / f**beta is amplitude f**(-beta / 2), so (f**2)**(-beta / 4).
    # `longest_mm` keeps it finite at f = 0.
    spectrum = np.fft.rfft2(rng.standard_normal(small)) * (frequency**2 + longest_mm**-2) ** (
        -beta / 4
    )
    noise = np.fft.irfft2(spectrum, small)
    noise = (noise - noise.mean()) / noise.std()
    return ndimage.zoom(noise, 2, order=1)[: shape[0], : shape[1]].astype(np.float32)
