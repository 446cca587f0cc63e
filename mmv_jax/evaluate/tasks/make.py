"""Tasks from the groups of a config. Axes: N studies of the store."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from mmv_jax.errors import UserError
from mmv_jax.evaluate.kinds.kind import Kind
from mmv_jax.evaluate.kinds.table import KINDS
from mmv_jax.evaluate.tasks.arguments import named, whole_numbers, whole_numbers_of
from mmv_jax.evaluate.tasks.columns import column, equals, fits_where, have_mask, values_there
from mmv_jax.evaluate.tasks.groupings import (
    OPTIONS,
    Grouping,
    make_grouping,
    with_intersections,
)
from mmv_jax.evaluate.tasks.odd_groups import odd_groups
from mmv_jax.evaluate.tasks.odd_labels import odd_labels
from mmv_jax.evaluate.tasks.odd_studies import odd_persons
from mmv_jax.evaluate.tasks.task import SPLITS, Task

PIXELS = ("grid", "spacing_mm")  # arguments of the pixel floor


def make_task(
    index: pd.DataFrame,
    name: str,
    *,
    kind: str,
    label: str | Sequence[str] = "",
    positive: Any = None,
    mask: str = "",
    values: int | Sequence[int] = (1,),
    flags: int = 0,
    structures: Mapping[str, int | Sequence[int]] | None = None,
    local: str = "",
    where: Mapping[str, Any] | None = None,
    test_where: Mapping[str, Any] | None = None,
    pixels: Mapping[str, Any] | None = None,
    subgroups: Mapping[str, Mapping[str, Any]] | None = None,
    confounders: Mapping[str, Mapping[str, Any]] | None = None,
    mediators: Mapping[str, Mapping[str, Any]] | None = None,
    intersections: Sequence[Sequence[str]] = (),
    mirror: bool = True,
    title: str = "",
    folds: int = 0,
) -> Task:
    """Make a task from its group in the config.

    Args:
      index: of the store.
      kind: of `kinds.table.KINDS`: "classification" (a study is positive if `label` is `positive`),
        "regression" (of `label`), "segmentation" or "localisation" (of `mask`), or a plug-in's.
      label: the column of the truth, or a list of columns where the kind reads several: the
        findings of a "multilabel", the time and the event of a "survival".
      positive: the value of `label` that makes a study positive, or a list of them. It may be left
        out of a label that has 0 and 1 alone.
      mask: the store's mask with the structure, such as "lungs" for the column `lungs_mask`.
      where: columns and the value, or list of values, that a study must have: `{"source": "X"}`.
      test_where: the same for test studies, if the test is another population.
      values, flags, local, pixels, mirror: as in `Task`.
      structures: several structures of the mask, `{"lungs": (1, 2), "heart": (3,)}`; with
        `flags=True` their values are bits.
      subgroups, confounders, mediators: by column, the keyword arguments of `make_grouping`:
        `{"sex": {}, "age": {"edges": (40, 60)}}`.
      intersections: columns of `subgroups` whose groups are also crossed: `(("sex", "age"),)`.
      title: of the task in the report: "Heart (CT)". Without it, its name in readable form.
      folds: of cross-validation, for which train and val are cut anew and no test is needed.
    Raises:
      UserError: the store has no such column, value or mask; a split is empty or has one class
        only; a segmentation mixes 2D and 3D; or an argument is of another form.
    """
    asked_by = f"config.tasks.{name}"
    own = _kind_of(kind, asked_by, confounders or {}, mediators or {})
    parts = whole_numbers_of(structures, f"{asked_by}.structures")
    values = whole_numbers(values, f"{asked_by}.values")
    values, flags = _union(parts, flags) if parts else (values, _bits(flags, asked_by))
    asked = _Truth(name, own, label=label, positive=positive, mask=mask, local=local)
    wanted = _chosen(index, where, test_where, asked_by)
    chosen, labels, told = asked.of(index, wanted)
    studies = np.flatnonzero(chosen)
    asked.check_found(index, studies, where)
    part, sides = index.iloc[studies], _yes_or_no(mirror, f"{asked_by}.mirror")
    task = Task(
        name=name,
        kind=kind,
        studies=studies,
        split=part["split"].to_numpy(str),
        patients=part["patient"].to_numpy(str),
        labels=labels,
        **told,
        mask=mask if own.is_mask else "",
        values=values,
        flags=int(flags),
        structures=tuple(parts.items()),
        local=local,
        pixels=tuple(named(pixels, f"{asked_by}.pixels", known=PIXELS).items()),
        subgroups=with_intersections(
            _groupings(part, f"{asked_by}.subgroups", subgroups), intersections, asked_by
        ),
        confounders=_groupings(part, f"{asked_by}.confounders", confounders),
        mediators=_groupings(part, f"{asked_by}.mediators", mediators),
        mirror=sides,
        title=title,
        folds=folds,
    )
    (_check_folds_can_read if folds else check)(task)
    return asked.noted(task, index, {"where": where, "test_where": test_where})


def _without_study(
    index: pd.DataFrame, lists: Mapping[str, Mapping[str, Any] | None]
) -> Iterator[str]:
    """A sentence for each value of a list that no study of the store has."""
    for key, group in lists.items():
        for own, wanted in (group or {}).items():
            for value in wanted if isinstance(wanted, list | tuple) else ():
                if not equals(column(index, own, key), value, key).any():
                    yield f"{key} of {own!r} lists {value!r}, which no study has."


def _union(parts: Mapping[str, tuple[int, ...]], flags: int) -> tuple[tuple[int, ...], int]:
    """Values and flags of all structures: as a whole the task is where any of them is, which is
    what its pictures show.
    """
    values = tuple(value for some in parts.values() for value in some)
    return values, int(np.bitwise_or.reduce(values)) if flags else 0


def _bits(flags: Any, asked_by: str) -> int:
    # True alone would be the bit 1; a number below 0 would be all bits.
    if isinstance(flags, bool) and flags or not isinstance(flags, int) or flags < 0:
        raise UserError(
            f"{asked_by}.flags is {flags!r}, but must be the sum of the structure's bits, such as"
            " 8, or True beside `structures`."
        )
    return int(flags)


def _yes_or_no(value: Any, asked_by: str) -> bool:
    # A word such as "no" would be true.
    if not isinstance(value, bool):
        raise UserError(f"{asked_by} is {value!r}, but must be True or False.")
    return value


def _check_folds_can_read(task: Task) -> None:
    if not (task.split != "test").any():
        raise UserError(
            f"config.tasks.{task.name}: all of its studies are of split 'test', which folds do not"
            " read. Set config.folds to 0, or give studies of train and val."
        )


def check(task: Task) -> None:
    """Refuse a task that cannot be fitted, chosen or measured.

    Raises:
      UserError: a split is empty or has one class only, or a confounder has no value.
    """
    for split in SPLITS:
        if not (task.split == split).any():
            said = (
                "."
                if task.folds
                else ". A probe is fitted on train, chosen on val, measured on test: the manifest's"
                " column `split` says which study is in which."
            )
            raise UserError(f"config.tasks.{task.name}: no study of {task.called(split)}{said}")
        KINDS[task.kind].check_split(task, split)
    for name in ("confounders", "mediators"):
        for grouping in getattr(task, name):
            if not (grouping.names[task.split == "test"] != "").any():
                raise UserError(
                    f"config.tasks.{task.name}.{name}.{grouping.column}: no study of"
                    f" {task.called('test')} has a value in this column. Leave it out."
                )


@dataclass(frozen=True)
class _Truth:
    """The sources of a task's truth."""

    task: str
    kind: Kind
    label: str | Sequence[str]
    positive: Any
    mask: str
    local: str

    def of(
        self, index: pd.DataFrame, chosen: Bool[np.ndarray, " N"]
    ) -> tuple[Bool[np.ndarray, " N"], Float[np.ndarray, "M *C"], dict[str, Any]]:
        """A mask of the chosen studies that have a truth, their labels (empty for masks), and
        `classes` and `notes` of the task.
        """
        if self.kind.is_mask:
            if not self.mask:
                raise UserError(
                    f"config.tasks.{self.task}.mask is missing: name a mask of the store. There"
                    f" are: {_masks_there(index)}."
                )
            return chosen & have_mask(index, self.mask), np.zeros(0), {}
        # Of the chosen alone: in other studies a column may mean something else.
        columns = self._columns(index, chosen)
        labels = self._read(columns)
        # Of several columns one that is known is enough.
        known = ~np.isnan(labels).reshape(len(labels), -1).all(axis=1)
        chosen = chosen & known
        if self.local:
            # In place is safe here: `chosen` is the new array of the line above, not the caller's.
            chosen &= have_mask(index, self.local)
        return chosen, labels[chosen], self._described(columns, known)

    def _read(self, columns: Mapping[str, pd.Series]) -> Float[np.ndarray, "N *C"]:
        asked_by, kind = f"config.tasks.{self.task}.label", self.kind
        names = list(columns)
        if kind.many_columns:
            return kind.read_many(pd.DataFrame(columns), task=self.task, positive=self.positive)
        if len(names) != 1:
            raise UserError(
                f"{asked_by} is a list, and this kind of task reads one column. Give one, or ask"
                " for kind 'multilabel'."
            )
        values = columns[names[0]]
        return kind.read_labels(values, task=self.task, label=names[0], positive=self.positive)

    def _columns(self, index: pd.DataFrame, chosen: Bool[np.ndarray, " N"]) -> dict[str, pd.Series]:
        """The columns of the truth, empty where a study is not chosen."""
        asked_by = f"config.tasks.{self.task}.label"
        if not self.label:
            raise UserError(f"{asked_by} is missing: name the column of the store with the truth.")
        if not isinstance(self.label, str | list | tuple):
            raise UserError(f"{asked_by} is {self.label!r}, but must be the name of a column.")
        return {name: column(index, name, asked_by).where(chosen) for name in self.labels}

    @property
    def labels(self) -> list[str]:
        """The names of the columns of the truth; none of a mask."""
        names = [self.label] if isinstance(self.label, str) else list(self.label)
        return [name for name in names if name and not self.kind.is_mask]

    def _described(
        self, columns: Mapping[str, pd.Series], known: Bool[np.ndarray, " N"]
    ) -> dict[str, Any]:
        notes = odd_labels(columns, known, scale=self.kind.scale)
        classes = self.kind.names_of(pd.DataFrame(columns)) if self.kind.many_columns else ()
        return {"classes": classes, "notes": tuple(f"{self.task}: {note}" for note in notes)}

    def noted(
        self, task: Task, index: pd.DataFrame, wheres: Mapping[str, Mapping[str, Any] | None]
    ) -> Task:
        """The task with sentences on what of it is odd, beside those of its labels."""
        part, names = index.iloc[task.studies], self.labels
        # Of several columns each may have its own words.
        lists = dict(wheres) | {"positive": {names[0]: self.positive} if len(names) == 1 else {}}
        odd_truth = self.kind.odd_truth
        notes = (
            *_without_study(index, lists),
            *odd_truth(task.labels, patients=task.patients, names=names, positive=self.positive),
            *odd_groups(task, part),
            *odd_persons(task, part, names),
        )
        return replace(task, notes=(*task.notes, *(f"{task.name}: {note}" for note in notes)))

    def check_found(
        self, index: pd.DataFrame, studies: np.ndarray, where: Mapping[str, Any] | None
    ) -> None:
        """Refuse a task without studies, or with both 2D and 3D masks."""
        asked_by = f"config.tasks.{self.task}"
        if not len(studies):
            for key, value in (where or {}).items():
                values = column(index, key, f"{asked_by}.where")
                if not equals(values, value, f"{asked_by}.where.{key}").any():
                    raise UserError(
                        f"{asked_by}.where.{key} is {value!r}, which no study has. There are:"
                        f" {values_there(values)}."
                    )
            wanted = [] if self.kind.is_mask else [f"a value of {self.label!r}"]
            if mask := self.mask if self.kind.is_mask else self.local:
                wanted.append(f"the mask {mask!r} (there are: {_masks_there(index)})")
            raise UserError(
                f"{asked_by}: no study of the store has {' and '.join(wanted)} and fits `where`."
                " Correct or remove the task."
            )
        ndim = index["ndim"].iloc[studies]
        if self.kind.is_mask and ndim.nunique() > 1:
            raise UserError(
                f"{asked_by}: {(ndim == 2).sum()} of {len(ndim)} studies are planar,"
                " the others volumetric, and no head answers both. Make two tasks of it:"
                " `where={'ndim': 2}` and `where={'ndim': 3}`."
            )


