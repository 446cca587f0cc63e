"""Teacher features, computed once and kept beside a store: targets for distillation.

Tokens learn to predict the features at their own places in mm. No teacher runs in training. Axes: N
studies, T tokens of all, n tokens of a crop, W features of a token, K teachers.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from mmv_jax.data.crops import Crops
from mmv_jax.errors import UserError
from mmv_jax.report.progress import say

CARD, TOKENS, CLS, PLACES = "card.json", "tokens.npy", "cls.npy", "places.npz"
FORMAT = 1
# Required keys of a card. `patients`: "none" (no medical image), "unknown", or hashes as in a
# store.
SAID = ("name", "preprocessing", "licence", "trained_on", "patients", "width", "key_fingerprint")
SAMPLE = 4096  # number of tokens examined for the warning


@dataclass(frozen=True)
class Teacher:
    """Features of a teacher, in a folder that `mmv teach` wrote.

    Attributes:
      card: description of the teacher; `SAID` has its keys.
    """

    folder: Path
    card: dict[str, Any]

    @classmethod
    def open(cls, folder: str | Path) -> "Teacher":
        """Open a folder of features.

        Raises:
          UserError: the folder is incomplete, or its card lacks a key.
        """
        path = Path(folder) / CARD
        if not path.is_file():
            raise UserError(
                f"config.data.teachers: {folder} has no {CARD}. Write the features with `mmv teach"
                " --out`; repeat a call that was stopped, and it resumes."
            )
        card = json.loads(path.read_text())
        if missing := [name for name in SAID if name not in card]:
            raise UserError(f"config.data.teachers: {path} does not say {', '.join(missing)}.")
        return cls(Path(folder), card)

    @property
    def width(self) -> int:
        """Number W of features of a token."""
        return int(self.card["width"])

    @cached_property
    def places(self) -> dict[str, np.ndarray]:
        """Places of the tokens, as arrays by name.

        By study: `study` (hash), `first` and `count` (of its tokens), `grid` (z, y, x tokens),
        `start_mm` and `step_mm`, from the study's lower corner. By token: `place` in its grid.
        """
        with np.load(self.folder / PLACES, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}

    @cached_property
    def lines(self) -> dict[str, int]:
        """Line of each study, by its hash."""
        return {name: line for line, name in enumerate(self.places["study"].tolist())}

    @cached_property
    def tokens(self) -> np.ndarray:
        """Features [T, W] float16, memory-mapped from the file."""
        return np.load(self.folder / TOKENS, mmap_mode="r")

    @cached_property
    def cls(self) -> np.ndarray:
        """Vector of each study, [N, W] float16."""
        return np.load(self.folder / CLS)

    def strangeness(self) -> str | None:
        """Warning if the features are not normalised; None if they are.

        Their mean must be near 0 and their mean square near 1. Otherwise the loss learns only the
        largest channels, or nothing.
        """
        lines = np.linspace(0, len(self.tokens) - 1, min(SAMPLE, len(self.tokens))).astype(int)
        seen = self.tokens[lines].astype(np.float32)
        square, offset = float(np.square(seen).mean()), float(np.abs(seen.mean(axis=0)).mean())
        # Wide bounds: they find features that were never normalised, and tolerate sampling noise.
        if 0.25 < square < 4 and offset < 0.5 * square**0.5:
            return None
        return (
            f"WARNING: the features of the teacher {self.card['name']} are not normalised (mean"
            f" square {square:.3g} instead of 1, mean offset {offset:.3g} instead of 0): the loss"
            " follows their largest channels. Write them with `mmv teach`."
        )

    def targets(
        self, study: str, crop: Crops, kept: Bool[np.ndarray, "tz ty tx"]
    ) -> tuple[Float[np.ndarray, "n W"], Bool[np.ndarray, "n"], Float[np.ndarray, "W"]]:
        """Targets of the kept patches, where the teacher saw them, and its vector of the study.

        All are zero or False if it has not seen the study. A patch takes the mean of the teacher's
        cells under it. A patch smaller than a cell is interpolated linearly between cells. A planar
        teacher's cells are layers of a volume, so a volumetric patch takes the mean over its depth.
        """
        count = int(kept.sum())
        line = self.lines.get(study)
        if line is None:
            absent = np.zeros((count, self.width), np.float32)
            # The sum over no lines is a vector of zeros of the right width.
            return absent, np.zeros(count, bool), absent[:0].sum(axis=0)
        at, own = int(self.places["first"][line]), int(self.places["count"][line])
        shape = tuple(int(n) for n in self.places["grid"][line])
        grid, there = np.zeros((np.prod(shape), self.width), np.float32), np.zeros(np.prod(shape))
        # The teacher may have dropped cells: `there` distinguishes their zeros from features that
        # are 0.
        place = self.places["place"][at : at + own]
        grid[place], there[place] = self.tokens[at : at + own], 1.0
        start, step = self.places["start_mm"][line], self.places["step_mm"][line]
        side = np.array(crop.patch) * float(crop.spacing_mm)
        weights = [
            axis_weights(
                crop.start_mm[a] + side[a] * (np.arange(kept.shape[a]) + 0.5),
                side[a],
                cells=shape[a],
                start=float(start[a]),
                step=float(step[a]),
            )
            for a in range(3)
        ]
        # A plane has no depth: its single layer counts whole, also for a crop with one layer.
        if shape[0] == 1:
            weights[0] = np.ones((kept.shape[0], 1))
        # `covered` is the share of a patch that the teacher saw. Dividing by it gives the mean over
        # the seen cells only.
        covered = np.einsum("az,by,cx,zyx->abc", *weights, there.reshape(shape), optimize=True)
        summed = np.einsum("az,by,cx,zyxw->abcw", *weights, grid.reshape(*shape, -1), optimize=True)
        found = summed[kept] / np.maximum(covered[kept], 1e-6)[:, None]
        # A mean over less than half of a patch says too little about it.
        seen = covered[kept] > 0.5
        return (
            np.where(seen[:, None], found, 0).astype(np.float32),
            seen,
            self.cls[line].astype(np.float32),
        )


def axis_weights(
    centres: Float[np.ndarray, "n"], side: float, *, cells: int, start: float, step: float
) -> Float[np.ndarray, "n cells"]:
    """Share of each interval in each cell of a regular axis.

    An interval is as wide as `side`, or as a cell if that is wider. In the latter case the shares
    are those of linear interpolation.

    Args:
      centres, side, start, step: in mm.
    """
    wide = max(side, step)
    low = start + step * np.arange(cells)
    # Overlap of two intervals: the smaller end minus the larger start, negative if none.
    inside = np.minimum(low + step, centres[:, None] + wide / 2) - np.maximum(
        low, centres[:, None] - wide / 2
    )
    return np.clip(inside, 0, None) / wide


def open_teachers(
    folders: Sequence[str], widths: Sequence[int], key_fingerprint: str | None
) -> list[Teacher]:
    """Teachers of a config.

    Args:
      widths: numbers of their features, as in the config.
      key_fingerprint: of the store that is trained on; None skips this check.
    Raises:
      UserError: a folder is incomplete, or does not match the config or the store.
    """
    teachers = [Teacher.open(folder) for folder in folders]
    there = tuple(teacher.width for teacher in teachers)
    if there != tuple(widths):
        raise UserError(
            f"config.objective.distil_widths is {tuple(widths)}, but the teachers of"
            f" config.data.teachers have {there} features a token. Set it to these."
        )
    for teacher in teachers:
        if key_fingerprint is not None and teacher.card["key_fingerprint"] != key_fingerprint:
            raise UserError(
                f"config.data.teachers: {teacher.folder} was written for a store whose studies were"
                " named with another key. Write it for this store with `mmv teach`."
            )
    return teachers


def digest_with(teachers: Sequence[Teacher], digest: str) -> str:
    """Digest of a run's studies combined with the teachers' cards; unchanged without teachers."""
    if not teachers:
        return digest
    cards = json.dumps([teacher.card for teacher in teachers], sort_keys=True)
    return hashlib.sha256((digest + cards).encode()).hexdigest()[:16]


def tell_teachers(teachers: Sequence[Teacher]) -> dict[str, list[dict[str, Any]]]:
    """Checkpoint entry with the teachers' cards; prints a warning about unnormalised features."""
    for teacher in teachers:
        if strange := teacher.strangeness():
            say(strange)
    return {"teachers": [teacher.card for teacher in teachers]} if teachers else {}
