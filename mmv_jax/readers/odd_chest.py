"""Whether a frontal radiograph of a chest is inverted (air bright) or turned on its side or head.

A picture has no header that says so. But in every frontal chest the lungs and the air beside the
neck are dark, and the spine, the heart and the abdomen bright, each in its place.
"""

import numpy as np
from PIL import Image as Pillow
from scipy.stats import rankdata

from mmv_jax.study import Study

Told = tuple[str, str]  # code, sentence
# Words of `modality` that mean a radiograph of a chest, and those that mean any radiograph.
CHEST = {"cxr", "chest-xray", "chest"}
RADIOGRAPH = {"cr", "dx", "xr", "x-ray", "xray", "picture"}
# Left half of the usual ranks of grey in a chest, from top to bottom; the right half mirrors it.
# Means of 1,000 frontal radiographs of NIH ChestX-ray14 (Wang et al., CVPR 2017), in deviations.
HALF = (
    (-1.3, -1.2, -0.9, 0.0),
    (-0.5, -0.3, -0.6, -0.2),
    (0.1, 0.0, -0.8, -0.3),
    (0.0, -0.1, -0.8, 0.1),
    (-0.2, 0.0, -0.3, 0.6),
    (-0.4, 0.2, 0.4, 1.0),
    (-0.5, 0.5, 1.0, 1.4),
    (-0.5, 0.8, 1.4, 1.6),
)
SIDE = 2 * len(HALF)  # pixels to which an image is reduced
# Correlation with the usual chest. Of 1,100 radiographs 2 lie below 0, and the lowest at -0.24.
INVERTED, SURELY_INVERTED = -0.4, -0.6
UPRIGHT, BETTER = 0.55, 0.5  # of the turned image, and how much above that of the image as it is
LEAST_DETAIL = 0.2  # of the correlation without the slope of the whole image
TURNS = {1: "on its side", 2: "on its head", 3: "on its side"}  # quarters of a turn
LEAST_SIDE, LEAST_TURNED = 16, 64  # pixels
LONGEST = 256  # pixels that are looked at along a side
# A frame: most of the border has one value, within a share of the range.
FRAME, ALIKE, LEAST_CONTENT = 0.5, 0.06, 0.1


def odd_chest(study: Study, modality: str) -> tuple[Told, ...]:
    """Warning that a frontal chest is inverted or turned, as ((code, sentence),); else ().

    Args:
      modality: of the manifest. Where it does not say "chest", only a surer inversion is told.
    """
    word = modality.casefold()
    if study.ndim != 2 or word not in CHEST | RADIOGRAPH or study.unit == "shape":
        return ()
    image = study.voxels[0]
    if min(image.shape) < LEAST_SIDE:
        return ()
    ranks = _ranks(image)
    upright, is_chest = likeness(ranks), word in CHEST
    if is_chest and min(image.shape) >= LEAST_TURNED:
        turns = ((likeness(np.rot90(ranks, n)), words) for n, words in TURNS.items())
        best, words = max(turns)
        # An inverted chest that stands on its head is no likelier than one that is only inverted.
        if best > max(UPRIGHT, -upright) and best > upright + BETTER:
            return (("turned", f"the chest seems to lie {words}"),)
    if upright < (INVERTED if is_chest else SURELY_INVERTED):
        what = "air seems bright and tissue dark: an inverted picture? Bright must be dense"
        return (("inverted", what),)
    return ()


def likeness(ranks: np.ndarray) -> float:
    """Correlation of ranks `[SIDE, SIDE]` with those of the usual chest, from -1 to 1.

    0 where the two agree in no more than that one side of the image is brighter.
    """
    half = np.array(HALF)
    usual = np.concatenate([half, half[:, ::-1]], axis=1).repeat(2, axis=0).repeat(2, axis=1)
    whole, detail = (
        float(np.corrcoef(one.ravel(), other.ravel())[0, 1])
        for one, other in ((ranks, usual), (_without_slope(ranks), _without_slope(usual)))
    )
    return whole if whole * detail > 0 and abs(detail) > LEAST_DETAIL else 0.0


def _without_slope(ranks: np.ndarray) -> np.ndarray:
    """Ranks without the plane that fits them best."""
    y, x = np.mgrid[:SIDE, :SIDE]
    plane = np.stack([np.ones(SIDE * SIDE), y.ravel(), x.ravel()], axis=1)
    return ranks - (plane @ np.linalg.lstsq(plane, ranks.ravel(), rcond=None)[0]).reshape(
        SIDE, SIDE
    )


def _ranks(image: np.ndarray) -> np.ndarray:
    """Ranks of the grey values in SIDE x SIDE fields of an image `[y, x]`, without its frame."""
    step = max(1, max(image.shape) // LONGEST)
    content = _without_frame(image[::step, ::step].astype(np.float32))
    small = Pillow.fromarray(content).resize((SIDE, SIDE), Pillow.Resampling.BOX)
    return rankdata(np.asarray(small)).reshape(SIDE, SIDE)


def _without_frame(image: np.ndarray) -> np.ndarray:
    """Image without the black or white frame of a collimator or a scanner."""
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    low, high = np.percentile(image, (1, 99))
    frame, near = np.median(border), ALIKE * (high - low)
    if np.mean(np.abs(border - frame) < near) < FRAME:
        return image
    within = np.abs(image - frame) > near
    rows = np.flatnonzero(within.mean(axis=1) > LEAST_CONTENT)
    columns = np.flatnonzero(within.mean(axis=0) > LEAST_CONTENT)
    if 3 * len(rows) < image.shape[0] or 3 * len(columns) < image.shape[1]:
        return image
    return image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
