"""Lines of grey writing in a planar picture: names, dates and numbers that were burnt in.

No text is read. A line is a row of at least LEAST_LETTERS marks of one height, on one base line and
of one brightness, each with sharp edges. Fewer letters are a marker, which names nobody.
"""

import numpy as np
from jaxtyping import Bool, Num
from scipy import ndimage

LEAST_SIDE = 64  # pixels: nothing is legible in smaller pictures
LEAST_LETTERS = 5  # LMLO and RCC are markers of side and view
EDGE = 0.25  # share of the range within two pixels: anatomy is softer
TILE = 16  # pixels
EDGES_OF_A_TILE = 6  # a tile with a letter in it has more
MOST_EDGES = 0.5  # share of the tiles
STANDS_OUT = 0.3  # share of the range by which a stroke differs from what is around it
HEIGHTS = (6, 0.08)  # of a letter: at least so many pixels, at most this share of the longer side
SAME_HEIGHT = 1.4  # ratio; small letters stand beside capitals
BESIDE = 1.2  # distance to the next letter, in heights: a blank between words is smaller
ON_LINE = 0.12  # distance from the base line, in heights
GREYS = 32  # bins of brightness in which the most frequent grey is sought
SAME_GREY = 0.15  # spread of the letters' brightness, as a share of the range


def text_of(pixels: Num[np.ndarray, "y x"]) -> Bool[np.ndarray, "y x"] | None:
    """Mask of the strokes of all lines of writing in a picture; None where there is no line."""
    if min(pixels.shape) < LEAST_SIDE:
        return None
    values = pixels.astype(np.float32)
    low, high = np.percentile(values[::4, ::4], (1, 99))
    range_ = float(high - low)
    if range_ <= 0:
        return None
    found = np.zeros(pixels.shape, bool)
    tallest = int(HEIGHTS[1] * max(pixels.shape))
    for region in _regions(values, EDGE * range_):
        part = values[region]
        # A stroke is thin: an opening as wide as a letter is high removes it, and no anatomy.
        width = 2 * (max(HEIGHTS[0], min(tallest, min(part.shape)) // 2) // 2) + 1
        mean = ndimage.uniform_filter(part, 3 * width)
        for sign, hat in ((1, ndimage.white_tophat), (-1, ndimage.black_tophat)):
            height = hat(part, size=width)
            # Gaps between bright letters stand out too, but from the letters, not from the rest.
            strokes = (height > STANDS_OUT * range_) & (sign * (part - mean) > 0.4 * height)
            lines = _lines(strokes, part, range_, tallest)
            if not lines.any():
                # Letters that touch bright anatomy form one mark with it, but have a grey of their
                # own.
                lines = _lines(_of_one_grey(strokes, part, range_), part, range_, tallest)
            found[region] |= lines
    return found if found.any() else None


def _of_one_grey(strokes: np.ndarray, values: np.ndarray, range_: float) -> np.ndarray:
    """Those of the strokes that have the most frequent grey."""
    greys = values[strokes]
    if not greys.size:
        return strokes
    counts, edges = np.histogram(greys, bins=GREYS)
    most = edges[counts.argmax()]
    return strokes & (np.abs(values - most) <= SAME_GREY / 2 * range_)


def _regions(values: np.ndarray, edge: float) -> list[tuple[slice, slice]]:
    """Boxes with many sharp vertical edges, which is where letters can be.

    Most pictures have few. One that has them nearly everywhere is noise: nothing is legible in it,
    and to look at all of it would take long.
    """
    sharp = np.abs(values[:, 2:] - values[:, :-2]) > edge
    rows, columns = (n // TILE for n in sharp.shape)
    tiles = sharp[: rows * TILE, : columns * TILE].reshape(rows, TILE, columns, TILE)
    many = tiles.sum(axis=(1, 3), dtype=np.int32) >= EDGES_OF_A_TILE
    if many.mean() > MOST_EDGES:
        return []
    # Neighbours too: a letter may reach into a tile with a part of itself only.
    near = ndimage.binary_dilation(many, np.ones((3, 5)))
    boxes = ndimage.find_objects(ndimage.label(near, np.ones((3, 3)))[0])
    return [
        (
            slice(box[0].start * TILE, box[0].stop * TILE + 2 * TILE),
            slice(box[1].start * TILE, box[1].stop * TILE + 2 * TILE),
        )
        for box in boxes
    ]


def _lines(strokes: np.ndarray, values: np.ndarray, range_: float, tallest: int) -> np.ndarray:
    """Those of the strokes that form lines."""
    labels, count = ndimage.label(strokes, np.ones((3, 3)))
    marks = []
    for n, box in enumerate(ndimage.find_objects(labels), 1):
        inside = labels[box] == n
        height, width = inside.shape
        share = inside.mean()
        if HEIGHTS[0] <= height <= tallest and width <= 1.6 * height and share >= 0.12:
            grey = float(np.median(values[box][inside]))
            marks.append((box[1].start, box[1].stop, box[0].start, box[0].stop, grey, n))
    kept = [n for line in _grouped(sorted(marks)) for n in _aligned(line, range_)]
    return np.isin(labels, kept) & strokes


def _grouped(marks: list[tuple]) -> list[list[tuple]]:
    """Marks beside each other, of about one height, from left to right."""
    lines: list[list[tuple]] = []
    for mark in marks:
        left, _, top, bottom, _, _ = mark
        height = bottom - top
        for line in lines:
            _, right, last_top, last_bottom, _, _ = line[-1]
            last = last_bottom - last_top
            near = -0.3 * height <= left - right <= BESIDE * max(height, last)
            level = abs((top + bottom) - (last_top + last_bottom)) < 0.7 * min(height, last)
            if near and level and max(height, last) < SAME_HEIGHT * min(height, last):
                line.append(mark)
                break
        else:
            lines.append([mark])
    return [line for line in lines if len(line) >= LEAST_LETTERS]


def _aligned(line: list[tuple], range_: float) -> list[int]:
    """Numbers of a line's marks; none where too few stand on one base line in one grey."""
    bottoms = np.array([mark[3] for mark in line])
    heights = np.array([mark[3] - mark[2] for mark in line])
    greys = np.array([mark[4] for mark in line])
    on_line = np.abs(bottoms - np.median(bottoms)) <= max(1, ON_LINE * np.median(heights))
    alike = np.abs(greys - np.median(greys)) <= SAME_GREY * range_
    good = on_line & alike
    enough = good.sum() >= max(LEAST_LETTERS, 0.7 * len(line))
    return [mark[5] for mark in line] if enough else []