def _masks_there(index: pd.DataFrame) -> str:
    return (
        ", ".join(sorted({m for names in index["masks"] for m in names.split(",") if m})) or "none"
    )


def _kind_of(
    name: str, asked_by: str, confounders: Mapping[str, Any], mediators: Mapping[str, Any]
) -> Kind:
    if name not in KINDS:
        raise UserError(f"{asked_by}.kind is {name!r}. Use one of {', '.join(KINDS)}.")
    if twice := {*confounders} & {*mediators}:
        raise UserError(
            f"{asked_by}: {min(twice)!r} is among the confounders and the mediators. A column that"
            " the finding itself brings about is a mediator; leave the other out."
        )
    if (confounders or mediators) and not KINDS[name].has_classes:
        raise UserError(
            f"{asked_by}.confounders: a {name} has no classes that a column could tell. Ask for"
            " `subgroups` instead."
        )
    return KINDS[name]


def _chosen(
    index: pd.DataFrame,
    where: Mapping[str, Any] | None,
    test_where: Mapping[str, Any] | None,
    asked_by: str,
) -> Bool[np.ndarray, " N"]:
    """A mask of the studies that fit `where`, or for test studies `test_where`, if given."""
    known, elsewhere_of = index["split"].isin(SPLITS).to_numpy(), f"{asked_by}.test_where"
    chosen = known & fits_where(index, named(where, f"{asked_by}.where"), f"{asked_by}.where")
    if not named(test_where, elsewhere_of):
        return chosen
    elsewhere = known & fits_where(index, test_where, elsewhere_of)
    return np.where((index["split"] == "test").to_numpy(), elsewhere, chosen)


def _groupings(
    part: pd.DataFrame, asked_by: str, columns: Mapping[str, Mapping[str, Any]] | None
) -> tuple[Grouping, ...]:
    # Quantiles of bands are taken without the test split, which must not shape its own groups.
    learnt_from = (part["split"] != "test").to_numpy()
    return tuple(
        make_grouping(
            column(part, key, asked_by),
            key,
            f"{asked_by}.{key}",
            learnt_from,
            **named(options, f"{asked_by}.{key}", known=OPTIONS),
        )
        for key, options in named(columns, asked_by).items()
    )
