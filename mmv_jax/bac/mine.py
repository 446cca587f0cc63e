"""Hard negatives: where a model that is half learned takes something else for calcified artery, so
that the rest of the fit looks there.

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

TAKEN = 0.5  # probability from which a pixel is taken for calcified artery


def mistakes(finder: Finder, sampler: Sampler, path: Path) -> list[Int[np.ndarray, "n 2"]]:
    """Points [row, column] on the working grid of each view of the sampler that the model takes for
    calcified artery, off all that are.

    Args:
      path: where they are kept; read where they are there already, so that a fit that was stopped
        goes on with the same.
    Raises:
      UserError: what is kept is of another number of views.
    """
    if path.exists():
        with np.load(path, allow_pickle=False) as file:
            if len(file.files) != len(sampler):
                has = f"{path.name} is of {len(file.files)} views, and the store has {len(sampler)}"
                raise UserError(f"{has}. Use the fit's own store, or another --workdir.")
            # By number, so that the order within the archive does not matter.
            return [file[f"view_{n}"] for n in range(len(file.files))]
    report, found = progress("hard negatives: looked at"), []
    for n, (voxels, spacing_mm) in enumerate(sampler.images()):
        probability, _ = finder.probabilities(voxels, spacing_mm)
        found.append(sampler.off_arteries(n, probability >= TAKEN))
        report(n + 1, len(sampler))
    arrays: dict[str, Any] = {f"view_{n}": points for n, points in enumerate(found)}
    # All or nothing: a resume would take half of a file for the whole.
    write_whole(path, lambda file: np.savez_compressed(file, **arrays))
    return found
