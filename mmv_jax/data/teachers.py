"""Features of a teacher, kept beside a store once: what tokens learn to predict at their own
places in mm. No teacher runs in training.

Axes: N studies, T tokens of all, n tokens of a crop, W features of a token, K teachers.
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
# What a card must say. `patients`: "none" (no medical image), "unknown", or hashes as in a store.
SAID = ("name", "preprocessing", "licence", "trained_on", "patients", "width", "key_fingerprint")
SAMPLE = 4096  # tokens that are looked at for the warning


@dataclass(frozen=True)
class Teacher:
    """A folder that `mmv teach` wrote.

    Attributes:
      card: what the teacher is; `SAID` has its keys.
    """

    folder: Path
    card: dict[str, Any]

    @classmethod
    def open(cls, folder: str | Path) -> "Teacher":
        """
        Raises:
          UserError: there is no whole folder of features, or its card does not say all it must.
        """
        path = Path(folder) / CARD
        if not path.is_file():
            raise UserError(
                f"config.data.teachers: {folder} has no {CARD}. Write the features with `mmv teach"
                " --out`; a call that was stopped goes on."
            )
        card = json.loads(path.read_text())
        if missing := [name for name in SAID if name not in card]:
            raise UserError(f"config.data.teachers: {path} does not say {', '.join(missing)}.")
        return cls(Path(folder), card)

    @property
    def width(self) -> int:
        """W."""
        return int(self.card["width"])

    @cached_property
    def places(self) -> dict[str, np.ndarray]:
        """By study: `study` (hash), `first` and `count` (of its tokens), `grid` (z, y, x tokens),
        `start_mm` and `step_mm`, from the study's lower corner; by token `place` in its grid.
        """
        with np.load(self.folder / PLACES, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}

    @cached_property
    def lines(self) -> dict[str, int]:
        """The line of each study, by its hash."""
        return {name: line for line, name in enumerate(self.places["study"].tolist())}

    @cached_property
    def tokens(self) -> np.ndarray:
        """[T, W] float16, read from the file as they are asked for."""
        return np.load(self.folder / TOKENS, mmap_mode="r")

    @cached_property
    def cls(self) -> np.ndarray:
        """[N, W] float16: the teacher's vector of each study."""
        return np.load(self.folder / CLS)

    def strangeness(self) -> str | None:
        """How the features are not normalised, in words; None where they are.

        A loss of features of any scale learns the largest channels, or nothing: their mean must be
        near 0 and their mean square near 1.
        """
        lines = np.linspace(0, len(self.tokens) - 1, min(SAMPLE, len(self.tokens))).astype(int)
        seen = self.tokens[lines].astype(np.float32)
        square, offset = float(np.square(seen).mean()), float(np.abs(seen.mean(axis=0)).mean())
        # Wide bounds: they find features that were never normalised,
        # and pass over chance in the sample.
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
        """What each kept patch of a crop should predict, whether the teacher saw that place, and
        the teacher's vector of the study. All absent where it has not seen the study.

        A patch takes the mean of the teacher's cells under it, or, where it is smaller than a cell,
        interpolates linearly between them. A planar teacher's cells are layers of a volume, so a
        volumetric patch takes the mean over its depth.
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
        # The teacher may have dropped cells: `there` tells their zeros from features that are 0.
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
        # A plane has no depth: its one layer counts whole, for a crop that has one layer too.
        if shape[0] == 1:
            weights[0] = np.ones((kept.shape[0], 1))
        # `covered` is the share of a patch that the teacher saw.
        # Dividing by it gives the mean over the seen cells alone.
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
    """How much of each interval lies in each cell of a regular axis, as shares.

    An interval is as wide as `side`, or as a cell where that is wider: then the shares are those of
    linear interpolation.
    """
    wide = max(side, step)
    low = start + step * np.arange(cells)
    # The overlap of two intervals: the smaller end less the larger start, negative where none.
    inside = np.minimum(low + step, centres[:, None] + wide / 2) - np.maximum(
        low, centres[:, None] - wide / 2
    )
    return np.clip(inside, 0, None) / wide


def open_teachers(
    folders: Sequence[str], widths: Sequence[int], key_fingerprint: str | None
) -> list[Teacher]:
    """The teachers of a config.

    Args:
      widths: of their features, as the config states them.
      key_fingerprint: of the store that is trained on; None to leave it unchecked.
    Raises:
      UserError: a folder is none, or does not fit the config or the store.
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
    """The digest of a run's studies and of what these teachers say of them; itself without any."""
    if not teachers:
        return digest
    cards = json.dumps([teacher.card for teacher in teachers], sort_keys=True)
    return hashlib.sha256((digest + cards).encode()).hexdigest()[:16]


def tell_teachers(teachers: Sequence[Teacher]) -> dict[str, list[dict[str, Any]]]:
    """What a checkpoint carries of the teachers; what is wrong with their features is said."""
    for teacher in teachers:
        if strange := teacher.strangeness():
            say(strange)
    return {"teachers": [teacher.card for teacher in teachers]} if teachers else {}
