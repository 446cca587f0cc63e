"""Slices of a volume that do not fit their neighbours: flipped, turned, inverted, moved, scaled, of
another scan, exchanged, or copied.

Neighbouring slices resemble each other. So a slice is compared with its neighbours as it is and as
it would be without a defect. Limits were set on 780 real volumes, which stay clear of them.
"""

import math
from collections.abc import Iterator
from itertools import pairwise

import numpy as np

Told = tuple[str, str]  # code, sentence
CODE = "odd_slices"
SIDE = 64  # pixels to which a slice is reduced before it is compared
LEAST_SLICES = 4
LEAST_STEP = 2e-3  # of the range: smaller differences between slices prove nothing
TURNED = 0.8  # times the difference of two slices: a turned one fits that much better
DIFFERS = 1.2  # times the usual difference between neighbours, where one of them is turned
APART = 0.7  # times the difference to both neighbours, which themselves are that much more alike
STANDS_OUT = 1.5  # times the usual difference between neighbours
EXCHANGED = 0.8  # times the differences, with two slices exchanged
# Times a step, to a slice further away: 0.06 to 0.45 where a block lies in another order.
ELSEWHERE, LEAST_AWAY, BORDERS = 0.55, 3, 3
JUMP, SCALED = 3.0, 0.5  # times all other differences; times the difference, in fitted values
MOVED, LEAST_MOVE = 0.6, 2  # times the difference, in a place that many reduced pixels away
# With few pixels noise alone may fit better by a multiple of 1/sqrt(pixels).
NOISE = 4.0
COPIES = 0.25  # share of equal neighbours; with more the volume was resampled
LEAST_VALUES = 64  # distinct values of a slice that is no copy by chance
PERCENTILES = (2, 98)


def odd_slices(slices: np.ndarray) -> tuple[Told, ...]:
    """Warning about slices that do not fit their neighbours, as ((code, sentence),); else ().

    Args:
      slices: `[slices, rows, columns]` in the order of their positions.
    """
    if len(slices) < LEAST_SLICES:
        return ()
    small = reduced(slices)
    # Of any one slice: the values of a single odd one count, and a few bright voxels do not.
    ends = np.array([np.percentile(one, PERCENTILES) for one in small], np.float32)
    low, high = ends[:, 0].min(), ends[:, 1].max()
    if not high > low:
        return ()
    # In place: beside the volume there is room for little else.
    small -= low
    small /= high - low
    np.clip(small, 0, 1, out=small)
    found = [*_copies(slices), *_turned(small), *_alone(small), *_reordered(small)]
    found += _stepping(small)
    return tuple((CODE, sentence) for sentence in found[:1])


