"""Sizes in mm that a study can have and hardly has: an image of the wrong unit of length, a volume
whose voxels no scanner makes.
"""

import math

from mmv_jax.readers.odd_chest import CHEST
from mmv_jax.study import Study

Told = tuple[str, str]  # code, sentence
LEAST_PIXELS = 512  # of the longest side of a whole image; a smaller one may be a crop
# mm of the longest side: of any planar image (a tooth, a whole body), and of a chest.
PLANAR_MM, CHEST_MM = (20.0, 2_500.0), (100.0, 1_000.0)
# Voxels are square in the plane of the scan: two of three sides agree.
ALIKE = 1.5  # ratio of two sides from which on they are none of one plane
FLAT = 4.0  # a pixel's side divided by the distance of slices: no scanner has slices that close


def odd_extent(study: Study, modality: str) -> tuple[Told, ...]:
    """Warning about a study's sizes in mm, as ((odd_spacing, sentence),); else ().

    Args:
      modality: of the manifest's line.
    """
    if study.ndim == 2:
        return _of_image(study, modality)
    shortest, middle, longest = sorted(study.spacing_mm)
    if middle > FLAT * shortest:
        return (("odd_spacing", f"voxels of {middle:.3g} mm are {shortest:.3g} mm thin"),)
    if middle > ALIKE * shortest and longest > ALIKE * middle:
        return (("odd_spacing", "no two sides of a voxel agree, as those of one plane do"),)
    return ()


def _of_image(study: Study, modality: str) -> tuple[Told, ...]:
    sides = [n * mm for n, mm in zip(study.voxels.shape[1:], study.spacing_mm[1:])]
    if max(study.voxels.shape) < LEAST_PIXELS or any(map(math.isnan, sides)):
        return ()
    low, high = CHEST_MM if modality.casefold() in CHEST else PLANAR_MM
    if low <= max(sides) <= high:
        return ()
    return (("odd_spacing", f"the whole image is {max(sides):.3g} mm long: another unit?"),)
