"""Pictures as lines of digits, after a line that says DIGITS."""

import numpy as np

from mmv_jax.readers.image import NAN, Format, Image
from mmv_jax.readers.read import FORMATS


def read(path, grid):
    rows = path.read_text().split()[1:]
    return Image(np.array([[int(c) for c in row] for row in rows], np.uint8)[None], (NAN,) * 3, 2)


def matches(head, path):
    return head.startswith(b"DIGITS")


FORMATS.register("digits", Format(matches, read, noun="picture"))
