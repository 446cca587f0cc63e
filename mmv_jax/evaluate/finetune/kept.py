"""Cache of fits, so that a stopped evaluation resumes."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from mmv_jax.evaluate.finetune.learner import Answer, Fit
from mmv_jax.evaluate.kinds.mask_scores import Segmented
from mmv_jax.files import write_whole

NUMBERS = tuple(field.name for field in fields(Fit) if field.name != "answer")


def write(path: Path, fit: Fit) -> None:
    """Write a fit as arrays; the file is whole or absent."""
    arrays: dict[str, Any] = {f"fit_{name}": np.array(getattr(fit, name)) for name in NUMBERS}
    if isinstance(fit.answer, Segmented):
        # Each mask has a grid of its own; one array of objects would need pickle.
        arrays |= {f"mask_{n}": mask for n, mask in enumerate(fit.answer.masks)}
        arrays |= {f"score_{name}": values for name, values in fit.answer.scores.items()}
        arrays["choice"] = np.array(fit.answer.choice)
    elif fit.answer is not None:
        arrays["predicted"] = fit.answer
    write_whole(path, lambda file: np.savez_compressed(file, **arrays))


def read(path: Path) -> Fit:
    """Read a fit of `write`."""
    with path.open("rb") as stored, np.load(stored, allow_pickle=False) as file:
        # `item` makes Python numbers again, as they were before they were written.
        return Fit(_answer(file), **{name: file[f"fit_{name}"].item() for name in NUMBERS})


def _answer(file: Any) -> Answer | None:
    # Only a result without masks has `predicted`, only one with masks a `choice`.
    if "predicted" in file:
        return file["predicted"]
    if "choice" not in file:
        return None
    masks = [file[f"mask_{n}"] for n in range(len(file["score_dice"]))]
    scores = {name.removeprefix("score_"): file[name] for name in file if name.startswith("score_")}
    return Segmented(masks, scores, str(file["choice"]))
