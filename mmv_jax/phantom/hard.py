"""Harder distractors than `distractors.py`: lines of calcium and of metal that are no artery.

Kinds after BAC-JEPA (arXiv 2606.22089), which names calcifications that are not arterial and
metallic objects; shapes after the benign ones of BI-RADS. Lengths in mm, attenuation per mm.
"""

import numpy as np

from mmv_jax.phantom.distractors import Outline, add, ball, ring


def distract_hard(
    signal: np.ndarray, c: Outline, rng: np.random.Generator, chance: float
) -> list[str]:
    """Adds, in place, each of `KINDS` with probability `chance`; returns those that were added."""
    places = np.argwhere(c.skin_mm[::8, ::8] > 8) * 8
    if not len(places):
        return []
    added = []
    for name, draw in KINDS.items():
        # Drawn for every kind, so that one kind does not depend on another's chance.
        own = np.random.default_rng(rng.integers(2**63))
        if own.random() < chance:
            draw(signal, c, own, places[own.integers(len(places))])
            added.append(name)
    return added


def _eggshell(signal, c, rng, at) -> None:
    """The rim of an oil cyst, 2 to 6 mm across, with gaps."""
    radius = rng.uniform(1.0, 3.0)
    add(signal, c, place=at, profile=ring(radius), reach_mm=radius + 0.6)


def _suture(signal, c, rng, at) -> None:
    """Calcified thread: loops and a knot, as wide as an artery's wall."""
    way, turn = rng.uniform(0, 2 * np.pi), rng.normal(0, 0.8)
    place = at.astype(float)
    for _ in range(int(rng.uniform(5, 12) / 0.1)):
        add(signal, c, place=place.astype(int), profile=ball(0.14, 0.35), reach_mm=0.3)
        place = place + 0.1 / c.pixel * np.array([np.sin(way), np.cos(way)])
        way += 0.1 * turn
    add(signal, c, place=at, profile=ball(0.45, 0.5), reach_mm=0.7)


def _cluster(signal, c, rng, at) -> None:
    """Fine calcifications of many shapes within 6 mm, some of them in a line."""
    way = rng.uniform(0, np.pi)
    line = np.array([np.sin(way), np.cos(way)])
    for _ in range(int(rng.integers(8, 30))):
        off = line * rng.normal(0, 2.5) + rng.normal(0, 0.7, 2)
        radius = rng.uniform(0.06, 0.2)
        place = at + np.rint(off / c.pixel).astype(int)
        add(signal, c, place=place, profile=ball(radius, 0.6), reach_mm=radius + 0.1)


def _teacups(signal, c, rng, at) -> None:
    """Milk of calcium: in an MLO view layered in small cysts, in a CC view smudged."""
    for _ in range(int(rng.integers(3, 12))):
        place = at + np.rint(rng.normal(0, 4 / c.pixel, 2)).astype(int)
        for x in np.linspace(-0.6, 0.6, 9):
            bent = np.array([-0.4 * x * x, x])
            spot = place + np.rint(bent / c.pixel).astype(int)
            add(signal, c, place=spot, profile=ball(0.15, 0.25), reach_mm=0.3)


def _wire(signal, c, rng, at) -> None:
    """A localisation wire or the lead of a pacemaker: metal, straight or nearly so, 30 to 70 mm."""
    way, bend = rng.uniform(0, 2 * np.pi), rng.normal(0, 0.004)
    place, thick = at.astype(float), rng.uniform(0.15, 0.5)
    for _ in range(int(rng.uniform(30, 70) / (0.5 * thick))):
        add(signal, c, place=place.astype(int), profile=ball(thick, 2.5), reach_mm=thick + 0.1)
        place = place + 0.5 * thick / c.pixel * np.array([np.sin(way), np.cos(way)])
        way += bend
    # Outside of the breast `add` draws nothing.


def _marker(signal, c, rng, at) -> None:
    """A lead bead on the skin, or a row of surgical clips."""
    way = rng.uniform(0, np.pi)
    line = np.array([np.sin(way), np.cos(way)])
    if rng.random() < 0.5:
        add(signal, c, place=at, profile=ball(rng.uniform(0.7, 1.2), 4.0), reach_mm=1.4)
        return
    for n in range(int(rng.integers(2, 6))):
        for t in np.linspace(0, 4.0, 27):
            off = line * 9.0 * n + line[::-1] * np.array([1, -1]) * t
            place = at + np.rint(off / c.pixel).astype(int)
            add(signal, c, place=place, profile=ball(0.3, 3.0), reach_mm=0.5)


def _powder(signal, c, rng, at) -> None:
    """Deodorant or powder in folds of the skin: bright dust along lines."""
    for _ in range(int(rng.integers(2, 5))):
        start, way = at + rng.normal(0, 6 / c.pixel, 2), rng.uniform(0, np.pi)
        line = np.array([np.sin(way), np.cos(way)])
        for _ in range(int(rng.integers(15, 50))):
            off = line * rng.uniform(0, 15) + rng.normal(0, 0.25, 2)
            place = (start + off / c.pixel).astype(int)
            add(signal, c, place=place, profile=ball(0.08, 1.2), reach_mm=0.2)


KINDS = {
    "eggshell": _eggshell,
    "suture": _suture,
    "cluster": _cluster,
    "teacups": _teacups,
    "wire": _wire,
    "marker": _marker,
    "powder": _powder,
}
