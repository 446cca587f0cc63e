"""Study: voxels in physical space, without anything that names a patient."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

UNITS = ("HU", "raw", "shape")


@dataclass(frozen=True)
class Study:
    """One image in physical space.

    Attributes:
      voxels: `[z, y, x]`, integer or float32. A volume is in LPS+ order: z grows to the head, y to
        the back, x to the patient's left. A planar study has z = 1, rows downward, tissue bright.
      spacing_mm: (z, y, x) in mm; NaN where neither the file nor the manifest says it. z of a
        planar study is NaN.
      ndim: 2 (planar) or 3 (volumetric).
      unit: "HU", "raw" (numbers without a known unit) or "shape" (binary).
      attributes: numbers that the file states beside geometry, such as `kvp`. The reader's
        allow-list fixes their names; no text is kept.
      told: (code, reason) of warnings that are no ground for refusal. They quote nothing of the
        file.
      said: what the file says of sex, age, view, side and modality. It is compared with the labels
        of the manifest, and never stored.
    """

    voxels: np.ndarray
    spacing_mm: tuple[float, float, float]
    ndim: int
    unit: str
    attributes: Mapping[str, float] = field(default_factory=dict)
    told: tuple[tuple[str, str], ...] = ()
    said: Mapping[str, str | float] = field(default_factory=dict, repr=False)

    def __post_init__(self):
        assert self.voxels.ndim == 3 and self.ndim in (2, 3) and self.unit in UNITS, (
            self.voxels.shape,
            self.ndim,
            self.unit,
        )
        assert self.ndim == 3 or self.voxels.shape[0] == 1, self.voxels.shape
