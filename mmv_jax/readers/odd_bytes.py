"""Whether the two bytes of each value are exchanged: a writer took another machine's order."""

import numpy as np

from mmv_jax.study import Study

Told = tuple[str, str]  # code, sentence
SEEN = 2**18  # values that are looked at
SMOOTHER = 0.3  # of the roughness, once the bytes are exchanged back; no image that is right gains


def odd_bytes(study: Study) -> tuple[Told, ...]:
    """Warning that an image of 16 bits is smooth only in the other byte order; else ()."""
    if study.unit == "shape" or study.voxels.dtype not in (np.dtype("i2"), np.dtype("u2")):
        return ()
    image = study.voxels[len(study.voxels) // 2]
    # Rows from top to bottom: of a dark corner with a bright mark, nearly all values are of one or
    # two grey levels, so that the mark's steps would be compared with a range of 1.
    image = image[:: max(1, image.size // SEEN)]
    as_it_is, exchanged = roughness(image), roughness(image.byteswap())
    if exchanged < SMOOTHER * as_it_is:
        return (("byte_order", "the two bytes of each value seem to be exchanged"),)
    return ()


def roughness(image: np.ndarray) -> float:
    """Mean step between neighbours of a row, as a share of the range of the values."""
    values = image.astype(np.float32)
    low, high = np.percentile(values, (1, 99))
    return float(np.abs(np.diff(values, axis=1)).mean() / max(high - low, 1.0))
