"""Cache of the results of fits, so that a stopped evaluation resumes."""

from pathlib import Path
from typing import Any

import numpy as np

from mmv_jax.evaluate.kinds.mask_scores import Segmented
from mmv_jax.files import write_whole


def write(path: Path, found: Segmented | tuple[np.ndarray, str]) -> None:
    """Write a result as arrays; the file is whole or absent."""
    if isinstance(found, Segmented):
        # Each mask has a grid of its own; one array of objects would need pickle.
        masks = {f"mask_{n}": mask for n, mask in enumerate(found.masks)}
        scores = {f"score_{name}": values for name, values in found.scores.items()}
        arrays: dict[str, Any] = {"choice": np.array(found.choice), **scores, **masks}
    else:
        arrays = {"predicted": found[0], "choice": np.array(found[1])}
    write_whole(path, lambda file: np.savez_compressed(file, **arrays))


def read(path: Path) -> Segmented | tuple[np.ndarray, str]:
    """Read a result of `write`."""
    with path.open("rb") as stored, np.load(stored, allow_pickle=False) as file:
        choice = str(file["choice"])
        # Only a result without masks has this key.
        if "predicted" in file:
            return file["predicted"], choice
        masks = [file[f"mask_{n}"] for n in range(len(file["score_dice"]))]
        scores = {
            name.removeprefix("score_"): file[name] for name in file if name.startswith("score_")
        }
        return Segmented(masks, scores, choice)
