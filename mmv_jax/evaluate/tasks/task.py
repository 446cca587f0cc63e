"""Tasks: studies of a store with their split and truth. Axes: N studies of the task."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from mmv_jax.evaluate.tasks.groupings import Grouping

SPLITS = ("train", "val", "test")
IN_FOLDS = {  # what a split is in cross-validation
    "train": "the folds to fit on",
    "val": "the fold to choose on",
    "test": "the fold to measure",
}


@dataclass(frozen=True)
class Task:
    """A task, and the studies that can answer it.

    Attributes:
      studies: positions in the store's index.
      split: "train", "val" or "test" of each.
      patients: keyed hashes, for the bootstrap.
      labels: 0 or 1 (classification) or a number (regression); several of them where the kind has
        `many_columns`; empty for segmentation.
      classes: the names of the columns of `labels` where there are several.
      notes: sentences about odd labels, for the report.
      mask: the name of the mask; "" where the task is no segmentation.
      values, flags: the structure is where the mask has one of `values`, or has a bit of `flags`
        set.
      structures: several structures of one mask, each a name and its values (bits where `flags` is
        set). Each is found and scored by itself; the task's score is their mean.
      local: the name of a mask whose region is pooled by itself ("patch_local"); "" for none.
      pixels: the input of the pixel floor: `grid` (z, y, x), and `spacing_mm` for a box of fixed
        size around the centre.
      subgroups: groups of studies that are measured separately.
      confounders: groups that may predict the label by themselves (classification).
      mediators: groups that the finding itself causes (a chest tube after a pneumothorax). What an
        encoder reads of them is no bias of the data, but may be absent elsewhere.
      mirror: whether networks of the protocol "native" learn from mirrored patches too, as
        nnU-Net does. False where a side matters to the task.
      title: in the report; "" for its name in readable form.
      fold: of cross-validation, 0 for the first or only one.
      folds: of cross-validation, in which all of train and val are measured; 0 where the store's
        test is.
      fold_of: the fold in which each study was measured; empty without folds.
      left_out: studies to measure that were removed because pretraining has seen their patients.
    """

    name: str
    kind: str
    studies: Int[np.ndarray, "N"]
    split: np.ndarray
    patients: np.ndarray
    labels: Float[np.ndarray, "M *C"] = field(default_factory=lambda: np.zeros(0))
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    mask: str = ""
    values: tuple[int, ...] = ()
    flags: int = 0
    structures: tuple[tuple[str, tuple[int, ...]], ...] = ()
    local: str = ""
    pixels: tuple[tuple[str, Any], ...] = ()
    subgroups: tuple[Grouping, ...] = ()
    confounders: tuple[Grouping, ...] = ()
    mediators: tuple[Grouping, ...] = ()
    mirror: bool = True
    title: str = ""
    fold: int = 0
    folds: int = 0
    fold_of: Int[np.ndarray, " F"] = field(default_factory=lambda: np.zeros(0, np.int64))
    left_out: Int[np.ndarray, "L"] = field(default_factory=lambda: np.zeros(0, np.int64))

    def __len__(self) -> int:
        return len(self.studies)

    def __getitem__(self, chosen: np.ndarray) -> "Task":
        # A segmentation has an empty array of labels, which cannot be indexed by study.
        labels = self.labels[chosen] if len(self.labels) else self.labels
        part = replace(
            self,
            studies=self.studies[chosen],
            split=self.split[chosen],
            patients=self.patients[chosen],
            labels=labels,
            fold_of=self.fold_of[chosen] if len(self.fold_of) else self.fold_of,
        )
        # Groupings hold a name per study, so they are cut too. `left_out` is no part of the task.
        subgroups, confounders, mediators = (
            tuple(grouping[chosen] for grouping in own)
            for own in (self.subgroups, self.confounders, self.mediators)
        )
        return replace(part, subgroups=subgroups, confounders=confounders, mediators=mediators)

    @property
    def measured(self) -> str:
        """What the measured studies are called in the report."""
        return "studies" if self.folds else "test studies"

    @property
    def part_names(self) -> tuple[str, ...]:
        """What flow and cohort divide the studies into."""
        return ("in_folds",) if self.folds else SPLITS

    @property
    def part(self) -> np.ndarray:
        """[N] which of `part_names` each study is in."""
        return np.full(len(self), "in_folds") if self.folds else self.split

    def called(self, split: str) -> str:
        """What a split is called in a message."""
        return IN_FOLDS[split] if self.folds else f"split {split!r}"

    def parts(self) -> dict[str, "Task"]:
        """One task a structure, or itself alone."""
        if not self.structures:
            return {self.name: self}
        bits = self.flags != 0
        return {
            name: replace(
                self,
                values=() if bits else values,
                flags=int(np.bitwise_or.reduce(values)) if bits else 0,
                structures=(),
            )
            for name, values in self.structures
        }

    def structure(self, mask: Int[np.ndarray, "z y x"]) -> Bool[np.ndarray, "z y x"]:
        """A mask of the voxels that show the task's structure."""
        # Bits let structures overlap in a voxel; with `values` a voxel has one structure.
        return (mask & self.flags) > 0 if self.flags else np.isin(mask, self.values)
