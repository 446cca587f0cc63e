"""Structures that resemble calcified arteries in a mammogram. Lengths in mm, attenuation per mm."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np

Profile = Callable[[np.ndarray], np.ndarray]  # function of the distance from a centre, in mm


@runtime_checkable
class Outline(Protocol):
    """Part of a view that distractors read.

    Attributes:
      pixel: mm.
      shape: in pixels.
      nipple: (row, column) in mm.
      skin_mm: [row, column], distance from the skin, 0 outside the breast.
    """

    pixel: float
    shape: tuple[int, int]
    nipple: np.ndarray
    skin_mm: np.ndarray


def distract(signal: np.ndarray, c: Outline, rng: np.random.Generator, chance: float) -> None:
    """Add skin, round and popcorn calcifications, rods in ducts, and a biopsy clip, in place.

    Args:
      signal: [row, column], attenuation beyond that of fat.
      chance: probability of each kind; half of it for popcorn and clips.
    """
    # Every eighth pixel is enough. At 8 mm from the skin the outline cuts off none of them.
    places = np.argwhere(c.skin_mm[::8, ::8] > 8) * 8

    def spot() -> np.ndarray:
        return places[rng.integers(len(places))]

    if rng.random() < chance:  # in skin that is seen face on: bright rings with lucent centres
        for _ in range(int(rng.integers(2, 9))):
            add(signal, c, place=spot(), profile=ring(rng.uniform(0.35, 0.8)), reach_mm=1.6)
    if rng.random() < chance:  # round, benign
        for _ in range(int(rng.integers(1, 6))):
            r = float(np.exp(rng.uniform(np.log(0.2), np.log(1.3))))
            add(signal, c, place=spot(), profile=ball(r, 0.42), reach_mm=r + 0.2)
    if rng.random() < chance / 2:  # popcorn of an old fibroadenoma
        middle = spot()
        for _ in range(14):
            r = rng.uniform(0.4, 1.1)
            add(
                signal,
                c,
                place=middle + np.rint(rng.normal(0, 1.7 / c.pixel, 2)).astype(int),
                profile=ball(r, 0.3),
                reach_mm=r + 0.2,
            )
    if rng.random() < chance:  # rods in ducts, pointing to the nipple
        for _ in range(int(rng.integers(2, 7))):
            start = spot() * c.pixel
            # The small number avoids a division by zero for a start on the nipple itself.
            way = (c.nipple - start) / (np.linalg.norm(c.nipple - start) + 1e-6)
            r, size = rng.uniform(0.15, 0.32), rng.uniform(2, 7)
            # Balls half a radius apart run together into a rod; their attenuations add.
            for t in np.arange(0, size, 0.5 * r):
                add(
                    signal,
                    c,
                    place=((start + t * way) / c.pixel).astype(int),
                    profile=ball(r, 0.25),
                    reach_mm=r + 0.1,
                )
    if rng.random() < chance / 2:  # a clip
        start, turn = spot(), rng.uniform(0, np.pi)
        for t in np.linspace(-1.5, 1.5, 13):
            # A parabola, 3 mm wide and turned at random.
            bent = np.array(
                [
                    t * np.sin(turn) + 0.5 * t * t * np.cos(turn),
                    t * np.cos(turn) - 0.5 * t * t * np.sin(turn),
                ]
            )
            add(
                signal,
                c,
                place=start + np.rint(bent / c.pixel).astype(int),
                profile=ball(0.22, 3.0),
                reach_mm=0.4,
            )


def ring(radius: float) -> Profile:
    """A shell, seen in projection as a ring."""
    return lambda d: 0.32 * np.exp(-(((d - radius) / 0.16) ** 2))


def ball(radius: float, per_mm: float) -> Profile:
    """A ball of so much attenuation per mm."""
    # The chord of a sphere at distance d from its centre is 2 sqrt(r**2 - d**2).
    return lambda d: per_mm * 2 * np.sqrt(np.maximum(radius * radius - d * d, 0))


def add(
    signal: np.ndarray, c: Outline, place: np.ndarray, profile: Profile, reach_mm: float
) -> None:
    """Add a profile of the distance (mm) about a pixel, inside the breast only."""
    n = int(np.ceil(reach_mm / c.pixel))
    low = np.maximum(place - n, 0)
    high = np.minimum(place + n + 1, c.shape)
    if (high <= low).any():
        return
    rows, columns = (np.arange(a, b) - p for a, b, p in zip(low, high, place))
    view = signal[low[0] : high[0], low[1] : high[1]]
    view += profile(np.hypot(rows[:, None], columns[None]) * c.pixel) * (
        c.skin_mm[low[0] : high[0], low[1] : high[1]] > 0.5
    )
