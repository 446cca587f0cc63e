"""The subject of an evaluation: its studies, its patients and its truth. Axes: N studies."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int

from mmv_jax.errors import UserError
from mmv_jax.evaluate.tasks.task import SPLITS, Task
from mmv_jax.provenance import facts
from mmv_jax.report.page import Cell, Section, Table

NOT_STATED = "not stated"
# Numbers that only a phantom's generator knows. A study with all of them is a phantom.
PHANTOM_LABELS = ("pneumothorax_fraction", "effusion_ml", "heart_ml", "lung_ml")
AGE = ("age", "patient_age", "age_years", "patientage", "age_at_study", "anchor_age")
SEX = ("sex", "gender", "patient_sex", "patientsex", "patient_gender")


@dataclass(frozen=True)
class About:
    """Facts on an evaluation that only the user knows: the group `about` of its config.

    Attributes:
      data: the source of the studies: "NIH ChestX-ray14, test list".
      truth: who read them, and how: "two radiologists, in consensus".
      title: of the report.
    """

    data: str = ""
    truth: str = ""
    title: str = ""

    @classmethod
    def of(cls, group: Mapping[str, Any]) -> "About":
        """Read the config's group.

        Raises:
          UserError: a key does not exist, or its value is not text.
        """
        names = tuple(cls.__dataclass_fields__)
        for name, value in group.items():
            if name not in names:
                raise UserError(f"config.about has no key {name!r}. There are: {', '.join(names)}.")
            if value is not None and not isinstance(value, str):
                raise UserError(f"config.about.{name} is {value!r}, but must be text.")
        return cls(**{name: (value or "").strip() for name, value in group.items()})


def evaluated_words(record: Mapping[str, Any]) -> str:
    """The line under the title: run, step and date."""
    step = "" if record["step"] is None else f", step {record['step']:,}"
    return f"{record['checkpoint']}{step}, evaluated on {dict(facts(record))['evaluated']}"


def phantoms(index: pd.DataFrame) -> Bool[np.ndarray, " N"]:
    """A mask of the studies that are phantoms.

    They have labels that only a generator knows, or a text of the manifest says so.
    """
    columns = [f"label_{name}" for name in PHANTOM_LABELS]
    found = np.zeros(len(index), bool)
    if all(name in index for name in columns):
        found |= index[columns].notna().to_numpy(bool).all(axis=1)
    for name in (c for c in map(str, index) if c.startswith("label_")):
        if not pd.api.types.is_numeric_dtype(index[name]):
            said = index[name].astype(str).str.contains("phantom", case=False, na=False)
            found |= said.to_numpy(bool)
    return found


@dataclass(frozen=True)
class Studies:
    """The studies of an evaluation, with the facts on them.

    Attributes:
      phantoms: how many of `count`.
    """

    count: int
    phantoms: int
    about: About

    @property
    def data(self) -> str:
        """The kind of studies, in words."""
        if self.phantoms == self.count:
            kind = "phantoms: computed images with known truth, of no person"
        elif self.phantoms:
            kind = f"{self.phantoms:,} of {self.count:,} studies are phantoms, of no person"
        else:
            kind = ""
        return "; ".join(part for part in (self.about.data, kind) if part) or NOT_STATED

    @property
    def truth(self) -> str:
        """The readers of the truth, in words."""
        if self.about.truth:
            return self.about.truth
        if self.phantoms == self.count:
            return "nobody: the generator of the phantoms knows it"
        if self.phantoms:
            return f"of phantoms their generator; of the other studies {NOT_STATED}"
        return f"{NOT_STATED} (config.about.truth)"

    @property
    def outline(self) -> str:
        """The name of a true outline."""
        if self.about.truth:
            return f"the truth ({self.about.truth})"
        return "the phantom's truth" if self.phantoms == self.count else "the truth"

    @property
    def notices(self) -> list[str]:
        """Notices that a reader must not miss."""
        if not self.phantoms:
            return []
        share = "All" if self.phantoms == self.count else f"{self.phantoms:,} of {self.count:,}"
        return [
            f"{share} studies are phantoms: computed images, of no person. Results on them do not"
            " show how well the encoder works on patients."
        ]


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
    split: dict[int, str] = {}
    for task in tasks:
        # A study of several tasks counts once; its split is the same in all of them.
        split |= dict(zip(task.studies.tolist(), task.split.tolist()))
    parts = [index.iloc[[s for s, name in split.items() if name == own]] for own in SPLITS]
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
    table = Table(["", *SPLITS], [list(map(Cell, line)) for line in lines], compact=True)
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
