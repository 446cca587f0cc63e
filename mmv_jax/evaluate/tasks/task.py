"""Tasks: which studies of a store, split how, with which truth. Axes: N studies of the task."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from mmv_jax.errors import UserError
from mmv_jax.evaluate.tasks.groupings import Grouping, make_grouping

KINDS = ("classification", "regression", "segmentation")
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Task:
    """One question, and the studies that can answer it.

    Attributes:
      studies: positions in the store's index.
      split: "train", "val" or "test" of each.
      patients: keyed hashes, for the bootstrap.
      labels: 0 or 1 (classification) or a number (regression); empty for segmentation.
      mask: the name of the mask, "" where the task is no segmentation.
      values, flags: the structure is where the mask has one of `values`, or has a bit of `flags`
        set.
      local: the name of a mask whose region is pooled by itself ("patch_local"), "" for none.
      pixels: how the floor of pixels looks at a study: `grid` (z, y, x), and `spacing_mm` for a box
        of fixed size around the centre.
      subgroups: groups of studies that are measured by themselves.
      confounders: groups that may tell the label by themselves (classification).
    """

    name: str
    kind: str
    studies: Int[np.ndarray, "N"]
    split: np.ndarray
    patients: np.ndarray
    labels: Float[np.ndarray, "M"] = field(default_factory=lambda: np.zeros(0))
    mask: str = ""
    values: tuple[int, ...] = ()
    flags: int = 0
    local: str = ""
    pixels: tuple[tuple[str, Any], ...] = ()
    subgroups: tuple[Grouping, ...] = ()
    confounders: tuple[Grouping, ...] = ()

    def __len__(self) -> int:
        return len(self.studies)

    def __getitem__(self, chosen: np.ndarray) -> "Task":
        labels = self.labels[chosen] if len(self.labels) else self.labels
        part = replace(
            self,
            studies=self.studies[chosen],
            split=self.split[chosen],
            patients=self.patients[chosen],
            labels=labels,
        )
        subgroups, confounders = (
            tuple(grouping[chosen] for grouping in own)
            for own in (self.subgroups, self.confounders)
        )
        return replace(part, subgroups=subgroups, confounders=confounders)

    def structure(self, mask: Int[np.ndarray, "z y x"]) -> Bool[np.ndarray, "z y x"]:
        """Where the mask shows what the task asks for."""
        return (mask & self.flags) > 0 if self.flags else np.isin(mask, self.values)


def make_task(
    index: pd.DataFrame,
    name: str,
    *,
    kind: str,
    label: str = "",
    positive: Any = 1,
    mask: str = "",
    values: list[int] | tuple[int, ...] = (1,),
    flags: int = 0,
    local: str = "",
    where: Mapping[str, Any] | None = None,
    test_where: Mapping[str, Any] | None = None,
    pixels: Mapping[str, Any] | None = None,
    subgroups: Mapping[str, Mapping[str, Any]] | None = None,
    confounders: Mapping[str, Mapping[str, Any]] | None = None,
) -> Task:
    """A task from its group in the config.

    Args:
      index: of the store.
      kind: "classification" (a study is positive where `label` is `positive`), "regression" (of
        `label`) or "segmentation" (of `mask`).
      where: columns and the value, or list of values, that a study must have: `{"source":
        "LIDC-IDRI"}`.
      test_where: what a test study must have instead, where the test is to be another population
        than the one that was learnt from.
      values, flags, local, pixels: as in `Task`.
      subgroups, confounders: by column, the keyword arguments of `groups.make_grouping`: `{"sex":
        {}, "age": {"edges": (40, 60)}}`.
    Raises:
      UserError: the store has no such column, value or mask; a split is empty or has one class
        only; a segmentation mixes 2D and 3D.
    """
    if kind not in KINDS:
        raise UserError(f"config.tasks.{name}.kind is {kind!r}. Use one of {', '.join(KINDS)}.")
    if confounders and kind != "classification":
        raise UserError(
            f"config.tasks.{name}.confounders: a {kind} has no classes that a column could tell."
            " Ask for `subgroups` instead."
        )
    chosen = index["split"].isin(SPLITS).to_numpy() & _fits(
        index, where, f"config.tasks.{name}.where"
    )
    if test_where:
        test = (index["split"] == "test").to_numpy()
        elsewhere = index["split"].isin(SPLITS).to_numpy() & _fits(
            index, test_where, f"config.tasks.{name}.test_where"
        )
        chosen = np.where(test, elsewhere, chosen)
    labels = np.zeros(0)
    if kind == "segmentation":
        chosen &= _have_mask(index, mask)
    else:
        values_of_label = column(index, label, f"config.tasks.{name}.label")
        labels = (
            _numbers(values_of_label, name, label)
            if kind == "regression"
            else _binary(values_of_label, positive, name)
        )
        chosen &= ~np.isnan(labels) & (_have_mask(index, local) if local else True)
        labels = labels[chosen]
    studies = np.flatnonzero(chosen)
    if not len(studies):
        there = sorted({m for names in index["masks"] for m in names.split(",") if m})
        wanted = (
            f"the mask {mask!r} (there are: {', '.join(there) or 'none'})"
            if kind == "segmentation"
            else f"a value of {label!r}"
        )
        raise UserError(
            f"config.tasks.{name}: no study of the store has {wanted} and fits `where`. Correct or"
            " remove the task."
        )
    part = index.iloc[studies]
    if kind == "segmentation" and part["ndim"].nunique() > 1:
        planar = int((part["ndim"] == 2).sum())
        raise UserError(
            f"config.tasks.{name}: {planar} of {len(part)} studies are planar, the others"
            " volumetric, and no head answers both. Make two tasks of it: `where={'ndim': 2}`"
            " and `where={'ndim': 3}`."
        )
    task = Task(
        name, kind, studies, part["split"].to_numpy(str), part["patient"].to_numpy(str), labels, mask if kind == "segmentation" else "",
        tuple(values), flags, local, tuple((pixels or {}).items()),
        *(_groupings(part, f"config.tasks.{name}.{key}", own) for key, own in (("subgroups", subgroups), ("confounders", confounders))),
    )  # fmt: skip
    for grouping in task.confounders:
        if not (grouping.names[task.split == "test"] != "").any():
            raise UserError(
                f"config.tasks.{name}.confounders.{grouping.column}: no test study has a value in"
                " this column. Leave it out."
            )
    check(task)
    return task


def check(task: Task) -> None:
    """Raises UserError where a split of the task is empty, or has one class only: then nothing can
    be fitted, chosen or measured.
    """
    for split in SPLITS:
        here = task.split == split
        if not here.any():
            raise UserError(
                f"config.tasks.{task.name}: no study of split {split!r}. A probe is fitted on"
                " train, chosen on val, measured on test."
            )
        if task.kind == "classification" and len(np.unique(task.labels[here])) < 2:
            raise UserError(
                f"config.tasks.{task.name}: all {here.sum()} studies of split {split!r} have the"
                " same label. Leave the task out."
            )


def column(index: pd.DataFrame, name: str, asked_by: str) -> pd.Series:
    """A label column of the store by the name that the manifest gave it, or a column of the index
    itself.
    """
    for known in (f"label_{name}", name):
        if known in index:
            return index[known]
    labels = sorted(c.removeprefix("label_") for c in map(str, index) if c.startswith("label_"))
    raise UserError(
        f"{asked_by}: the store has no column {name!r}. Its manifests gave:"
        f" {', '.join(labels) or 'no labels'}."
    )


def _groupings(
    part: pd.DataFrame, asked_by: str, columns: Mapping[str, Mapping[str, Any]] | None
) -> tuple[Grouping, ...]:
    learnt_from = (part["split"] != "test").to_numpy()
    return tuple(
        make_grouping(column(part, key, asked_by), key, f"{asked_by}.{key}", learnt_from, **options)
        for key, options in (columns or {}).items()
    )


def _fits(index: pd.DataFrame, where: Mapping[str, Any] | None, asked_by: str) -> np.ndarray:
    fits = np.ones(len(index), bool)
    for key, wanted in (where or {}).items():
        fits &= _equals(column(index, key, asked_by), wanted, f"{asked_by}.{key}")
    return fits


def _have_mask(index: pd.DataFrame, mask: str) -> np.ndarray:
    return np.array([mask in names.split(",") for names in index["masks"]], bool)


def _equals(values: pd.Series, wanted: Any, asked_by: str) -> np.ndarray:
    """Numbers are compared as numbers and text as text, whatever the index holds the column as."""
    options = list(wanted) if isinstance(wanted, (list, tuple)) else [wanted]
    try:
        like = [
            float(option) if pd.api.types.is_numeric_dtype(values) else str(option)
            for option in options
        ]
    except (TypeError, ValueError):
        raise UserError(
            f"{asked_by} is {wanted!r}, but the store holds numbers there. Give one of them."
        ) from None
    return np.logical_or.reduce(
        [(values == option).to_numpy(bool, na_value=False) for option in like]
    )


def _binary(values: pd.Series, positive: Any, name: str) -> np.ndarray:
    missing = (values.isna() | (values.astype(str) == "")).to_numpy()
    return np.where(
        missing,
        np.nan,
        _equals(values, positive, f"config.tasks.{name}.positive").astype(np.float64),
    )


def _numbers(values: pd.Series, name: str, label: str) -> np.ndarray:
    numbers = pd.to_numeric(values.replace("", np.nan), errors="coerce").to_numpy(np.float64)
    bad = int((np.isnan(numbers) & (~values.isna() & (values.astype(str) != "")).to_numpy()).sum())
    if bad:
        raise UserError(
            f"config.tasks.{name}: {bad} values of {label!r} are no numbers. Correct them in the"
            " manifest, or ask for a classification."
        )
    return numbers
