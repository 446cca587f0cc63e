"""Faults of scanned film in a mammogram: fog, scanner lines, bright edges, dust, lint.

Source: the eight scanned films of CBIS-DDSM in the package `mammograms` (docs/results.md), by eye.
Lines are one pixel wide from border to border. Strips of light lie at the borders. Specks have one
to three pixels and often lie together; hairs are some millimetres long. Images: uint16 [row,
column], 12 bits.
"""

import numpy as np
from scipy import ndimage

WHITE = 4095


def scanned(
    image: np.ndarray, pixel_mm: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Image as a scanner would read it from a film, and a mask of the pixels that light hides."""
    fogged = _fogged(image.astype(np.float32), rng)
    out = fogged.copy()
    _lines(out, rng)
    # Light beyond the film's border saturates the sensor: the larger value counts, not the sum.
    light = WHITE * _edges(image.shape, pixel_mm, rng)
    out = np.maximum(out, light)
    bright = np.zeros(image.shape, np.float32)
    _dust(bright, pixel_mm, rng)
    _lint(bright, pixel_mm, rng)
    # Dust and lint pass through the scanner's optics and are blurred, sigma 0.03 to 0.06 mm. Lines
    # arise in the sensor itself and stay sharp.
    out += ndimage.gaussian_filter(bright, rng.uniform(0.03, 0.06) / pixel_mm) * WHITE
    return np.clip(out, 0, WHITE).astype(np.uint16), light > fogged


def bordered(
    image: np.ndarray, pixel_mm: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The image with the borders of a real film, and where they hide what was on it (bool).

    At one to three sides the scanner looks past the film: light, then a dark rim a few tenths of a
    mm wide, then tissue that rises in brightness for some millimetres, as light leaks in. The film
    lies aslant.
    """
    out = image.astype(np.float32)
    rows, columns = (np.arange(n, dtype=np.float32) * pixel_mm for n in image.shape)
    beyond = np.full(image.shape, -np.inf, np.float32)  # mm past the film's border
    for side in rng.permutation(4)[: rng.integers(1, 4)]:
        across, along = (
            (columns[None], rows[:, None]) if side % 2 else (rows[:, None], columns[None])
        )
        depth = across if side < 2 else across.max() - across
        wave = rng.normal(0, 0.006) * (along - along.mean())
        beyond = np.maximum(beyond, rng.uniform(0.3, 4.0) + wave - depth)
    leak = np.exp(-np.maximum(-beyond, 0) / rng.uniform(0.8, 2.5))
    out += WHITE * rng.uniform(0.1, 0.45) * leak
    rim = np.exp(-(((beyond + 0.3) / 0.15) ** 2))
    out *= 1 - rng.uniform(0.6, 0.9) * rim
    light = beyond > 0
    out[light] = WHITE
    return np.clip(out, 0, WHITE).astype(np.uint16), light


def _fogged(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Image with the film's fog, which also covers unexposed parts, and its grain."""
    fog = rng.uniform(0.01, 0.08)
    return (
        image * (1 - fog)
        + WHITE * fog
        + rng.uniform(5, 25) * rng.standard_normal(image.shape, np.float32)
    )


def _lines(out: np.ndarray, rng: np.random.Generator) -> None:
    """Add lines along the columns, in place.

    One element of the scanner responds more (or less) than its neighbours.
    """
    for _ in range(int(rng.integers(0, 3))):
        # Three lines in four are brighter than their neighbours, one is darker.
        column, strength = (
            int(rng.integers(out.shape[1])),
            rng.uniform(80, 500) * rng.choice([1, 1, 1, -1]),
        )
        out[:, column : column + int(rng.integers(1, 3))] += strength


def _edges(shape: tuple[int, int], pixel_mm: float, rng: np.random.Generator) -> np.ndarray:
    """Light beyond some borders of the film, 0 to 1: a sharp or fading strip.

    It is slanted, as a film seldom lies straight.
    """
    light = np.zeros(shape, np.float32)
    rows, columns = (np.arange(n, dtype=np.float32) * pixel_mm for n in shape)
    for border in range(4):
        if rng.random() < 0.4:
            # Borders in order: top, left, bottom, right. `depth` is the distance from one, in mm.
            across, along = (
                (columns[None], rows[:, None]) if border % 2 else (rows[:, None], columns[None])
            )
            depth = across if border < 2 else across.max() - across
            slope, width, fade = (
                rng.normal(0, 0.003),
                rng.uniform(0.1, 3),
                rng.choice([0.05, 0.2, 1.0]),
            )
            beyond = (width + slope * (along - along.mean()) - depth) / fade
            # A logistic edge, in units of `fade` mm. The clip keeps exp from overflowing.
            light = np.maximum(light, rng.uniform(0.5, 1) / (1 + np.exp(-np.clip(beyond, -30, 30))))
    return light


def _dust(bright: np.ndarray, pixel_mm: float, rng: np.random.Generator) -> None:
    """Add specks, alone or a few together, in place."""
    for _ in range(int(rng.poisson(25))):
        middle, together = rng.uniform(0, bright.shape), int(rng.choice([1, 1, 1, 2, 3, 6]))
        for place in middle + rng.normal(0, 0.6 / pixel_mm, (together, 2)):
            row, column = np.clip(place.astype(int), 0, np.array(bright.shape) - 1)
            # One pixel, or two, along each axis.
            size = 1 + (rng.random(2) < 0.3)
            bright[row : row + size[0], column : column + size[1]] += rng.uniform(0.1, 0.8)


def _lint(bright: np.ndarray, pixel_mm: float, rng: np.random.Generator) -> None:
    """Add hairs and scratches, one pixel wide, in place."""
    for _ in range(int(rng.poisson(4))):
        at, way, bend, strength = (
            rng.uniform(0, bright.shape),
            rng.uniform(0, 2 * np.pi),
            rng.normal(0, 0.6),
            rng.uniform(0.1, 0.6),
        )
        for _ in range(int(rng.uniform(0.3, 5) / pixel_mm)):
            row, column = at.astype(int)
            if 0 <= row < bright.shape[0] and 0 <= column < bright.shape[1]:
                bright[row, column] = max(bright[row, column], strength)
            # A step of 0.7 pixel leaves no gap in the hair. `bend` is in radians per mm.
            at, way = at + 0.7 * np.array([np.sin(way), np.cos(way)]), way + 0.7 * bend * pixel_mm
