"""Hard negatives: places that a half-trained model wrongly takes for calcified artery.

The rest of the fit draws more tiles there.

Source: bootstrapping as of Sung and Poggio (IEEE PAMI 20:39, 1998); Shrivastava et al. (arXiv
1604.03540), section 3.
"""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from mmv_jax.bac.infer import Finder
from mmv_jax.bac.sample import Sampler
from mmv_jax.errors import UserError
from mmv_jax.files import write_whole
from mmv_jax.report.progress import progress


def mistakes(finder: Finder, sampler: Sampler, path: Path) -> list[Int[np.ndarray, "n 2"]]:
    """Points [row, column] of each view that the model wrongly takes for calcified artery.

    They lie on the working grid, apart from all calcified arteries. A pixel is taken for one from
    `Measure.threshold` on, as in a measurement.

    Args:
      path: file of the points. It is read if it exists, so that a resumed fit uses the same points.
    Raises:
      UserError: the file has another number of views.
    """
    if path.exists():
        with path.open("rb") as stored, np.load(stored, allow_pickle=False) as file:
            if len(file.files) != len(sampler):
                has = f"{path.name} is of {len(file.files)} views, and the store has {len(sampler)}"
                raise UserError(f"{has}. Use the fit's own store, or another --workdir.")
            # By number, so that the order within the archive does not matter.
            return [file[f"view_{n}"] for n in range(len(file.files))]
    report, found = progress("hard negatives: looked at"), []
    for n, (voxels, spacing_mm) in enumerate(sampler.images()):
        probability, _ = finder.probabilities(voxels, spacing_mm)
        found.append(sampler.off_arteries(n, probability >= finder.measure.threshold))
        report(n + 1, len(sampler))
    arrays: dict[str, Any] = {f"view_{n}": points for n, points in enumerate(found)}
    # Written atomically: a resume would take half of a file for the whole.
    write_whole(path, lambda file: np.savez_compressed(file, **arrays))
    return found