def reduced(slices: np.ndarray) -> np.ndarray:
    """Means of square blocks, float32 `[slices, y, x]`, centred so that flips stay flips."""
    block = max(1, min(slices.shape[1:]) // SIDE)
    rows, columns = (n // block for n in slices.shape[1:])
    top, left = (n % block // 2 for n in slices.shape[1:])
    cut = slices[:, top : top + rows * block, left : left + columns * block]
    small = np.empty((len(slices), rows, columns), np.float32)
    for k, one in enumerate(cut):  # one at a time: a volume in float32 may not fit into memory
        blocks = one.astype(np.float32).reshape(rows, block, columns, block)
        small[k] = blocks.mean(axis=(1, 3))
    return small


def _difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).mean())


def _limit(share: float, image: np.ndarray) -> float:
    return share - NOISE / math.sqrt(image.size)


def _copies(slices: np.ndarray) -> Iterator[str]:
    same = [k for k, (one, other) in enumerate(pairwise(slices)) if np.array_equal(one, other)]
    if not same or len(same) > COPIES * (len(slices) - 1):
        return
    k = same[0]
    if len(np.unique(slices[k])) >= LEAST_VALUES:
        yield f"slice {k + 2} of {len(slices)} is a copy of the one before"


def _turns(image: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    yield "flipped left to right", image[:, ::-1]
    yield "flipped top to bottom", image[::-1]
    yield "turned by 180 degrees", image[::-1, ::-1]
    yield "inverted", 1 - image
    if image.shape[0] == image.shape[1]:
        yield "with rows and columns exchanged", image.T
        yield "turned by 90 degrees", np.rot90(image)
        yield "turned by 270 degrees", np.rot90(image, 3)
        yield "flipped along a diagonal", image[::-1, ::-1].T


def _turned(small: np.ndarray) -> Iterator[str]:
    """Neighbours of which one fits the other better if it is turned."""
    steps = [_difference(*pair) for pair in pairwise(small)]
    usual = max(float(np.median(steps)), LEAST_STEP)
    found = []
    for k, (one, other) in enumerate(pairwise(small)):
        turned = ((words, _difference(one, image)) for words, image in _turns(other))
        words, best = min(turned, key=lambda pair: pair[1])
        if steps[k] >= LEAST_STEP and best < _limit(TURNED, one) * steps[k]:
            found.append((steps[k], k, words))
    # What moves across the middle fits its mirror image once, but differs no more there.
    if found and (max(found)[0] > DIFFERS * usual or len(found) > len(steps) / 4):
        _, k, words = max(found)
        yield f"slices {k + 1} and {k + 2} of {len(small)} fit better if one is {words}"


def _alone(small: np.ndarray) -> Iterator[str]:
    """Slices unlike both neighbours, which are alike; and two that seem to be exchanged."""
    steps = np.array([_difference(*pair) for pair in pairwise(small)])
    across = np.array([_difference(*pair) for pair in zip(small, small[2:])])
    usual = max(float(np.median(steps)), LEAST_STEP)
    limit, exchanged = _limit(APART, small[0]), _limit(EXCHANGED, small[0])
    for k in range(1, len(small) - 1):
        # In the middle of a body that is its own mirror image the neighbours are alike as well.
        beside = min(steps[k - 1], steps[k])
        if across[k - 1] < limit * beside and beside > STANDS_OUT * usual:
            yield f"slice {k + 1} of {len(small)} is unlike both its neighbours, which are alike"
    for k in range(1, len(small) - 2):
        before, after = (steps[k - 1], steps[k + 1]), (across[k - 1], across[k])
        nearer = after[0] < before[0] and after[1] < before[1]
        if nearer and sum(after) < exchanged * sum(before) and sum(before) > 2 * usual:
            yield f"slices {k + 1} and {k + 2} of {len(small)} seem to be exchanged"


def _reordered(small: np.ndarray) -> Iterator[str]:
    """Steps beside which a slice fits one that lies further away: a block in another order."""
    steps = [_difference(*pair) for pair in pairwise(small)]
    usual, count = max(float(np.median(steps)), LEAST_STEP), len(small)
    # What begins and ends within a volume makes steps of all sizes; a moved block makes three.
    others = sorted(steps)[:-BORDERS][-1:] or [0.0]
    least = STANDS_OUT * max(usual, *others)
    for k in (k for k, step in enumerate(steps) if step > least):
        further = [(k, n) for n in range(k + LEAST_AWAY, count)]
        further += [(k + 1, n) for n in range(k + 2 - LEAST_AWAY)]
        apart = min((_difference(small[one], small[n]) for one, n in further), default=math.inf)
        if apart < _limit(ELSEWHERE, small[0]) * steps[k]:
            yield f"a block of slices from {k + 2} of {count} on seems to lie in another order"


def _stepping(small: np.ndarray) -> Iterator[str]:
    """Places where the volume steps to other values, or to the side."""
    steps = np.array([_difference(*pair) for pair in pairwise(small)])
    usual = max(float(np.median(steps)), LEAST_STEP)
    for k, (one, other) in enumerate(pairwise(small)):
        rest = np.delete(steps, k).max()
        words = f"between slices {k + 1} and {k + 2} of {len(small)}"
        if steps[k] > JUMP * max(rest, LEAST_STEP):
            fits = _difference(one, _as_in(other, one)), _difference(other, _as_in(one, other))
            if max(fits) < _limit(SCALED, one) * steps[k]:
                yield f"the values are scaled or shifted {words}"
        if steps[k] > STANDS_OUT * usual:
            move = _move(one, other)
            moved = _difference(one, np.roll(other, move, (0, 1)))
            if max(map(abs, move)) >= LEAST_MOVE and moved < _limit(MOVED, one) * steps[k]:
                yield f"the image moves to the side {words}"


def _as_in(image: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Image with the mean and the spread of another."""
    return (image - image.mean()) * (like.std() / max(float(image.std()), 1e-6)) + like.mean()


def _move(one: np.ndarray, other: np.ndarray) -> tuple[int, int]:
    """Rows and columns by which `other` fits `one` best: the peak of their cross-correlation."""
    spectrum = np.fft.rfft2(one - one.mean()) * np.conj(np.fft.rfft2(other - other.mean()))
    found = np.fft.irfft2(spectrum, one.shape)
    y, x = np.unravel_index(int(np.argmax(found)), found.shape)
    rows, columns = found.shape
    return int(y) - rows * (y > rows // 2), int(x) - columns * (x > columns // 2)
