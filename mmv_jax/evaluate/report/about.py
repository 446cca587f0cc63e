"""The subject of an evaluation: its studies, its patients and its truth. Axes: N studies."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int

from mmv_jax.evaluate.tasks.task import Task
from mmv_jax.phantom.known import ONLY_GENERATORS_KNOW
from mmv_jax.provenance import facts
from mmv_jax.report.about import About, Studies
from mmv_jax.report.page import Cell, Section, Table

AGE = ("age", "patient_age", "age_years", "patientage", "age_at_study", "anchor_age")
SEX = ("sex", "gender", "patient_sex", "patientsex", "patient_gender")


def evaluated_words(record: Mapping[str, Any]) -> str:
    """The line under the title: run, step and date."""
    step = "" if record["step"] is None else f", step {record['step']:,}"
    return f"{record['checkpoint']}{step}, evaluated on {dict(facts(record))['evaluated']}"


def phantoms(index: pd.DataFrame) -> Bool[np.ndarray, " N"]:
    """A mask of the studies that are phantoms.

    They have labels that only a generator knows, or a text of the manifest says so.
    """
    found = np.zeros(len(index), bool)
    for known in ONLY_GENERATORS_KNOW:
        columns = [f"label_{name}" for name in known]
        if all(name in index for name in columns):
            found |= index[columns].notna().to_numpy(bool).all(axis=1)
    for name in (c for c in map(str, index) if c.startswith("label_")):
        if not pd.api.types.is_numeric_dtype(index[name]):
            said = index[name].astype(str).str.contains("phantom", case=False, na=False)
            found |= said.to_numpy(bool)
    return found


def studies_of(index: pd.DataFrame, studies: Int[np.ndarray, " N"], about: About) -> Studies:
    """The studies of all tasks, with the facts on them."""
    return Studies(len(studies), int(phantoms(index.iloc[studies]).sum()), about)


def about_section(record: Mapping[str, Any], studies: Studies, tasks: int) -> Section:
    """Section on run, step, date, data and truth.

    Args:
      record: of `provenance.provenance`.
    """
    held = f"the store {record['store']} (digest {record['store_digest']})"
    stated = [
        ("data", studies.data),
        ("truth read by", studies.truth),
        ("studies", f"{studies.count:,} in {tasks} tasks, from {held}"),
    ]
    return Section("What was evaluated", facts=[*facts(record), *stated])


# ---- the cohort


def cohort_section(index: pd.DataFrame, tasks: Sequence[Task]) -> Section:
    """Section on patients, age, sex and missing values, by split.

    A patient counts once in each split.
    """
    part_of: dict[int, str] = {}
    for task in tasks:
        # A study of several tasks counts once; its split is the same in all of them.
        part_of |= dict(zip(task.studies.tolist(), task.part.tolist()))
    names = tasks[0].part_names
    parts = [index.iloc[[s for s, name in part_of.items() if name == own]] for own in names]
    age, sex = find_column(index, AGE), find_column(index, SEX)
    lines = [
        ["studies", *(f"{len(part):,}" for part in parts)],
        ["patients", *(f"{part['patient'].nunique():,}" for part in parts)],
        ["age, median (quartiles)", *(_age(part, age) for part in parts)],
        ["age missing", *(_missing(part, age) for part in parts)],
    ]
    for group in _sexes(pd.concat(parts), sex):
        lines.append([f"sex {group}", *(_sex(part, sex, group) for part in parts)])
    lines.append(["sex missing", *(_missing(part, sex) for part in parts)])
    text = ["Age and sex count patients, each by the first study in the store."]
    if absent := [name for name, found in (("age", age), ("sex", sex)) if found is None]:
        text = [f"The store has no column of {' and '.join(absent)}."]
    table = Table(
        ["", *(name.replace("_", " ") for name in names)],
        [list(map(Cell, line)) for line in lines],
        compact=True,
    )
    return Section("Whom it was measured on", text, [table])


def find_column(index: pd.DataFrame, names: Sequence[str]) -> str | None:
    """The first column with one of these names, as a label or as an attribute of files."""
    # Manifests spell `Age` or `PatientAge`: compared in lower case, returned as spelt.
    lower = {str(column).lower(): str(column) for column in index}
    wanted = [f"{room}_{name}" for name in names for room in ("label", "attribute")]
    return next((lower[name] for name in wanted if name in lower), None)


def _patients(part: pd.DataFrame) -> pd.DataFrame:
    return part.drop_duplicates("patient")


def _known(part: pd.DataFrame, column: str) -> pd.Series:
    values = _patients(part)[column]
    return values[values.notna() & (values.astype(str).str.strip() != "")]


def _age(part: pd.DataFrame, column: str | None) -> str:
    if column is None:
        return "not in the store"
    # DICOM's "060Y" is not a number here, and is left out of the quartiles.
    years = pd.to_numeric(_known(part, column), errors="coerce").dropna()
    if years.empty:
        return "–"
    low, middle, high = np.percentile(years, [25, 50, 75])
    return f"{middle:.0f} ({low:.0f} to {high:.0f})"


def _sexes(part: pd.DataFrame, column: str | None) -> list[str]:
    # At most eight: a column of free text would fill the page.
    return [] if column is None else sorted(set(_known(part, column).astype(str)))[:8]


def _sex(part: pd.DataFrame, column: str | None, group: str) -> str:
    if column is None:
        return "not in the store"
    values = _known(part, column).astype(str)
    count = int((values == group).sum())
    return f"{count:,} ({100 * count / len(values):.0f} %)" if len(values) else "–"


def _missing(part: pd.DataFrame, column: str | None) -> str:
    patients = len(_patients(part))
    return f"{patients if column is None else patients - len(_known(part, column)):,}"
