"""The women of a cohort by severity: what a paper's first table says of them. Axis: N women."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mmv_jax.outcomes.cohort import Cohort


@dataclass(frozen=True)
class Described:
    """A covariate of a group: mean and standard deviation of a number, or count and share of a 0/1
    column.
    """

    binary: bool
    first: float
    second: float


@dataclass(frozen=True)
class Group:
    """The women of one severity; the area is described by its quartiles."""

    name: str
    women: int
    outcomes: int
    deaths: int
    woman_years: float
    area_mm2: tuple[float, float, float]
    covariates: Mapping[str, Described]


def group_of(cohort: Cohort, mine: np.ndarray, name: str, covariates: Sequence[str]) -> Group:
    described = {
        column: _described(cohort.column(column), mine)
        for column in dict.fromkeys(("age", *covariates))
    }
    event = cohort.event[mine]
    low, middle, high = np.quantile(cohort.area_mm2[mine], (0.25, 0.5, 0.75)).tolist()
    years = float(cohort.time_years[mine].sum())
    return Group(
        name=name,
        women=int(mine.sum()),
        outcomes=int(np.sum(event == 1)),
        deaths=int(np.sum(event == 2)),
        woman_years=years,
        area_mm2=(low, middle, high),
        covariates=described,
    )


def _described(values: np.ndarray, mine: np.ndarray) -> Described:
    # Asked of all women: within a small group a number may happen to be 0 and 1 only.
    if np.isin(values, (0, 1)).all():
        return Described(True, float(values[mine].sum()), float(values[mine].mean()))
    return Described(
        False,
        float(values[mine].mean()),
        float(values[mine].std(ddof=1)) if mine.sum() > 1 else 0.0,
    )
